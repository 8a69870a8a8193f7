//go:build cgo && liblzma

package xz

// #cgo LDFLAGS: -llzma
// #include <stdlib.h>
// #include <lzma.h>
//
// static lzma_stream *start(uint32_t dict) {
// 	lzma_stream *s = calloc(1, sizeof *s);
// 	lzma_options_lzma options = { .dict_size = dict };
// 	lzma_filter filters[] = { { LZMA_FILTER_LZMA2, &options }, { LZMA_VLI_UNKNOWN, NULL } };
// 	if (s && lzma_raw_decoder(s, filters) != LZMA_OK) {
// 		free(s);
// 		s = NULL;
// 	}
// 	return s;
// }
//
// // code keeps no pointer to in and out.
// static lzma_ret code(lzma_stream *s, const uint8_t *in, size_t *n_in, uint8_t *out, size_t *n_out) {
// 	s->next_in = in, s->avail_in = *n_in, s->next_out = out, s->avail_out = *n_out;
// 	lzma_ret ret = lzma_code(s, LZMA_RUN);
// 	*n_in -= s->avail_in, *n_out -= s->avail_out;
// 	s->next_in = NULL, s->next_out = NULL;
// 	return ret;
// }
//
// static void stop(lzma_stream *s) { lzma_end(s); free(s); }
import "C"

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"runtime"
	"unsafe"
)

// Library is what decompresses LZMA2.
const Library = "liblzma"

// newLZMA2 decompresses LZMA2 with liblzma, which is twice as fast as goLZMA2.
func newLZMA2(l *lzma2, dict int64) (io.Reader, error) {
	d := &decoder{l: l, s: C.start(C.uint32_t(min(max(dict, 4096), 1<<32-1))), buf: make([]byte, 64<<10)}
	if d.s == nil {
		return nil, fmt.Errorf("xz: no memory for a dictionary of %d bytes", dict)
	}
	d.cleanup = runtime.AddCleanup(d, func(s *C.lzma_stream) { C.stop(s) }, d.s)
	return d, nil
}

type decoder struct {
	l       *lzma2
	s       *C.lzma_stream
	cleanup runtime.Cleanup
	buf, in []byte
	err     error
}

func (d *decoder) Read(p []byte) (int, error) {
	for d.err == nil && len(p) > 0 {
		if len(d.in) == 0 {
			n, err := io.ReadAtLeast(d.l, d.buf, 1)
			if err != nil {
				d.end(unexpectedEOF(err))
				break
			}
			d.in = d.buf[:n]
		}
		in, out := C.size_t(len(d.in)), C.size_t(len(p))
		ret := C.code(d.s, (*C.uint8_t)(unsafe.Pointer(&d.in[0])), &in, (*C.uint8_t)(unsafe.Pointer(&p[0])), &out)
		d.in = d.in[in:]
		switch ret {
		case C.LZMA_OK:
		case C.LZMA_STREAM_END:
			d.end(io.EOF)
			if n, _ := d.l.Read(d.buf[:1]); len(d.in) > 0 || n > 0 {
				d.err = errData // the decoder and lzma2 disagree on the end
			}
		case C.LZMA_MEM_ERROR:
			d.end(errors.New("xz: out of memory"))
		default:
			d.end(errData)
		}
		if out > 0 {
			return int(out), nil
		}
	}
	return 0, d.err
}

// end frees the memory of the decoder.
func (d *decoder) end(err error) {
	d.err = err
	d.cleanup.Stop()
	C.stop(d.s)
	d.s = nil
}

// newCRC64 computes a CRC-64 with liblzma, which is several times as fast as hash/crc64.
func newCRC64() hash.Hash { return new(sum64) }

type sum64 uint64

func (s *sum64) Write(p []byte) (int, error) {
	if len(p) > 0 {
		*s = sum64(C.lzma_crc64((*C.uint8_t)(unsafe.Pointer(&p[0])), C.size_t(len(p)), C.uint64_t(*s)))
	}
	return len(p), nil
}

func (s *sum64) Sum(b []byte) []byte { return binary.BigEndian.AppendUint64(b, uint64(*s)) }
func (s *sum64) Reset()              { *s = 0 }
func (s *sum64) Size() int           { return 8 }
func (s *sum64) BlockSize() int      { return 1 }
