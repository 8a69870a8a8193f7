package image

import (
	"bytes"
	"io"
	"iter"
)

// Content is data of a known size in bytes that can be read at any offset, repeatedly
// and by several goroutines at once. [bytes.Reader], [strings.Reader],
// [io.SectionReader] and [Image] implement it.
type Content interface {
	io.ReaderAt
	Size() int64
}

// Sparse is a Content that knows its holes, which read as zeros.
type Sparse interface {
	Content
	// Hole returns the number of bytes from off that are known to be zeros without
	// reading them.
	Hole(off int64) int64
}

// Hole returns the number of bytes of c from off that are known to be zeros without
// reading them, or 0.
func Hole(c Content, off int64) int64 {
	if s, ok := c.(Sparse); ok {
		return s.Hole(off)
	}
	return 0
}

// Runs returns the runs of c outside its known holes, in order. If c has a method Runs
// it is used; otherwise only holes that begin at a multiple of Block are found.
func Runs(c Content) iter.Seq[Span] {
	if l, ok := c.(interface{ Runs() iter.Seq[Span] }); ok {
		return l.Runs()
	}
	return func(yield func(Span) bool) {
		run, off := Span{}, int64(0)
		if _, sparse := c.(Sparse); !sparse {
			run.Len, off = c.Size(), c.Size()
		}
		for off < c.Size() {
			if hole := Hole(c, off); hole > 0 {
				if run.Len > 0 && !yield(run) {
					return
				}
				off += hole
				run = Span{off, 0}
				continue
			}
			n := min(c.Size()-off, Block-off%Block)
			run.Len += n
			off += n
		}
		if run.Len > 0 {
			yield(run)
		}
	}
}

// Zeros returns a Content of n zero bytes, which are written and verified.
func Zeros(n int64) Content { return NewMapped(nil, n, nil) }

// ReadFull reads len(p) bytes of r at off and returns the number of bytes read. The
// error is nil if and only if all were read; at the end of r it is
// [io.ErrUnexpectedEOF].
func ReadFull(r io.ReaderAt, p []byte, off int64) (int, error) {
	n, err := r.ReadAt(p, off)
	switch {
	case n == len(p):
		return n, nil
	case err == nil || err == io.EOF:
		return n, io.ErrUnexpectedEOF
	}
	return n, err
}

// Head returns the first n bytes, or all of them if there are fewer.
func Head(c Content, n int64) ([]byte, error) {
	head := make([]byte, min(n, c.Size()))
	k, err := c.ReadAt(head, 0)
	if err == io.EOF {
		err = nil
	}
	return head[:k], err
}

// LeadingZeros returns the number of zeros at the start of p.
func LeadingZeros(p []byte) int {
	const block = 4 << 10
	n := 0
	for len(p)-n >= block && IsZero(p[n:n+block]) {
		n += block
	}
	return len(p) - len(bytes.TrimLeft(p[n:], "\x00"))
}

// IsZero reports whether all bytes of p are zero.
func IsZero(p []byte) bool {
	return len(p) == 0 || p[0] == 0 && bytes.Equal(p[1:], p[:len(p)-1])
}
