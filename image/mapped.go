package image

import (
	"io"
	"iter"
)

// Segment is a run of Len bytes at offset At of a [Mapped], which are at offset Off of the
// reader.
type Segment struct{ At, Off, Len int64 }

// Mapped is a [Content] with segments of a reader and zeros between them. It implements
// [Sparse].
type Mapped struct{ image Image }

// NewMapped returns a content of size bytes. The segments are in order of At, not empty, and
// do not overlap; bytes after size are left out.
func NewMapped(r io.ReaderAt, size int64, segments []Segment) *Mapped {
	m := &Mapped{Image{size, make([]Extent, 0, len(segments))}}
	for _, s := range segments {
		if n := min(s.Len, size-s.At); n > 0 {
			m.image.extents = append(m.image.extents, Extent{Off: s.At, Content: io.NewSectionReader(r, s.Off, n)})
		}
	}
	return m
}

// Size returns the size in bytes.
func (m *Mapped) Size() int64 { return m.image.size }

// Hole implements [Sparse].
func (m *Mapped) Hole(off int64) int64 {
	end := m.image.size
	if i := m.image.after(off); i < len(m.image.extents) {
		end = m.image.extents[i].Off
	}
	return max(0, end-off)
}

// Runs yields the runs of data for [Runs].
func (m *Mapped) Runs() iter.Seq[Span] {
	return func(yield func(Span) bool) {
		for _, e := range m.image.extents {
			if !yield(Span{e.Off, e.Size()}) {
				return
			}
		}
	}
}

// ReadAt implements [io.ReaderAt].
func (m *Mapped) ReadAt(p []byte, off int64) (int, error) { return m.image.ReadAt(p, off) }
