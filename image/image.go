// Package image represents a disk image as a value: a size and a sorted list of named
// extents, each an offset and a [Content]. An [Image] is a Content too, so images nest.
//
// Between extents an image reads as zeros. Only extents are written and verified; use
// [Zeros] for zeros that must be on the disk.
//
// The package knows no formats, boards or disks, and opens no files. It depends on the
// standard library only, apart from the errors of [imgtool/image/fault].
package image

import (
	"cmp"
	"fmt"
	"io"
	"iter"
	"slices"
	"sort"
)

const (
	// Block is the alignment of chunks in bytes: the largest logical sector size in
	// use, so that any disk can be written in whole chunks.
	Block = 4096

	// PieceSize is the size in bytes of the pieces that are hashed, written and
	// verified as a whole.
	PieceSize = 4 << 20
)

// Extent is a named Content at an offset, in bytes from the start of the image.
type Extent struct {
	Name string
	Off  int64
	Content
}

// End returns the offset of the first byte after e.
func (e Extent) End() int64 { return e.Off + e.Size() }

// Image is an immutable list of extents. The zero value is an empty image.
type Image struct {
	size    int64
	extents []Extent
}

// New returns an image of size bytes with the given extents, which may be in any order.
// Extents that overlap or end after size are an error; empty extents are dropped.
func New(size int64, extents ...Extent) (*Image, error) {
	if size < 0 {
		return nil, fmt.Errorf("invalid image size %d: it is negative", size)
	}
	m := &Image{size: size, extents: make([]Extent, 0, len(extents))}
	for _, e := range extents {
		if e.Off < 0 || e.Size() < 0 || e.Size() > size-e.Off {
			return nil, fmt.Errorf("%s: bytes %d to %d do not fit in an image of %d bytes", e.Name, e.Off, e.End(), size)
		}
		if e.Size() > 0 {
			m.extents = append(m.extents, e)
		}
	}
	slices.SortStableFunc(m.extents, func(a, b Extent) int { return cmp.Compare(a.Off, b.Off) })
	for i := 1; i < len(m.extents); i++ {
		if a, b := m.extents[i-1], m.extents[i]; b.Off < a.End() {
			return nil, fmt.Errorf("%s (bytes %d to %d) overlaps %s (bytes %d to %d)", b.Name, b.Off, b.End(), a.Name, a.Off, a.End())
		}
	}
	return m, nil
}

// Size returns the size of the image in bytes.
func (m *Image) Size() int64 { return m.size }

// ReadAt implements [io.ReaderAt]. Bytes outside the extents are zeros.
func (m *Image) ReadAt(p []byte, off int64) (int, error) {
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
	n := 0
	for i := m.after(off); n < len(p); {
		at, rest := off+int64(n), p[n:]
		if i == len(m.extents) {
			clear(rest)
			return len(p), short
		}
		e := m.extents[i]
		if e.Off > at {
			hole := min(int64(len(rest)), e.Off-at)
			clear(rest[:hole])
			n += int(hole)
			continue
		}
		k, err := ReadFull(e, rest[:min(int64(len(rest)), e.End()-at)], at-e.Off)
		n += k
		i++
		if err != nil && e.Name != "" {
			err = fmt.Errorf("reading %s at %d: %w", e.Name, at-e.Off+int64(k), err)
		}
		if err != nil {
			return n, err
		}
	}
	return n, short
}

// after returns the index of the first extent that ends after off.
func (m *Image) after(off int64) int {
	return sort.Search(len(m.extents), func(i int) bool { return m.extents[i].End() > off })
}

// Extents returns the extents of the image in order. Those of nested images have their
// absolute offset and the name "outer/inner".
func (m *Image) Extents() iter.Seq[Extent] {
	return func(yield func(Extent) bool) { m.leaves("", 0, yield) }
}

func (m *Image) leaves(prefix string, base int64, yield func(Extent) bool) bool {
	for _, e := range m.extents {
		e.Name, e.Off = prefix+e.Name, base+e.Off
		if inner, ok := e.Content.(*Image); ok {
			if !inner.leaves(e.Name+"/", e.Off, yield) {
				return false
			}
		} else if !yield(e) {
			return false
		}
	}
	return true
}

// Spans returns the runs of content in order, extended to multiples of Block but not
// beyond the end of the image. Adjacent runs are merged.
func (m *Image) Spans() iter.Seq[Span] {
	return func(yield func(Span) bool) {
		var run Span
		for e := range m.Extents() {
			start := e.Off / Block * Block
			end := min(m.size, (e.End()+Block-1)/Block*Block)
			if run.Len > 0 && start <= run.End() {
				run.Len = max(run.End(), end) - run.Off
				continue
			}
			if run.Len > 0 && !yield(run) {
				return
			}
			run = Span{start, end - start}
		}
		if run.Len > 0 {
			yield(run)
		}
	}
}

// Overlay returns the image with the patches in place of its own content. Patches may
// cover parts of extents and the gaps between them.
func (m *Image) Overlay(patches ...Extent) (*Image, error) {
	over, err := New(m.size, patches...)
	if err != nil {
		return nil, err
	}
	extents := slices.Clone(over.extents)
	var covered []Span
	for _, p := range over.extents {
		covered = append(covered, Span{p.Off, p.Size()})
	}
	for e := range m.Extents() {
		for _, s := range Subtract([]Span{{e.Off, e.Size()}}, covered) {
			left := e
			if s.Len < e.Size() {
				left.Off, left.Content = s.Off, io.NewSectionReader(e.Content, s.Off-e.Off, s.Len)
			}
			extents = append(extents, left)
		}
	}
	return New(m.size, extents...)
}

// Pieces returns the spans, split at multiples of size, which must be a multiple of
// Block.
func (m *Image) Pieces(size int64) iter.Seq[Span] {
	if size <= 0 || size%Block != 0 {
		panic("image: internal error: the piece size is not a multiple of Block")
	}
	return func(yield func(Span) bool) {
		for run := range m.Spans() {
			for run.Len > 0 {
				n := min(run.Len, size-run.Off%size)
				if !yield(Span{run.Off, n}) {
					return
				}
				run = Span{run.Off + n, run.Len - n}
			}
		}
	}
}

// ContentSize returns the number of bytes that [Image.Chunks] reads: the sum of the spans.
func (m *Image) ContentSize() int64 {
	var n int64
	for run := range m.Spans() {
		n += run.Len
	}
	return n
}

// Chunk is a piece of content with its data. Off and len(Data) are multiples of Block,
// except at the end of an image whose size is not. The receiver owns Data.
type Chunk struct {
	Off  int64
	Data []byte
}

// Chunks reads the content in order, in pieces that end at multiples of size. The
// sequence ends after an error.
func (m *Image) Chunks(size int64) iter.Seq2[Chunk, error] {
	return func(yield func(Chunk, error) bool) {
		for s := range m.Pieces(size) {
			c := Chunk{s.Off, make([]byte, s.Len)}
			if _, err := m.ReadAt(c.Data, s.Off); err != nil && err != io.EOF {
				yield(Chunk{}, err)
				return
			}
			if !yield(c, nil) {
				return
			}
		}
	}
}
