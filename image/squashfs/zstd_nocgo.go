//go:build !cgo

package squashfs

const (
	zstdMax     = 4
	zstdDefault = 4 // its best
)

var zstdLibrary = module("klauspost", "github.com/klauspost/compress")

func tuned(int) bool { return false }

func tuningCosts(_, _ int) int { return 0 }

func zstdEncoder(level, blockSize int) (encoder, error) { return klauspostZstd(level, blockSize) }

func most(int) effort { return usual }

var zstdWith func(level int, e effort) (encoder, error)
