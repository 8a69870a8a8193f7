package image

import (
	"bytes"
	"io"
)

// ReadFull reads len(p) bytes of r at off and returns how many it read. It returns an
// error if and only if these are fewer than len(p); at the end of r that is
// [io.ErrUnexpectedEOF].
func ReadFull(r io.ReaderAt, p []byte, off int64) (int, error) {
	n, err := r.ReadAt(p, off)
	switch {
	case n == len(p):
		return n, nil
	case err == nil || err == io.EOF:
		return n, io.ErrUnexpectedEOF
	}
	return n, err
}

// IsZero says whether all bytes of p are zero.
func IsZero(p []byte) bool {
	return len(p) == 0 || p[0] == 0 && bytes.Equal(p[1:], p[:len(p)-1])
}
