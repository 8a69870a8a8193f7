package artifact

import "imgtool/image"

// Sum is the hash of the piece at a byte, if it was made while it was written.
func (r *Room) Sum(off int64) (sum [32]byte, ok bool) {
	return r.sum(image.Span{Off: off, Len: image.PieceSize})
}
