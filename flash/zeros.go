package flash

import (
	"context"
	"errors"
	"iter"

	"imgtool/flash/disk"
	"imgtool/image"
)

// skipped are runs of zeros of the body that were not written.
type skipped struct {
	found []image.Span // the disk had zeros there before the body was written
	later []image.Span // the disk is compared with them after the body was written
}

// withoutZeros returns the chunks without the long runs of zeros that the disk already has:
// an image without a manifest is mostly zeros, and reading a disk is faster than writing it.
// Zeros that cannot be read are written.
//
// The disk may be blank: as long as it has zeros at both ends of each run, the whole runs are
// not read before [run.blank] does.
func (r *run) withoutZeros(chunks iter.Seq2[image.Chunk, error], out *skipped, p image.Progress) iter.Seq2[image.Chunk, error] {
	buf := make([]byte, image.PieceSize)
	isZero := func(off, n int64) bool {
		for at := int64(0); at < n; {
			b := buf[:min(n-at, int64(len(buf)))]
			if k, _ := r.dev.ReadAt(b, off+at); k < len(b) || !image.IsZero(b) {
				return false
			}
			at += int64(len(b))
		}
		return true
	}
	blank := true
	skip := func(s image.Span) bool {
		if !isZero(s.Off, image.Block) { // usual on a disk that is not blank
			blank = false
			return false
		}
		if blank = blank && isZero(s.End()-image.Block, image.Block); blank {
			out.later = append(out.later, s)
			return true
		}
		if isZero(s.Off, s.Len) {
			out.found = append(out.found, s)
			return true
		}
		return false
	}
	return func(yield func(image.Chunk, error) bool) {
		for c, err := range chunks {
			if err != nil {
				yield(c, err)
				return
			}
			at := 0
			for start, end := range zeroRuns(c.Data) {
				s := image.Span{Off: c.Off + int64(start), Len: int64(end - start)}
				if s.Len < near || !skip(s) {
					continue
				}
				if at < start && !yield(part(c, at, start), nil) {
					return
				}
				at = end
				r.res.Skipped += s.Len
				p.Add(s.Len)
			}
			if at < len(c.Data) && !yield(part(c, at, len(c.Data)), nil) {
				return
			}
		}
	}
}

// blank compares the disk with runs of zeros, and writes zeros where it has other data or
// cannot be read. It returns the entries it wrote, which p does not include.
func (r *run) blank(ctx context.Context, runs []image.Span, p image.Progress) (*image.Manifest, error) {
	var dirty []image.Span
	buf, none := make([]byte, image.PieceSize), make([]byte, image.PieceSize)
	for _, s := range runs {
		for at := s.Off; at < s.End(); {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			b := buf[:min(s.End()-at, int64(len(buf)))]
			old := len(dirty)
			k, err := r.dev.ReadAt(b, at)
			switch {
			case errors.As(err, new(*StallError)) || disk.Lost(r.dev.Path(), err) != nil:
				return nil, r.readError(ctx, err) // not one timeout after another
			case k < len(b):
				dirty = append(dirty, image.Span{Off: at, Len: int64(len(b))})
			case !image.IsZero(b):
				for start, end := range differences(none[:len(b)], b) {
					dirty = append(dirty, image.Span{Off: at + int64(start), Len: int64(end - start)})
				}
			}
			p.Add(int64(len(b)) - totalLen(dirty[old:])) // the others are read again
			at += int64(len(b))
		}
	}
	r.res.Skipped -= totalLen(dirty)
	r.res.Verified += totalLen(runs) - totalLen(dirty)
	if len(dirty) == 0 {
		return &image.Manifest{}, nil
	}
	return r.write(ctx, zeros(dirty), nil)
}

// zeroRuns returns the starts and ends of runs of whole blocks of zeros.
func zeroRuns(b []byte) iter.Seq2[int, int] {
	return func(yield func(int, int) bool) {
		start := 0
		for at := 0; at <= len(b); at += image.Block {
			if at+image.Block <= len(b) && image.IsZero(b[at:at+image.Block]) {
				continue
			}
			if start < at && !yield(start, at) {
				return
			}
			start = at + image.Block
		}
	}
}
