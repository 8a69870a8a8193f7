package compress

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
)

// members decompresses the members of a gzip file as gzip 1.12 does: zeros after the last
// member are ignored, and other data are reported to trailing.
type members struct {
	in       *bufio.Reader
	z        *gzip.Reader
	head     []byte // first bytes of the last member
	trailing func(int64)
	err      error
}

const gzipMagic = "\x1f\x8b"

func newGzip(r io.Reader, trailing func(int64)) (*members, error) {
	m := &members{in: bufio.NewReaderSize(r, 64<<10), z: new(gzip.Reader), trailing: trailing}
	return m, m.begin()
}

func (m *members) begin() error {
	head, _ := m.in.Peek(10)
	m.head = bytes.Clone(head)
	err := m.z.Reset(m.in)
	m.z.Multistream(false)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

func (m *members) Read(p []byte) (int, error) {
	for m.err == nil && len(p) > 0 {
		n, err := m.z.Read(p)
		if err == io.EOF {
			err = m.next()
		}
		if m.err = err; n > 0 {
			return n, nil
		}
	}
	return 0, m.err
}

// next begins the next member, or returns how the data end: [io.EOF] if nothing is lost.
func (m *members) next() error {
	head, err := m.in.Peek(2)
	switch {
	case string(head) == gzipMagic:
		return m.begin()
	case len(head) == 0:
		return err
	case len(head) == 1 && head[0] != 0 && err == io.EOF: // as in gzip
		return io.ErrUnexpectedEOF
	}
	return ignore(m.in, Gzip, m.head, m.trailing)
}

// streams decompresses the streams of a bzip2 file as bzip2 1.0.8 does: data after a stream
// that do not begin another one are ignored.
type streams struct {
	in       *lastBytes
	z        io.Reader
	trailing func(int64)
	err      error
}

func newBzip2(r io.Reader, trailing func(int64)) *streams {
	in := &lastBytes{Reader: bufio.NewReaderSize(r, 64<<10)}
	return &streams{in: in, z: bzip2.NewReader(in), trailing: trailing}
}

func (s *streams) Read(p []byte) (n int, err error) {
	if s.err != nil {
		return 0, s.err
	}
	defer func() { s.err = err }()
	n, err = s.z.Read(p)
	if err == nil || err == io.EOF {
		return n, err
	}
	over := s.in.afterEnd()
	if over == nil || len(over) == 4 && isBzip2(over) {
		return n, err
	}
	// The decoder has read up to four bytes to see whether they begin another stream.
	rest := io.MultiReader(bytes.NewReader(over), s.in.Reader)
	in := bufio.NewReader(rest)
	if head, _ := in.Peek(4); len(head) < 4 && bytes.HasPrefix([]byte("BZh"), head) {
		return n, io.ErrUnexpectedEOF
	}
	return n, ignore(in, Bzip2, s.in.head, s.trailing)
}

func isBzip2(b []byte) bool { return string(b[:3]) == "BZh" && b[3] >= '1' && b[3] <= '9' }

// lastBytes keeps the first and the last bytes that were read with ReadByte: the decoder of
// bzip2 uses nothing else.
type lastBytes struct {
	*bufio.Reader
	head []byte
	last [16]byte // ring buffer
	n    int      // bytes read
}

func (l *lastBytes) ReadByte() (byte, error) {
	b, err := l.Reader.ReadByte()
	if err == nil {
		if len(l.head) < 10 {
			l.head = append(l.head, b)
		}
		l.last[l.n%len(l.last)] = b
		l.n++
	}
	return b, err
}

// afterEnd returns the one to four bytes that were read after the end of a stream, or nil if
// none ends there. A stream ends with a magic number of 48 bits, a checksum of 32, and up to
// 7 bits of padding.
func (l *lastBytes) afterEnd() []byte {
	if l.n < len(l.last) {
		return nil
	}
	at := l.n % len(l.last)
	all := append(bytes.Clone(l.last[at:]), l.last[:at]...)
	for over := 1; over <= 4; over++ {
		tail := all[:len(all)-over]
		for pad := range 8 {
			var bits uint64 // the 48 bits before the checksum
			for i := range 48 {
				bit := len(tail)*8 - pad - 80 + i
				bits = bits<<1 | uint64(tail[bit/8]>>(7-bit%8)&1)
			}
			if bits == 0x177245385090 {
				return all[len(all)-over:]
			}
		}
	}
	return nil
}

// ignore reads the data after the end of the compressed data. Zeros are ignored without a
// message. Data that look like damaged compressed data are an error. first has the first
// bytes of the last member or stream.
func ignore(r *bufio.Reader, f Format, first []byte, trailing func(int64)) error {
	damaged := fmt.Errorf("more %s data follow the end of the %s data: the file is damaged, or several files were joined", f, f)
	if head, _ := r.Peek(len(first)); len(head) == len(first) {
		differ := 0
		for i := range head {
			if head[i] != first[i] {
				differ++
			}
		}
		if differ == 1 {
			return damaged
		}
	}
	buf := make([]byte, 64<<10)
	kept, zero := 0, true
	for n := int64(0); ; {
		k, err := r.Read(buf[kept:])
		n += int64(k)
		seen := buf[:kept+k]
		zero = zero && len(bytes.TrimLeft(seen, "\x00")) == 0
		if begins(f, seen) {
			return damaged
		}
		kept = copy(buf, seen[max(0, len(seen)-16):])
		switch {
		case err == nil:
		case !errors.Is(err, io.EOF):
			return err
		case zero:
			return io.EOF
		case trailing == nil:
			return &TrailingError{f, n}
		default:
			trailing(n)
			return io.EOF
		}
	}
}

// begins reports whether compressed data begin anywhere in b.
func begins(f Format, b []byte) bool {
	magic := map[Format]string{Gzip: gzipMagic + "\x08", Bzip2: "BZh"}[f]
	for {
		at := bytes.Index(b, []byte(magic))
		if at < 0 || len(b)-at < 10 {
			return false
		}
		b = b[at:]
		switch {
		case f == Gzip && b[3]&0xe0 == 0 && (b[8] == 0 || b[8] == 2 || b[8] == 4) && (b[9] < 14 || b[9] == 255):
			return true
		case f == Bzip2 && isBzip2(b) && string(b[4:10]) == "1AY&SY":
			return true
		}
		b = b[1:]
	}
}
