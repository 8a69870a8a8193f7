package compress

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"

	"github.com/klauspost/compress/zstd"
)

const (
	zstdMagic = "\x28\xb5\x2f\xfd"
	lz4Magic  = "\x04\x22\x4d\x18"
	lz4Legacy = "\x02\x21\x4c\x18" // written by lz4 -l and the build of Linux
)

// isSkippable reports whether head begins a skippable frame, which zstd and lz4 have in
// common.
func isSkippable(head []byte) bool {
	return len(head) >= 4 && head[0]&0xf0 == 0x50 && string(head[1:4]) == "\x2a\x4d\x18"
}

// newFrames decompresses zstd with a decoder, or lz4 if that follows skippable frames.
func newFrames(r io.Reader, maxWindow int64, newZstd func(io.Reader, int64) (io.Reader, func(), error)) (io.Reader, func(), error) {
	in := bufio.NewReader(r)
	for {
		head, err := in.Peek(8)
		if len(head) == 0 && err != io.EOF {
			return nil, nil, err
		}
		if bytes.HasPrefix(head, []byte(lz4Magic)) || bytes.HasPrefix(head, []byte(lz4Legacy)) {
			return newLZ4(in), func() {}, nil
		}
		if len(head) < 8 || !isSkippable(head) {
			break
		}
		size := int64(binary.LittleEndian.Uint32(head[4:]))
		if _, err := io.CopyN(io.Discard, in, 8+size); err == io.EOF {
			return nil, nil, io.ErrUnexpectedEOF
		} else if err != nil {
			return nil, nil, err
		}
	}
	return newZstd(in, maxWindow)
}

// newZstd decompresses frames in Go.
func newZstd(r io.Reader, maxWindow int64) (io.Reader, func(), error) {
	z := &zstdReader{in: &recent{r: r}, max: maxWindow}
	var err error
	z.d, err = zstd.NewReader(z.in, zstd.WithDecoderConcurrency(2), zstd.WithDecoderMaxWindow(uint64(maxWindow)), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, nil, err
	}
	return z, z.d.Close, nil
}

// zstdReader adds the size of the window to errors.
type zstdReader struct {
	d   *zstd.Decoder
	in  *recent
	max int64
}

func (z *zstdReader) Read(p []byte) (int, error) {
	n, err := z.d.Read(p)
	if errors.Is(err, zstd.ErrWindowSizeExceeded) || errors.Is(err, zstd.ErrDecoderSizeExceeded) {
		err = &MemoryError{Zstd, z.in.window(), z.max}
	}
	return n, err
}

// recent keeps the last bytes that were read. The decoder checks the size of the window
// right after it has read the header of a frame.
type recent struct {
	r    io.Reader
	last []byte
}

func (r *recent) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.last = append(r.last, p[max(0, n-maxHeader):n]...)
	r.last = r.last[max(0, len(r.last)-maxHeader):]
	return n, err
}

// maxHeader is the size of the largest header of a zstd frame (RFC 8878, section 3.1.1.1).
const maxHeader = 18

// window returns the size of the window in the last header, or 0.
func (r *recent) window() int64 {
	var h zstd.Header
	at := bytes.LastIndex(r.last, []byte(zstdMagic))
	if at < 0 || h.Decode(r.last[at:]) != nil {
		return 0
	}
	return windowSize(&h)
}

// windowSize returns the memory that a decoder needs for a frame: the window, or the whole
// content of a frame of a single segment, which has no window. It is 0 for a skippable frame.
func windowSize(h *zstd.Header) int64 {
	n := h.WindowSize
	if h.SingleSegment {
		n = h.FrameContentSize
	}
	return int64(min(n, math.MaxInt64))
}
