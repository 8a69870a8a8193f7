//go:build cgo && liblzma

package xz

// #cgo LDFLAGS: -llzma
// #include <stdlib.h>
// #include <lzma.h>
//
// // start begins to decode, with the memory of the stream if that has the right size.
// static lzma_ret start(lzma_stream *s, uint32_t dict) {
// 	lzma_options_lzma options = { .dict_size = dict };
// 	lzma_filter filters[] = { { LZMA_FILTER_LZMA2, &options }, { LZMA_VLI_UNKNOWN, NULL } };
// 	return lzma_raw_decoder(s, filters);
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
	"sync"
	"unsafe"
)

// Library is what decompresses LZMA2.
const Library = "liblzma"

// newLZMA2 decompresses LZMA2 with liblzma, which is twice as fast as goLZMA2.
func newLZMA2(l *lzma2, dict int64) (io.Reader, error) {
	d := &decoder{l: l, coder: coders.Get().(*coder), dict: dict}
	if d.coder.s == nil || C.start(d.coder.s, C.uint32_t(min(max(dict, minDict), 1<<32-1))) != C.LZMA_OK {
		d.coder.free()
		return nil, fmt.Errorf("xz: no memory for a dictionary of %d bytes", dict)
	}
	return d, nil
}

// coder is a decoder of liblzma. It is used for many blocks, because new memory for each of them
// is slow, unless its dictionary is large.
type coder struct {
	s       *C.lzma_stream
	buf     []byte // large: each call of C costs the scheduler some switches of threads
	cleanup runtime.Cleanup
}

var coders = sync.Pool{New: func() any {
	c := &coder{s: (*C.lzma_stream)(C.calloc(1, C.sizeof_lzma_stream)), buf: make([]byte, 1<<20)}
	c.cleanup = runtime.AddCleanup(c, func(s *C.lzma_stream) { C.stop(s) }, c.s)
	return c
}}

func (c *coder) free() {
	c.cleanup.Stop()
	C.stop(c.s)
}

type decoder struct {
	l     *lzma2
	lErr  error // of l
	coder *coder
	dict  int64
	in    []byte // in coder.buf
	err   error
}

func (d *decoder) Read(p []byte) (int, error) {
	for d.err == nil && len(p) > 0 {
		if len(d.in) == 0 && !d.fill() {
			break
		}
		in, out := C.size_t(len(d.in)), C.size_t(len(p))
		ret := C.code(d.coder.s, (*C.uint8_t)(unsafe.Pointer(&d.in[0])), &in, (*C.uint8_t)(unsafe.Pointer(&p[0])), &out)
		d.in = d.in[in:]
		switch ret {
		case C.LZMA_OK:
		case C.LZMA_STREAM_END:
			var more [1]byte
			n, _ := d.l.Read(more[:])
			disagree := len(d.in) > 0 || n > 0
			if d.end(io.EOF); disagree {
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

// fill reads compressed data, or ends the decoder if there are none.
func (d *decoder) fill() bool {
	n := 0
	for n < len(d.coder.buf) && d.lErr == nil {
		var k int
		k, d.lErr = d.l.Read(d.coder.buf[n:])
		n += k
	}
	if n == 0 {
		d.end(unexpectedEOF(d.lErr))
		return false
	}
	d.in = d.coder.buf[:n]
	return true
}

// end frees the memory of the decoder, or keeps it for another one.
func (d *decoder) end(err error) {
	d.err = err
	if d.dict > keepDict {
		d.coder.free()
	} else {
		coders.Put(d.coder)
	}
	d.coder, d.in = nil, nil
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
