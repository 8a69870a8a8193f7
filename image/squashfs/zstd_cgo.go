//go:build cgo

package squashfs

import (
	"runtime"

	"github.com/DataDog/zstd"
)

const (
	zstdLibrary = "libzstd 1.5.7" // the one inside the module, see the test
	zstdMax     = 22
	zstdDefault = 9
)

// zstdEncoder makes frames as the kernel wants them: libzstd knows the size of
// what it is given, writes it in the frame and makes no window larger than it.
func zstdEncoder(level, _ int) (encoder, error) {
	c := zstd.NewCtx()
	return func(dst, src []byte) ([]byte, error) {
		// Its finalizer frees what the C code works on, and the library does not
		// hold on to it during the last call.
		defer runtime.KeepAlive(c)
		return c.CompressLevel(dst, src, level)
	}, nil
}
