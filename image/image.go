// Package image is the one idea imgtool stands on: an image is a value, a size
// and a sorted list of named extents, each a place and something to read from.
// It is itself something to read from, so images nest.
//
// Between extents an image reads as zeros; only extents are written and
// verified. Zeros that matter are an explicit Zeros extent.
//
// The package knows no format, no board and no disk, and opens no file. What is
// built on it, and which way the imports point (a test keeps it so):
//
//	cmd/imgtool   people: flags, words, progress, exit statuses
//	  |-> flash            disks of this machine             imports image only
//	  |-> image/build      where definitions meet bytes
//	  |     |-> image/{gpt,mbr,fat,squashfs,ext4,swap,uboot}   one package per on-disk format
//	  |     |-> image/tree     a root file system as a value
//	  |     |-> image/edit     changes to one as data, on image/{extlinux,fstab}
//	  |     |-> image/source   where inputs come from
//	  |     |-> image/seed     the seed configuration of an AtomixOS device
//	  |     `-> boards -> layouts   what a board holds, where things go
//	  |-> image/partition  the partition table of an image or disk, on image/{gpt,mbr}
//	  |-> image/artifact   .img, .img.zst, .img.xz, .img.gz, manifest, bmap
//	  |-> image/simg       Android sparse images
//	  |-> image/parallel   parallel map, results in input order
//	  |-> image/xz         reading xz
//	  `-> image            standard library only
package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"slices"
)

const (
	// Block is what the ends of every chunk are rounded to: the largest logical
	// sector in use, so that any disk takes a chunk as it is.
	Block = 4096

	// PieceSize is the chunk size used for files, disks and manifests alike.
	PieceSize = 4 << 20
)

// Content is bytes of a known size that can be read anywhere, any number of
// times and by several goroutines at once. *bytes.Reader, *strings.Reader,
// *io.SectionReader and *Image are Contents.
type Content interface {
	io.ReaderAt
	Size() int64
}

// Sparse is a Content that knows where it has nothing but zeros.
type Sparse interface {
	Content
	// Hole is how many bytes from off on are zeros, as far as that is known
	// without reading them.
	Hole(off int64) int64
}

// Hole is how many bytes of c from off on are known to be zeros without reading
// them: 0 where nothing is known.
func Hole(c Content, off int64) int64 {
	if s, ok := c.(Sparse); ok {
		return s.Hole(off)
	}
	return 0
}

// Runs gives, in order, the runs of c outside of its known holes. Where c can list
// them itself, it does; otherwise holes are found that begin at a multiple of Block.
func Runs(c Content) iter.Seq[Span] {
	if l, ok := c.(interface{ Runs() iter.Seq[Span] }); ok {
		return l.Runs()
	}
	return func(yield func(Span) bool) {
		_, sparse := c.(Sparse)
		run := Span{}
		for off := int64(0); off < c.Size(); {
			n := c.Size() - off
			if sparse {
				n = min(n, Block)
				if hole := Hole(c, off); hole > 0 {
					if run.Len > 0 && !yield(run) {
						return
					}
					// A hole that ends inside a block is taken up to there; the rest is data.
					off += hole
					run = Span{off, 0}
					continue
				}
				n = min(n, Block-off%Block)
			}
			run.Len += n
			off += n
		}
		if run.Len > 0 {
			yield(run)
		}
	}
}

// Extent is a named Content at a place, in bytes from the start.
type Extent struct {
	Name string
	Off  int64
	Content
}

// End is the offset of the first byte after e.
func (e Extent) End() int64 { return e.Off + e.Size() }

// Image is an immutable list of extents. The zero value is an empty image.
type Image struct {
	size    int64
	extents []Extent
}

