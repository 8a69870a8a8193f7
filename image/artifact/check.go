package artifact

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"

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
		if err := s.check(ctx, p); err != nil {
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

func (s *seekable) check(ctx context.Context, p image.Progress) error {
	for _, sum := range s.sums {
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
