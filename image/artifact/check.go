package artifact

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"sort"

	"imgtool/image"
)

// CheckSize returns how many bytes [Opened.Check] reads, or 0 if there is nothing to check.
func (o *Opened) CheckSize() int64 {
	if s, ok := o.raw.(*seekable); ok {
		if s.sums != nil {
			return s.packed
		}
		if o.Manifest == nil {
			return s.size
		}
	}
	var n int64
	if o.Manifest != nil {
		for _, p := range o.Manifest.Pieces {
			n += p.Len
		}
	}
	return n
}

// Unpacks reports whether [Opened.Check] decompresses the image.
func (o *Opened) Unpacks() bool {
	s, ok := o.raw.(*seekable)
	return ok && s.sums == nil
}

// Check reads the image once and compares it with the best checksums there are: the sums in
// an .img.zst, else the SHA-256 of the pieces in the manifest, else the checksums of zstd. It
// returns a *[CorruptError] if they differ. data is as for [Opened.Holes].
func (o *Opened) Check(ctx context.Context, data func(off int64) int64, p image.Progress) error {
	s, packed := o.raw.(*seekable)
	switch {
	case packed && s.sums != nil:
		if err := s.check(ctx, p, func(summed) bool { return true }); err != nil {
			return err
		}
		for _, a := range s.attached {
			if _, err := o.Attachment(a.name); err != nil {
				return err
			}
		}
		return nil
	case packed && o.Manifest == nil:
		for c, err := range o.Image.Chunks(image.PieceSize) {
			if err == nil {
				err = context.Cause(ctx)
			}
			if err != nil {
				return err
			}
			p.Add(int64(len(c.Data)))
		}
		return nil
	case o.Manifest == nil:
		return nil
	}
	err := image.Verify(ctx, o.raw, &image.Manifest{Entries: o.Manifest.Pieces}, p)
	if wrong, ok := errors.AsType[*image.MismatchError](err); ok {
		return corrupt("the piece at byte %d, %d bytes long, is corrupt: it has %[4]s, its manifest says %[3]s", wrong.Off, wrong.Len, wrong.Want, wrong.Got)
	}
	if err != nil {
		return err
	}
	return o.Holes(ctx, data)
}

// CheckIndex compares the manifest in an .img.zst and the table of its frames with their sums. It
// reads no content.
func (o *Opened) CheckIndex(ctx context.Context) error {
	s, ok := o.raw.(*seekable)
	if !ok {
		return nil
	}
	return s.check(ctx, nil, func(sum summed) bool { return sum.name != contentSum })
}

// FileSpans returns where the file has these pieces of the manifest, and their neighbours that
// can only be read with them.
func (o *Opened) FileSpans(pieces []image.Entry) (spans []image.Span) {
	s, ok := o.raw.(*seekable)
	for _, p := range pieces {
		if !ok {
			spans = append(spans, image.Span{Off: p.Off, Len: p.Len})
			continue
		}
		i := sort.Search(len(s.frames), func(i int) bool { return s.frames[i].off+s.frames[i].len > p.Off })
		for ; i < len(s.frames) && s.frames[i].off < p.Off+p.Len; i++ {
			at := image.Span{Off: s.frames[i].packed, Len: s.frames[i].packedLen}
			if n := len(spans); n == 0 || spans[n-1] != at {
				spans = append(spans, at)
			}
		}
	}
	return spans
}

// check compares the sums for which of returns true.
func (s *seekable) check(ctx context.Context, p image.Progress, of func(summed) bool) error {
	for _, sum := range s.sums {
		if !of(sum) {
			continue
		}
		got, size, err := s.sum(ctx, sum.parts, p)
		if err != nil {
			return err
		}
		if !bytes.Equal(got, sum.want) {
			return corrupt("the %s, %d bytes of the file, is corrupt: its SHA-256 is %x, it should be %x", sum.name, size, got, sum.want)
		}
	}
	return nil
}

// sum returns the SHA-256 of parts of the file, and how many bytes they have.
func (s *seekable) sum(ctx context.Context, parts []image.Span, p image.Progress) (sum []byte, size int64, err error) {
	h := sha256.New()
	for _, part := range parts {
		size += part.Len
		r := image.NewReader(ctx, io.NewSectionReader(s.r, part.Off, part.Len), p)
		if n, err := io.CopyBuffer(h, r, make([]byte, 1<<20)); err != nil {
			return nil, 0, err
		} else if n < part.Len {
			return nil, 0, corrupt("the image is cut short at byte %d of the file", part.Off+n)
		}
	}
	return h.Sum(nil), size, nil
}