// New returns the image of size bytes that holds the extents, in any order. It
// refuses an extent that overlaps another or ends after size; empty extents are
// left out.
func New(size int64, extents ...Extent) (*Image, error) {
	if size < 0 {
		return nil, fmt.Errorf("an image of %d bytes cannot be", size)
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

// Size is the size of the image in bytes.
func (m *Image) Size() int64 { return m.size }

// ReadAt reads extents where there are any and zeros elsewhere.
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
	i, found := slices.BinarySearchFunc(m.extents, off, func(e Extent, off int64) int { return cmp.Compare(e.Off, off) })
	if !found && i > 0 {
		i--
	}
	n := 0
	for ; n < len(p); i++ {
		at := off + int64(n)
		if i >= len(m.extents) {
			clear(p[n:])
			n = len(p)
			break
		}
		e := m.extents[i]
		if e.End() <= at {
			continue
		}
		if e.Off > at {
			hole := p[n:min(int64(len(p)), int64(n)+e.Off-at)]
			clear(hole)
			n += len(hole)
			at += int64(len(hole))
		}
		if n == len(p) {
			break
		}
		part := p[n:min(int64(len(p)), int64(n)+e.End()-at)]
		k, err := ReadFull(e, part, at-e.Off)
		n += k
		if err != nil {
			return n, fmt.Errorf("reading %s at %d: %w", e.Name, at-e.Off+int64(k), err)
		}
	}
	return n, short
}

// Extents are the leaves of the image in order: extents of nested images stand
// at their absolute place as "outer/inner".
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

// Span is a run of bytes.
type Span struct{ Off, Len int64 }

// End is the offset of the first byte after s.
func (s Span) End() int64 { return s.Off + s.Len }

// Subtract is what of the spans in a lies in none of b: in order, and runs that
// overlap or touch joined.
func Subtract(a, b []Span) []Span {
	byPlace := func(s []Span) []Span {
		return slices.SortedFunc(slices.Values(s), func(x, y Span) int { return cmp.Compare(x.Off, y.Off) })
	}
	var joined []Span
	for _, s := range byPlace(a) {
		if n := len(joined); n > 0 && s.Off <= joined[n-1].End() {
			joined[n-1].Len = max(joined[n-1].End(), s.End()) - joined[n-1].Off
		} else if s.Len > 0 {
			joined = append(joined, s)
		}
	}
	var left []Span
	b = byPlace(b)
	for _, s := range joined {
		for _, t := range b {
			if t.End() <= s.Off || t.Len <= 0 {
				continue
			}
			if t.Off >= s.End() {
				break
			}
			if t.Off > s.Off {
				left = append(left, Span{s.Off, t.Off - s.Off})
			}
			s = Span{t.End(), max(0, s.End()-t.End())}
		}
		if s.Len > 0 {
			left = append(left, s)
		}
	}
	return left
}

// Spans are the runs of content, rounded out to Block but not beyond the end of
// the image, in order and with a gap between any two.
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

// Overlay is the image with other content at the places of the patches, which may lie
// between its extents too.
func (m *Image) Overlay(patches ...Extent) (*Image, error) {
	over, err := New(m.size, patches...)
	if err != nil {
		return nil, err
	}
	extents, rest := slices.Clone(over.extents), over.extents
	for e := range m.Extents() {
		keep := func(off, end int64) {
			if off < end {
				extents = append(extents, Extent{Name: e.Name, Off: off, Content: io.NewSectionReader(e.Content, off-e.Off, end-off)})
			}
		}
		for len(rest) > 0 && rest[0].End() <= e.Off {
			rest = rest[1:]
		}
		at := e.Off
		for _, p := range rest {
			if p.Off >= e.End() {
				break
			}
			keep(at, p.Off)
			at = max(at, p.End())
		}
		if at == e.Off {
			extents = append(extents, e)
		} else {
			keep(at, e.End())
		}
	}
	return New(m.size, extents...)
}

// Pieces are the spans cut at multiples of size, a multiple of Block.
func (m *Image) Pieces(size int64) iter.Seq[Span] {
	if size <= 0 || size%Block != 0 {
		panic("image: internal error: pieces that are no multiple of a block")
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

// ContentSize is how many bytes Chunks gives: the sum of the spans.
func (m *Image) ContentSize() int64 {
	var n int64
	for run := range m.Spans() {
		n += run.Len
	}
	return n
}

// Chunk is a piece of content. Off is a multiple of Block; so is len(Data), but
// for the last chunk of an image that is no multiple of Block. Data belongs to
// who received it.
type Chunk struct {
	Off  int64
	Data []byte
}

// Chunks reads the content in order, in pieces that end at multiples of size.
// After an error nothing follows.
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

// Zeros is n bytes of zeros that are content: they are written and verified.
func Zeros(n int64) Content { return zeros(n) }

type zeros int64

func (z zeros) Size() int64 { return int64(z) }

func (z zeros) Hole(off int64) int64 { return max(0, int64(z)-off) }

func (z zeros) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= int64(z) {
		return 0, io.EOF
	}
	n := min(int64(len(p)), int64(z)-off)
	clear(p[:n])
	if n < int64(len(p)) {
		return int(n), io.EOF
	}
	return int(n), nil
}

// Progress is told of bytes as they are done. It may be nil, and is called from
// one goroutine at a time.
type Progress func(n int64)

// Phases is told when a phase of a long work begins and how many bytes it will
// do, 0 if that is not known, and returns what is told of the bytes. Both may be
// nil.
type Phases func(phase string, total int64) Progress

// Start begins a phase.
func (p Phases) Start(phase string, total int64) Progress {
	if p == nil {
		return nil
	}
	return p(phase, total)
}

// Add tells of n more bytes.
func (p Progress) Add(n int64) {
	if p != nil {
		p(n)
	}
}

// Write writes the chunks to w, reading and hashing one ahead of the writer, and
// returns what it wrote as a manifest of unnamed entries. The first error ends it;
// an error of w is wrapped in *WriteError.
func Write(ctx context.Context, w io.WriterAt, chunks iter.Seq2[Chunk, error], p Progress) (*Manifest, error) {
	m := &Manifest{}
	for s, err := range ahead(ctx, summed(chunks)) {
		if err != nil {
			return nil, err
		}
		if err := s.write(w); err != nil {
			return nil, err
		}
		m.add(s)
		p.Add(int64(len(s.Data)))
	}
	return m, nil
}

// WriteError is what a disk or file said when it was written to.
type WriteError struct {
	Off int64
	Err error
}

func (e *WriteError) Error() string { return fmt.Sprintf("writing at byte %d: %v", e.Off, e.Err) }
func (e *WriteError) Unwrap() error { return e.Err }

// Kind is the kind of Err if it has one, else "permission" or "write", as in package
// [imgtool/image/fault].
func (e *WriteError) Kind() string {
	var inner interface {
		error
		Kind() string
	}
	switch {
	case errors.As(e.Err, &inner):
		return inner.Kind()
	case errors.Is(e.Err, fs.ErrPermission):
		return "permission"
	}
	return "write"
}

// ahead runs a sequence in a goroutine of its own, one item before its consumer:
// when one is taken, the one before is not in use any more.
func ahead[T any](ctx context.Context, items iter.Seq2[T, error]) iter.Seq2[T, error] {
	type item struct {
		v   T
		err error
	}
	return func(yield func(T, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		pipe := make(chan item)
		done := make(chan struct{})
		go func() {
			defer close(done)
			defer close(pipe)
			defer func() {
				// A fault of ours must not end the program here, half-way.
				if r := recover(); r != nil {
					select {
					case pipe <- item{err: fmt.Errorf("internal error: %v", r)}:
					case <-ctx.Done():
					}
				}
			}()
			for v, err := range items {
				select {
				case pipe <- item{v, err}:
				case <-ctx.Done():
					return
				}
			}
		}()
		defer func() { cancel(); <-done }()
		var none T
		for {
			select {
			case <-ctx.Done():
				yield(none, context.Cause(ctx))
				return
			case it, ok := <-pipe:
				if !ok {
					// Both channels may have been ready.
					if err := ctx.Err(); err != nil {
						yield(none, context.Cause(ctx))
					}
					return
				}
				if !yield(it.v, it.err) || it.err != nil {
					return
				}
			}
		}
	}
}
