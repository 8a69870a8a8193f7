package flash

import (
	"bytes"
	"iter"

	"imgtool/image"
)

// withoutZeros gives the chunks without the long runs of zeros that are on the disk
// already, and notes where these are: an image without a manifest is mostly that, and
// reading a disk is faster than writing it. What cannot be read is written.
func (r *run) withoutZeros(chunks iter.Seq2[image.Chunk, error], found *[]image.Span, p image.Progress) iter.Seq2[image.Chunk, error] {
	zero, buf := make([]byte, image.PieceSize), make([]byte, image.PieceSize)
	blank := func(off, n int64) bool {
		for at := int64(0); at < n; {
			// Of a disk that is not blank, the first block is enough to see it.
			part := buf[:min(n-at, int64(len(buf)))]
			if at == 0 {
				part = part[:min(n, image.Block)]
			}
			if k, _ := r.dev.ReadAt(part, off+at); !bytes.Equal(part, zero[:k]) {
				return false
			}
			at += int64(len(part))
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
				if at < start && !yield(image.Chunk{Off: c.Off + int64(at), Data: c.Data[at:start:start]}, nil) {
					return
				}
				at = end
				*found = append(*found, s)
				r.res.Skipped += s.Len
				p.Add(s.Len)
			}
			if at < len(c.Data) && !yield(image.Chunk{Off: c.Off + int64(at), Data: c.Data[at:]}, nil) {
				return
			}
		}
	}
}

// zeroRuns are the runs of whole blocks that are zeros.
func zeroRuns(b []byte) iter.Seq2[int, int] {
	zero := make([]byte, image.Block)
	return func(yield func(int, int) bool) {
		start := 0
		for at := 0; at <= len(b); at += image.Block {
			if at+image.Block <= len(b) && bytes.Equal(b[at:at+image.Block], zero) {
				continue
			}
			if start < at && !yield(start, at) {
				return
			}
			start = at + image.Block
		}
	}
}
