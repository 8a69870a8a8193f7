package artifact

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
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
	head := make([]byte, headSize)
	n, err := r.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return nil, err
	}
	if n == 0 {
		return nil, corrupt("the image is empty")
	}
	o := &Opened{Format: detect(head[:n]), Manifest: sidecar}
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
	c := &checked{raw: raw, pieces: o.Manifest.Pieces}
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
	var content []image.Span
	for _, p := range o.Manifest.Pieces {
		content = append(content, image.Span{Off: p.Off, Len: p.Len})
	}
	buf, zero := make([]byte, 1<<20), make([]byte, 1<<20)
	for _, s := range image.Subtract([]image.Span{{Len: o.Manifest.Size}}, content) {
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
			if !bytes.Equal(part, zero[:len(part)]) {
				i := slices.IndexFunc(part, func(b byte) bool { return b != 0 })
				return corrupt("byte %d is %#x, where the manifest has no content", at+int64(i), part[i])
			}
			at += int64(len(part))
		}
	}
	return nil
}

// checked verifies a piece with the manifest before it returns any of its bytes.
type checked struct {
	raw    io.ReaderAt
	pieces []image.Entry

	mu   sync.Mutex
	last [2]struct { // pieces read, the latest first
		off  int64
		data []byte
	}
}

func (c *checked) piece(p image.Entry) ([]byte, error) {
	c.mu.Lock()
	for _, l := range c.last {
		if l.data != nil && l.off == p.Off {
			c.mu.Unlock()
			return l.data, nil
		}
	}
	c.mu.Unlock()
	data := make([]byte, p.Len)
	if n, err := c.raw.ReadAt(data, p.Off); n < len(data) {
		if err == nil || err == io.EOF {
			return nil, corrupt("the image is cut short at byte %d", p.Off+int64(n))
		}
		return nil, err
	}
	if err := checkPiece(p, data); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last[1] = c.last[0]
	c.last[0].off, c.last[0].data = p.Off, data
	return data, nil
}

func (c *checked) ReadAt(b []byte, off int64) (int, error) {
	n := 0
	for n < len(b) {
		at := off + int64(n)
		i := sort.Search(len(c.pieces), func(i int) bool { return c.pieces[i].Off+c.pieces[i].Len > at })
		if i == len(c.pieces) || c.pieces[i].Off > at {
			return n, fmt.Errorf("byte %d is in no piece", at)
		}
		data, err := c.piece(c.pieces[i])
		if err != nil {
			return n, err
		}
		n += copy(b[n:], data[at-c.pieces[i].Off:])
	}
	return n, nil
}
