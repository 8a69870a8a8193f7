package artifact

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"sort"
	"sync"

	"imgtool/image"
	"imgtool/image/simg"
)

// Opened is an image that can be read at any offset. If it has a manifest, all content is
// verified when it is read; a difference is a *[CorruptError].
type Opened struct {
	*image.Image
	Format   Format
	Manifest *Manifest // nil if it has none

	// Near may have pieces of the image at their offsets. If it is not nil, a piece that it has
	// with the SHA-256 in the manifest is not read from the file.
	Near io.ReaderAt

	raw io.ReaderAt
}

// ErrStream says that a file can only be read from front to back: see [Stream].
var ErrStream = errors.New("can only be read from front to back")

// Open opens a raw image, a seekable zstd or an Android sparse image; for others it returns
// [ErrStream]. sidecar is the manifest beside the file, or nil; a manifest in the file has
// precedence.
//
// Without a manifest, DONT_CARE chunks of an Android sparse image count as content of
// zeros, because its tools erase the disk before they write it.
func Open(r image.Content, sidecar *Manifest) (*Opened, error) {
	head, err := image.Head(r, headSize)
	if err != nil {
		return nil, err
	}
	if len(head) == 0 {
		return nil, corrupt("the image is empty")
	}
	o := &Opened{Format: detect(head), Manifest: sidecar}
	var raw image.Content = r
	switch o.Format {
	case Raw:
	case Zstd:
		s, own, err := openSeekable(r)
		if err != nil {
			return nil, err
		}
		if own != nil {
			o.Manifest = own
		}
		raw = s
	case Sparse:
		m, err := simg.Open(r, r.Size())
		if err == nil && o.Manifest == nil {
			m, err = simg.Zeroed(m)
		}
		if err != nil {
			return nil, corrupt("%w", err)
		}
		if o.Manifest == nil {
			o.Image = m
			return o, nil
		}
		raw = m
	default:
		return nil, ErrStream
	}
	o.raw = raw
	if o.Manifest == nil {
		o.Image, err = image.New(raw.Size(), image.Extent{Name: "image", Content: raw})
		return o, err
	}
	if raw.Size() != o.Manifest.Size {
		return nil, corrupt("the image has %d bytes, its manifest says %d: the image was cut short, or the manifest belongs to another image", raw.Size(), o.Manifest.Size)
	}
	c := &cached{spans: spans(o.Manifest.Pieces), load: o.piece}
	var extents []image.Extent
	for _, e := range o.Manifest.Entries {
		extents = append(extents, image.Extent{Name: e.Name, Off: e.Off, Content: io.NewSectionReader(c, e.Off, e.Len)})
	}
	o.Image, err = image.New(o.Manifest.Size, extents...)
	return o, err
}

// Holes checks that a raw image is zero outside of the pieces in its manifest: other bytes
// there would neither be written to a disk nor be missed by verification. They are a
// *[CorruptError].
//
// data returns the offset of the next data in the file at or after an offset, so that holes
// of the file are not read; it may be nil.
func (o *Opened) Holes(ctx context.Context, data func(off int64) int64) error {
	if o.Manifest == nil || o.Format != Raw {
		return nil
	}
	buf := make([]byte, 1<<20)
	for _, s := range image.Subtract([]image.Span{{Len: o.Manifest.Size}}, spans(o.Manifest.Pieces)) {
		for at := s.Off; at < s.End(); {
			if err := ctx.Err(); err != nil {
				return context.Cause(ctx)
			}
			if data != nil {
				if at = max(at, data(at)); at >= s.End() {
					break
				}
			}
			part := buf[:min(int64(len(buf)), s.End()-at)]
			if n, err := o.raw.ReadAt(part, at); n < len(part) {
				return fmt.Errorf("reading at byte %d: %w", at, err)
			}
			if err := checkZeros(part, at, noContent); err != nil {
				return err
			}
			at += int64(len(part))
		}
	}
	return nil
}

// piece reads a piece and compares it with the manifest.
func (o *Opened) piece(i int) ([]byte, error) {
	p := o.Manifest.Pieces[i]
	if o.Near != nil {
		data := make([]byte, p.Len)
		if n, _ := o.Near.ReadAt(data, p.Off); n == len(data) && checkPiece(p, data) == nil {
			return data, nil
		}
	}
	if s, ok := o.raw.(*seekable); ok {
		if data, err := s.part(p.Off, p.Len); data != nil || err != nil {
			return data, cmp.Or(err, checkPiece(p, data))
		}
	}
	data := make([]byte, p.Len)
	if n, err := o.raw.ReadAt(data, p.Off); n < len(data) {
		if err == nil || err == io.EOF {
			return nil, corrupt("the image is cut short at byte %d", p.Off+int64(n))
		}
		return nil, err
	}
	return data, checkPiece(p, data)
}

// cached reads spans that can only be loaded as a whole. It keeps the last two.
type cached struct {
	spans []image.Span // in order
	load  func(i int) ([]byte, error)

	mu   sync.Mutex
	last [2]struct { // the latest first
		span int
		data []byte
	}
}

func (c *cached) get(i int) ([]byte, error) {
	c.mu.Lock()
	for _, l := range c.last {
		if l.data != nil && l.span == i {
			c.mu.Unlock()
			return l.data, nil
		}
	}
	c.mu.Unlock()
	data, err := c.load(i)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last[1] = c.last[0]
	c.last[0].span, c.last[0].data = i, data
	return data, nil
}

// ReadAt returns [io.EOF] after the last span.
func (c *cached) ReadAt(b []byte, off int64) (n int, err error) {
	for n < len(b) {
		at := off + int64(n)
		i := sort.Search(len(c.spans), func(i int) bool { return c.spans[i].End() > at })
		if i == len(c.spans) {
			return n, io.EOF
		}
		if c.spans[i].Off > at {
			return n, fmt.Errorf("byte %d is in no piece", at)
		}
		data, err := c.get(i)
		if err != nil {
			return n, err
		}
		n += copy(b[n:], data[at-c.spans[i].Off:])
	}
	return n, nil
}
