package image_test

import (
	"errors"
	"io"
	"strings"
	"testing"

	"imgtool/image"
)

type shortReader struct{ err error }

func (r shortReader) ReadAt([]byte, int64) (int, error) { return 2, r.err }

func TestReadFull(t *testing.T) {
	other := errors.New("other")
	for _, c := range []struct {
		r    io.ReaderAt
		off  int64
		n    int
		want error
	}{
		{strings.NewReader("123456"), 2, 4, nil}, // [io.EOF] with all bytes is no error
		{strings.NewReader("123456"), 3, 3, io.ErrUnexpectedEOF},
		{strings.NewReader("123456"), 6, 0, io.ErrUnexpectedEOF},
		{shortReader{nil}, 0, 2, io.ErrUnexpectedEOF},
		{shortReader{other}, 0, 2, other},
	} {
		if n, err := image.ReadFull(c.r, make([]byte, 4), c.off); n != c.n || err != c.want {
			t.Errorf("at %d: %d, %v; want %d, %v", c.off, n, err, c.n, c.want)
		}
	}
}
