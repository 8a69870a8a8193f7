//go:build cgo

package squashfs

/*
#include <stddef.h>

// From the stable part of libzstd's zstd.h, which is in the directory of the
// module github.com/DataDog/zstd and cannot be included from here.
typedef struct ZSTD_CCtx_s ZSTD_CCtx;
typedef enum { ZSTD_c_compressionLevel = 100, ZSTD_c_hashLog = 102 } ZSTD_cParameter;
extern ZSTD_CCtx *ZSTD_createCCtx(void);
extern size_t ZSTD_freeCCtx(ZSTD_CCtx *);
extern size_t ZSTD_CCtx_setParameter(ZSTD_CCtx *, ZSTD_cParameter, int);
extern size_t ZSTD_compress2(ZSTD_CCtx *, void *dst, size_t capacity, const void *src, size_t size);
extern unsigned ZSTD_isError(size_t);
extern const char *ZSTD_getErrorName(size_t);
*/
import "C"

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"github.com/DataDog/zstd" // contains libzstd's sources
)

const (
	zstdLibrary = "libzstd 1.5.7" // TestLibraryVersions compares it with the module
	zstdMax     = 22
	zstdDefault = 9
)

// zstdContext owns a compression context of libzstd.
type zstdContext struct{ c *C.ZSTD_CCtx }

// zstdEncoder returns an encoder that uses libzstd's parameters for level, except
// for hashLog. As libzstd knows the size of each input, a frame has a content
// size, and its window is no larger than the input rounded up to a power of two.
func zstdEncoder(level, blockSize int) (encoder, error) {
	z := &zstdContext{C.ZSTD_createCCtx()}
	if z.c == nil {
		return nil, errors.New("libzstd: no memory for a compression context")
	}
	runtime.AddCleanup(z, func(c *C.ZSTD_CCtx) { C.ZSTD_freeCCtx(c) }, z.c)
	if err := zstdError(C.ZSTD_CCtx_setParameter(z.c, C.ZSTD_c_compressionLevel, C.int(level))); err != nil {
		return nil, err
	}
	if n := hashLog(level, blockSize); n > 0 {
		if err := zstdError(C.ZSTD_CCtx_setParameter(z.c, C.ZSTD_c_hashLog, C.int(n))); err != nil {
			return nil, err
		}
	}
	return func(dst, src []byte) ([]byte, error) {
		defer runtime.KeepAlive(z)
		if bound := zstd.CompressBound(len(src)); cap(dst) < bound {
			dst = make([]byte, bound)
		}
		dst = dst[:cap(dst)]
		n := C.ZSTD_compress2(z.c, unsafe.Pointer(unsafe.SliceData(dst)), C.size_t(len(dst)), unsafe.Pointer(unsafe.SliceData(src)), C.size_t(len(src)))
		if err := zstdError(n); err != nil {
			return nil, err
		}
		return dst[:n], nil
	}, nil
}

// zstdError returns the error that a result of libzstd stands for, or nil.
func zstdError(result C.size_t) error {
	if C.ZSTD_isError(result) == 0 {
		return nil
	}
	return fmt.Errorf("libzstd: %s", C.GoString(C.ZSTD_getErrorName(result)))
}
