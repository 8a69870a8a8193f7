package flash

import (
	"iter"

	"imgtool/image"
)

// withoutZeros returns the chunks without the long runs of zeros that the disk already
// has, and appends their spans to found: an image without a manifest is mostly zeros, and
// reading a disk is faster than writing it. Zeros that cannot be read are written.
func (r *run) withoutZeros(chunks iter.Seq2[image.Chunk, error], found *[]image.Span, p image.Progress) iter.Seq2[image.Chunk, error] {
	buf := make([]byte, image.PieceSize)
	blank := func(off, n int64) bool {
		for at := int64(0); at < n; {
			// On a disk that is not blank, the first block usually differs.
			b := buf[:min(n-at, int64(len(buf)))]
			if at == 0 {
				b = b[:min(n, image.Block)]
			}
			if k, _ := r.dev.ReadAt(b, off+at); k < len(b) || !image.IsZero(b) {
				return false
			}
			at += int64(len(b))
		}
		return true
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
				if s.Len < near || !blank(s.Off, s.Len) {
					continue
				}
				if at < start && !yield(part(c, at, start), nil) {
					return
				}
				at = end
				*found = append(*found, s)
				r.res.Skipped += s.Len
				p.Add(s.Len)
			}
			if at < len(c.Data) && !yield(part(c, at, len(c.Data)), nil) {
				return
			}
		}
	}
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
