package compress

import (
	"encoding/binary"
	"errors"
	"io"
)

var errFormat = errors.New("damaged header")

// End returns the offset of the end of the consecutive streams or frames that begin at
// offset at of r, which has size bytes. It follows the structure of XZ, Zstd and LZ4 without
// decompressing; for other formats it returns size.
func End(f Format, r io.ReaderAt, at, size int64) (int64, error) {
	member := map[Format]func(*walker){XZ: xzStream, Zstd: zstdFrame, LZ4: lz4Frame}[f]
	if member == nil {
		return size, nil
	}
	w := &walker{r: r, at: at, size: size}
	first := w.take(4)
	for next := first; next == first && w.err == nil; next = w.take(4) {
		w.at = at
		member(w)
		if w.err != nil {
			break
		}
		at = w.at
		if w.at+4 > size {
			return at, nil
		}
	}
	return at, w.err
}

// walker reads a file forwards. After an error, its methods do nothing.
type walker struct {
	r        io.ReaderAt
	at, size int64
	err      error
}

// take reads the next n bytes, up to 8, as a little-endian number.
func (w *walker) take(n int64) uint64 {
	var b [8]byte
	start := w.at
	if w.skip(n); w.err != nil {
		return 0
	}
	if k, err := w.r.ReadAt(b[:n], start); k < int(n) {
		w.err = err
		return 0
	}
	return binary.LittleEndian.Uint64(b[:])
}

func (w *walker) skip(n int64) {
	switch {
	case w.err != nil:
	case n > w.size-w.at:
		w.err = io.ErrUnexpectedEOF
	default:
		w.at += n
	}
}

// zstdFrame skips a frame (RFC 8878, sections 3.1.1 and 3.1.2).
func zstdFrame(w *walker) {
	if w.take(4) != 0xfd2fb528 { // skippable
		w.skip(int64(w.take(4)))
		return
	}
	b := w.take(1)
	single, checksum := int64(b>>5&1), int64(b>>2&1)
	w.skip([]int64{0, 1, 2, 4}[b&3] + []int64{single, 2, 4, 8}[b>>6] + 1 - single)
	for w.err == nil {
		b := w.take(3)
		n := int64(b >> 3)
		if b>>1&3 == 1 {
			n = 1 // RLE block
		}
		if w.skip(n); b&1 == 1 {
			w.skip(checksum * 4)
			return
		}
	}
}

// lz4Frame skips a frame of the LZ4 frame format, or of the legacy format, which lz4 -l and
// the build of Linux write.
func lz4Frame(w *walker) {
	switch w.take(4) {
	case 0x184d2204:
	case 0x184c2102: // legacy
		for w.size-w.at >= 4 && w.err == nil {
			n := w.take(4)
			if n == 0 || n > legacyMax { // not a block
				w.at -= 4
				return
			}
			w.skip(int64(n))
		}
		return
	default: // skippable
		w.skip(int64(w.take(4)))
		return
	}
	flags := int64(w.take(1))
	w.skip(2 + flags>>3&1*8 + flags&1*4)
	for w.err == nil {
		n := int64(w.take(4))
		if n == 0 {
			w.skip(flags >> 2 & 1 * 4)
			return
		}
		w.skip(n&0x7fffffff + flags>>4&1*4)
	}
}

// xzStream skips a stream of the .xz format (sections 2 to 4) with blocks of LZMA2.
func xzStream(w *walker) {
	w.take(7)
	size := int64(0)
	if check := w.take(1) & 15; check > 0 {
		size = 4 << ((check - 1) / 3)
	}
	w.skip(4)
	for w.err == nil {
		n := w.take(1)
		if n == 0 {
			xzIndex(w)
			return
		}
		w.skip(int64(n)*4 + 3)
		start := w.at
		lzma2(w)
		w.skip((4-(w.at-start)%4)%4 + size)
	}
}

func lzma2(w *walker) {
	for w.err == nil {
		control := w.take(1)
		switch {
		case control == 0:
			return
		case control >= 0x80:
			w.skip(2) // uncompressed size
		case control > 2:
			w.err = errFormat
		}
		b := w.take(2)
		n := int64(b&0xff<<8|b>>8) + 1
		if control >= 0xc0 {
			n++ // new properties
		}
		w.skip(n)
	}
}

// xzIndex skips the index, whose first byte has been read, and the footer.
func xzIndex(w *walker) {
	start := w.at - 1
	number := func() (n uint64) {
		for i := 0; w.err == nil; i++ {
			b := w.take(1)
			if i == 9 {
				w.err = errFormat
			}
			if n |= b & 0x7f << (7 * i); b < 0x80 {
				return n
			}
		}
		return 0
	}
	for n := number(); n > 0 && w.err == nil; n-- {
		number()
		number()
	}
	w.skip((4-(w.at-start)%4)%4 + 4 + 12)
}
