package image

import (
	"fmt"
	"io"
	"iter"
	"sort"
)

// Segment is a run of Len bytes at offset At of a [Mapped], which are at offset Off of the
// reader.
type Segment struct{ At, Off, Len int64 }

// Mapped is a [Content] with segments of a reader and zeros between them. It implements
// [Sparse].
type Mapped struct {
	r        io.ReaderAt
	size     int64
	segments []Segment
}

// NewMapped returns a content of size bytes. The segments are in order of At, not empty, and
// do not overlap; bytes after size are left out.
func NewMapped(r io.ReaderAt, size int64, segments []Segment) *Mapped {
	return &Mapped{r, size, segments}
}

// Size returns the size in bytes.
func (m *Mapped) Size() int64 { return m.size }

// next returns the index of the first segment that ends after off.
func (m *Mapped) next(off int64) int {
	return sort.Search(len(m.segments), func(i int) bool { return m.segments[i].At+m.segments[i].Len > off })
}

// Hole implements [Sparse].
func (m *Mapped) Hole(off int64) int64 {
	end := m.size
	if i := m.next(off); i < len(m.segments) {
		end = min(end, m.segments[i].At)
	}
	return max(0, end-off)
}

// Runs yields the runs of data for [Runs].
func (m *Mapped) Runs() iter.Seq[Span] {
	return func(yield func(Span) bool) {
		for _, p := range m.segments {
			if n := min(p.Len, m.size-p.At); n <= 0 || !yield(Span{p.At, n}) {
				return
			}
		}
	}
}

// ReadAt implements [io.ReaderAt].
func (m *Mapped) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("reading at %d: negative offset", off)
	}
	if off >= m.size {
		return 0, io.EOF
	}
	var short error
	if int64(len(p)) > m.size-off {
		p, short = p[:m.size-off], io.EOF
	}
	for i, n := m.next(off), 0; n < len(p); {
		at, rest := off+int64(n), p[n:]
		if i == len(m.segments) {
			clear(rest)
			break
		}
		segment := m.segments[i]
		if at < segment.At {
			zeros := rest[:min(int64(len(rest)), segment.At-at)]
			clear(zeros)
			n += len(zeros)
			continue
		}
		part := rest[:min(int64(len(rest)), segment.At+segment.Len-at)]
		k, err := ReadFull(m.r, part, segment.Off+at-segment.At)
		if n += k; err != nil {
			return n, err
		}
		i++
	}
	return len(p), short
}
