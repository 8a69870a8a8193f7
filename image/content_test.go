package image_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"imgtool/image"
)

func TestReadFull(t *testing.T) {
	errDisk := errors.New("bad sector")
	r := strings.NewReader("01234567")
	for _, c := range []struct {
		r    io.ReaderAt
		off  int64
		n    int
		want error
	}{
		{r, 0, 8, nil},
		{r, 4, 4, nil},
		{r, 4, 4, io.ErrUnexpectedEOF},
		{r, 8, 0, io.ErrUnexpectedEOF},
		{readerAt{iotest.ErrReader(errDisk)}, 0, 0, errDisk},
		{readerAt{iotest.HalfReader(r)}, 0, 1, io.ErrUnexpectedEOF},
	} {
		size := c.n
		if c.want != nil {
			size++
		}
		if n, err := image.ReadFull(c.r, make([]byte, size), c.off); n != c.n || err != c.want {
			t.Errorf("%d bytes at %d: %d, %v; want %d, %v", size, c.off, n, err, c.n, c.want)
		}
	}
}

// readerAt reads from r at every offset.
type readerAt struct{ r io.Reader }

func (r readerAt) ReadAt(p []byte, _ int64) (int, error) { return r.r.Read(p[:min(len(p), 8)]) }

func TestIsZero(t *testing.T) {
	for n := range 5 {
		p := make([]byte, n)
		if !image.IsZero(p) {
			t.Errorf("%d zeros are not zero", n)
		}
		for i := range p {
			p[i] = 1
			if image.IsZero(p) {
				t.Errorf("%v is zero", p)
			}
			p[i] = 0
		}
	}
}

func TestHead(t *testing.T) {
	for size, want := range map[int64]string{4: "0123", 8: "01234567", 20: "01234567"} {
		if got, err := image.Head(strings.NewReader("01234567"), size); err != nil || string(got) != want {
			t.Errorf("Head of %d bytes is %q, %v; want %q", size, got, err, want)
		}
	}
}

func TestNewReader(t *testing.T) {
	errStop := errors.New("stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	var done int64
	r := image.NewReader(ctx, strings.NewReader("01234567"), func(n int64) { done += n })
	b := make([]byte, 3)
	if n, err := io.ReadFull(r, b); n != 3 || err != nil || done != 3 {
		t.Errorf("%d bytes, %v, progress of %d bytes; want 3 bytes", n, err, done)
	}
	cancel(errStop)
	if n, err := r.Read(b); n != 0 || err != errStop || done != 3 {
		t.Errorf("after the end of the context: %d bytes, %v, progress of %d bytes", n, err, done)
	}
}

func TestLeadingZeros(t *testing.T) {
	for _, n := range []int{0, 1, 4095, 4096, 4097, 8192, 10_000} {
		p := make([]byte, n)
		if got := image.LeadingZeros(p); got != n {
			t.Errorf("%d zeros: got %d", n, got)
		}
		for _, at := range []int{0, 1, 4094, 4095, 4096, 4097, 8191, 8192, n - 1} {
			if at < 0 || at >= n {
				continue
			}
			p := make([]byte, n)
			p[at], p[n-1] = 7, 1
			if got := image.LeadingZeros(p); got != at {
				t.Errorf("%d bytes with %d zeros: got %d", n, at, got)
			}
		}
	}
}
