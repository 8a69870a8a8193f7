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

// members unpacks the members of a gzip file as gzip 1.12 does: zeros behind the last one
// are ignored, and other data are told to trailing.
type members struct {
	in       *bufio.Reader
	z        *gzip.Reader
	head     []byte // of the last member
	trailing func(int64)
	err      error
}

const gzipMagic = "\x1f\x8b"

func newGzip(r io.Reader, trailing func(int64)) (*members, error) {
	m := &members{in: bufio.NewReaderSize(r, 64<<10), z: new(gzip.Reader), trailing: trailing}
	return m, m.begin()
}

// begin reads the header of a member.
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

// next begins the next member, or ends in an error, io.EOF if nothing is lost.
func (m *members) next() error {
	head, err := m.in.Peek(2)
	switch {
	case string(head) == gzipMagic:
		return m.begin()
	case len(head) == 0:
		return err
	case len(head) == 1 && head[0] != 0 && err == io.EOF: // as gzip has it
		return io.ErrUnexpectedEOF
	}
	return ignore(m.in, Gzip, m.head, m.trailing)
}

// streams unpacks the streams of a bzip2 file as bzip2 1.0.8 does: data that do not begin
// as a stream are ignored behind the first one.
type streams struct {
	in       *lastBytes
	z        io.Reader
	trailing func(int64)
	err      error
}

func newBzip2(r io.Reader, trailing func(int64)) *streams {
	in := &lastBytes{in: bufio.NewReaderSize(r, 64<<10)}
	return &streams{in: in, z: bzip2.NewReader(in), trailing: trailing}
}

func (s *streams) Read(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	n, err := s.read(p)
	s.err = err
	return n, err
}

func (s *streams) read(p []byte) (int, error) {
	n, err := s.z.Read(p)
	if err == nil || err == io.EOF {
		return n, err
	}
	over := s.in.behindEnd()
	if over == nil || len(over) == 4 && isBzip2(over) {
		return n, err
	}
	// The decoder looked at up to four bytes to see that they begin no stream.
	rest := io.MultiReader(bytes.NewReader(over), s.in.in)
	in := bufio.NewReader(rest)
	if head, _ := in.Peek(4); len(head) < 4 && bytes.HasPrefix([]byte("BZh"), head) {
		return n, io.ErrUnexpectedEOF
	}
	return n, ignore(in, Bzip2, s.in.head, s.trailing)
}

func isBzip2(b []byte) bool { return string(b[:3]) == "BZh" && b[3] >= '1' && b[3] <= '9' }

// lastBytes remembers the first and the last bytes that were read.
type lastBytes struct {
	in   *bufio.Reader
	head []byte
	last [16]byte // as a ring
	n    int      // bytes read
}

func (l *lastBytes) ReadByte() (byte, error) {
	b, err := l.in.ReadByte()
	if err == nil {
		if len(l.head) < 10 {
			l.head = append(l.head, b)
		}
		l.last[l.n%len(l.last)] = b
		l.n++
	}
	return b, err
}

func (l *lastBytes) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	b, err := l.ReadByte()
	if err != nil {
		return 0, err
	}
	p[0] = b
	return 1, nil
}

// behindEnd is what was read after the end of a stream, one to four bytes, or nil if the
// last bytes are something else. A stream ends with 48 bits that are always the same, 32
// of checksum, and up to 7 to the end of a byte.
func (l *lastBytes) behindEnd() []byte {
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

// ignore reads what follows the end of the compressed data. Zeros need no word. What may
// be more compressed data that was damaged is an error. first is how the data before
// began.
func ignore(r *bufio.Reader, f Format, first []byte, trailing func(int64)) error {
	damaged := fmt.Errorf("its %s data end, and other %s data follow in the file: it is damaged, or joined of several", f, f)
	if head, _ := r.Peek(len(first)); len(head) == len(first) && distance(head, first) == 1 {
		return damaged
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

// distance is in how many bytes a and b differ.
func distance(a, b []byte) (n int) {
	for i := range a {
		if a[i] != b[i] {
			n++
		}
	}
	return n
}

// begins says whether compressed data begin anywhere in b.
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
