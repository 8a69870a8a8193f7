//go:build !cgo

package squashfs

const (
	zstdMax     = 4
	zstdDefault = 4 // its best
)

var zstdLibrary = module("klauspost", "github.com/klauspost/compress")

func zstdEncoder(level, blockSize int) (encoder, error) { return klauspostZstd(level, blockSize) }
