//go:build !cgo

package codec

const (
	zstdMax     = 4
	zstdDefault = 4 // the best of the Go library
)

var zstdLibrary = module("klauspost", "github.com/klauspost/compress")

func zstdEncoder(level, blockSize int) (Encoder, error) { return klauspostZstd(level, blockSize) }
