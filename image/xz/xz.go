// Package xz reads xz streams with ulikunitz/xz, and sees when one is cut: the
// library takes a stream that ends between two blocks, without its index and
// footer, for a whole one.
package xz

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"

	"github.com/ulikunitz/xz"
)

// NewReader unpacks the streams in r, which end where r does.
func NewReader(r io.Reader) (io.Reader, error) {
	t := &tail{r: r}
	x, err := xz.NewReader(bufio.NewReaderSize(t, 1<<20))
	if err != nil {
		return nil, err
	}
	return &reader{x, t}, nil
}

type reader struct {
	x    io.Reader
	tail *tail
}

func (r *reader) Read(p []byte) (int, error) {
	n, err := r.x.Read(p)
	if err == io.EOF && !r.tail.footer() {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// tail remembers the last bytes that were read.
type tail struct {
	r    io.Reader
	last []byte
}

const kept = 4096 // a footer, and padding after it

func (t *tail) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	t.last = append(t.last, p[max(0, n-kept):n]...)
	t.last = append(t.last[:0], t.last[max(0, len(t.last)-kept):]...)
	return n, err
}

// footer tells whether what was read ends in a stream's footer (section 2.1.2 of
// the format), which zeros may follow.
func (t *tail) footer() bool {
	f := bytes.TrimRight(t.last, "\x00")
	if len(f) < 12 {
		return false
	}
	f = f[len(f)-12:]
	return string(f[10:]) == "YZ" && binary.LittleEndian.Uint32(f) == crc32.ChecksumIEEE(f[4:10])
}
