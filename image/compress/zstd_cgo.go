//go:build cgo

package compress

// The prototypes are from zstd.h of libzstd 1.5.7, whose sources are in the module
// github.com/DataDog/zstd and cannot be included from here. They are its stable interface.

// #include <stddef.h>
//
// typedef struct ZSTD_DCtx_s ZSTD_DCtx;
// typedef struct { const void *src; size_t size; size_t pos; } ZSTD_inBuffer;
// typedef struct { void *dst; size_t size; size_t pos; } ZSTD_outBuffer;
// ZSTD_DCtx *ZSTD_createDCtx(void);
// size_t ZSTD_freeDCtx(ZSTD_DCtx *);
// size_t ZSTD_DCtx_setParameter(ZSTD_DCtx *, int, int);
// size_t ZSTD_decompressStream(ZSTD_DCtx *, ZSTD_outBuffer *, ZSTD_inBuffer *);
// unsigned ZSTD_isError(size_t);
// const char *ZSTD_getErrorName(size_t);
//
// static ZSTD_DCtx *zstd_start(void) {
// 	ZSTD_DCtx *d = ZSTD_createDCtx();
// 	if (d)
// 		ZSTD_DCtx_setParameter(d, 100, 31); // ZSTD_d_windowLogMax: windows are limited before
// 	return d;
// }
//
// static size_t zstd_decode(ZSTD_DCtx *d, const void *in, size_t *n_in, void *out, size_t *n_out) {
// 	ZSTD_inBuffer i = { in, *n_in, 0 };
// 	ZSTD_outBuffer o = { out, *n_out, 0 };
// 	size_t ret = ZSTD_decompressStream(d, &o, &i);
// 	*n_in = i.pos, *n_out = o.pos;
// 	return ret;
// }
import "C"

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"unsafe"

	_ "github.com/DataDog/zstd" // contains libzstd's sources
	"github.com/klauspost/compress/zstd"
)

// newFastZstd decompresses frames with libzstd, in a third of the CPU time of newZstd. It must
// be closed.
func newFastZstd(r io.Reader, maxWindow int64) (io.Reader, func(), error) {
	d := C.zstd_start()
	if d == nil {
		return nil, nil, errors.New("zstd: out of memory")
	}
	return &libzstd{in: bufio.NewReaderSize(r, 256<<10), max: maxWindow, d: d, start: true}, func() { C.ZSTD_freeDCtx(d) }, nil
}

type libzstd struct {
	in    *bufio.Reader
	max   int64
	d     *C.ZSTD_DCtx
	start bool // at the start of a frame
	full  bool // the decoder may have more data without more input
}

func (z *libzstd) Read(p []byte) (int, error) {
	for len(p) > 0 {
		if z.start {
			if err := z.header(); err != nil {
				return 0, err
			}
			z.start = false
		}
		if z.in.Buffered() == 0 && !z.full {
			if _, err := z.in.Peek(1); err == io.EOF {
				return 0, io.ErrUnexpectedEOF
			} else if err != nil {
				return 0, err
			}
		}
		b, _ := z.in.Peek(z.in.Buffered())
		var in unsafe.Pointer
		if len(b) > 0 {
			in = unsafe.Pointer(&b[0])
		}
		used, n := C.size_t(len(b)), C.size_t(len(p))
		ret := C.zstd_decode(z.d, in, &used, unsafe.Pointer(&p[0]), &n)
		if C.ZSTD_isError(ret) != 0 {
			return 0, fmt.Errorf("zstd: %s", C.GoString(C.ZSTD_getErrorName(ret)))
		}
		z.in.Discard(int(used))
		z.start = ret == 0
		z.full = int(n) == len(p)
		if n > 0 {
			return int(n), nil
		}
	}
	return 0, nil
}

// header checks the window of the next frame, or returns [io.EOF] if there is none.
func (z *libzstd) header() error {
	b, err := z.in.Peek(maxHeader)
	if len(b) == 0 {
		return err
	}
	if err != nil && err != io.EOF {
		return err
	}
	var h zstd.Header
	if h.Decode(b) != nil {
		return nil // the decoder says what is wrong
	}
	if n := windowSize(&h); n > z.max {
		return &MemoryError{Zstd, n, z.max}
	}
	return nil
}
