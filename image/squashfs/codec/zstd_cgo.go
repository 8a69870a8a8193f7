//go:build cgo

package codec

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

// hashLog returns log2 of the entries of libzstd's hash table for blocks of
// blockSize bytes at level, or 0 for libzstd's own. It is the only parameter that
// differs from libzstd's.
//
// At the levels 5 to 12 and blocks above 256 KiB, libzstd's own tables have up to
// 2^21 entries and exceed the second-level cache of a processor. With 2^19, the
// compression of 60 blocks of 1 MiB of a Debian root file system, relative to
// libzstd's own parameters, took (on an AMD EPYC):
//
//	level   5     7     8     9     10    11    12
//	time    0.94  0.87  0.85  0.80  0.83  0.77  0.76
//	size    1.0000 to 1.0012
//
// 2^18 entries gave 0.72 of the time and 1.0041 of the size at level 9. With
// libzstd's own table, a squashfs at the default level took 0.92 of the processor
// time of mksquashfs.
func hashLog(level, blockSize int) int {
	if level >= 5 && level <= 12 && blockSize > 256<<10 {
		return 19
	}
	return 0
}

// zstdContext owns a compression context of libzstd.
type zstdContext struct{ c *C.ZSTD_CCtx }

// zstdEncoder returns an encoder that uses libzstd's parameters for level, except
// for hashLog. As libzstd knows the size of each input, a frame has a content
// size, and its window has at most the size of the input rounded up to a power of two.
func zstdEncoder(level, blockSize int) (Encoder, error) {
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
