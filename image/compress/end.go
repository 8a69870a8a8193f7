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
	member := map[Format]func(*walker) error{XZ: xzStream, Zstd: zstdFrame, LZ4: lz4Frame}[f]
	if member == nil {
		return size, nil
	}
	w := &walker{r: r, at: at, size: size}
	first, err := w.take(4)
	if err != nil {
		return 0, err
	}
	for next := first; next == first; w.at -= 4 {
		w.at = at
		if err := member(w); err != nil {
			return 0, err
		}
		at = w.at
		if next, err = w.take(4); err != nil {
			break // nothing follows
		}
	}
	return at, nil
}

// walker reads a file forwards.
type walker struct {
	r        io.ReaderAt
	at, size int64
}

// take reads the next n bytes, up to 8, as a little-endian number.
func (w *walker) take(n int64) (uint64, error) {
	var b [8]byte
	if n > w.size-w.at {
		return 0, io.ErrUnexpectedEOF
	}
	if k, err := w.r.ReadAt(b[:n], w.at); k < int(n) {
		return 0, err
	}
	w.at += n
	return binary.LittleEndian.Uint64(b[:]), nil
}

func (w *walker) skip(n int64) error {
	if n > w.size-w.at {
		return io.ErrUnexpectedEOF
	}
	w.at += n
	return nil
}

// zstdFrame skips a frame (RFC 8878, sections 3.1.1 and 3.1.2).
func zstdFrame(w *walker) error {
	magic, err := w.take(4)
	if err != nil {
		return err
	}
	if magic != 0xfd2fb528 { // skippable
		n, err := w.take(4)
		if err != nil {
			return err
		}
		return w.skip(int64(n))
	}
	b, err := w.take(1)
	if err != nil {
		return err
	}
	single, checksum := b>>5&1, b>>2&1
	head := []int64{0, 1, 2, 4}[b&3] + []int64{int64(single), 2, 4, 8}[b>>6] + 1 - int64(single)
	if err := w.skip(head); err != nil {
		return err
	}
	for {
		b, err := w.take(3)
		if err != nil {
			return err
		}
		n := int64(b >> 3)
		if b>>1&3 == 1 {
			n = 1 // RLE block
		}
		if err := w.skip(n); err != nil {
			return err
		}
		if b&1 == 1 {
			return w.skip(int64(checksum) * 4)
		}
	}
}

// lz4Frame skips a frame of the LZ4 frame format, or of the legacy format, which lz4 -l and
// the build of Linux write.
func lz4Frame(w *walker) error {
	const maxBlock = 8<<20 + 8<<20/255 + 16
	magic, err := w.take(4)
	if err != nil {
		return err
	}
	switch {
	case magic == 0x184c2102:
		for w.size-w.at >= 4 {
			n, err := w.take(4)
			if err != nil {
				return err
			}
			if n == 0 || n > maxBlock { // not a block
				w.at -= 4
				return nil
			}
			if err := w.skip(int64(n)); err != nil {
				return err
			}
		}
		return nil
	case magic != 0x184d2204: // skippable
		n, err := w.take(4)
		if err != nil {
			return err
		}
		return w.skip(int64(n))
	}
	flags, err := w.take(1)
	if err != nil {
		return err
	}
	if err := w.skip(2 + int64(flags>>3&1)*8 + int64(flags&1)*4); err != nil {
		return err
	}
	for {
		n, err := w.take(4)
		if err != nil {
			return err
		}
		if n == 0 {
			return w.skip(int64(flags>>2&1) * 4)
		}
		if err := w.skip(int64(n&0x7fffffff) + int64(flags>>4&1)*4); err != nil {
			return err
		}
	}
}

// xzStream skips a stream of the .xz format (sections 2 to 4) with blocks of LZMA2.
func xzStream(w *walker) error {
	if _, err := w.take(7); err != nil {
		return err
	}
	check, err := w.take(1)
	if err != nil {
		return err
	}
	size := int64(0)
	if check &= 15; check > 0 {
		size = 4 << ((check - 1) / 3)
	}
	if err := w.skip(4); err != nil {
		return err
	}
	for {
		n, err := w.take(1)
		if err != nil {
			return err
		}
		if n == 0 {
			return xzIndex(w)
		}
		if err := w.skip(int64(n)*4 + 3); err != nil {
			return err
		}
		start := w.at
		if err := lzma2(w); err != nil {
			return err
		}
		if err := w.skip((4-(w.at-start)%4)%4 + size); err != nil {
			return err
		}
	}
}

// lzma2 skips the chunks of a block.
func lzma2(w *walker) error {
	for {
		control, err := w.take(1)
		switch {
		case err != nil:
			return err
		case control == 0:
			return nil
		case control >= 0x80:
			if _, err := w.take(2); err != nil { // uncompressed size
				return err
			}
			n, err := bigEndian16(w)
			if err != nil {
				return err
			}
			if control >= 0xc0 {
				n++ // new properties
			}
			if err := w.skip(n + 1); err != nil {
				return err
			}
		case control > 2:
			return errFormat
		default:
			n, err := bigEndian16(w)
			if err != nil {
				return err
			}
			if err := w.skip(n + 1); err != nil {
				return err
			}
		}
	}
}

func bigEndian16(w *walker) (int64, error) {
	n, err := w.take(2)
	return int64(n&0xff)<<8 | int64(n>>8), err
}

// xzIndex skips the index, whose first byte has been read, and the footer.
func xzIndex(w *walker) error {
	start := w.at - 1
	number := func() (n uint64, err error) {
		for i := 0; ; i++ {
			b, err := w.take(1)
			if err != nil {
				return 0, err
			}
			if i == 9 {
				return 0, errFormat
			}
			if n |= b & 0x7f << (7 * i); b < 0x80 {
				return n, nil
			}
		}
	}
	records, err := number()
	if err != nil {
		return err
	}
	for range records {
		for range 2 {
			if _, err := number(); err != nil {
				return err
			}
		}
	}
	return w.skip((4-(w.at-start)%4)%4 + 4 + 12)
}
