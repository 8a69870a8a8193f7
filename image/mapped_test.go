package image_test

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"imgtool/image"
)

func TestMapped(t *testing.T) {
	r := strings.NewReader("abcdefgh")
	// The last segment extends beyond the size.
	m := image.NewMapped(r, 12, []image.Segment{{At: 2, Off: 5, Len: 2}, {At: 4, Off: 0, Len: 1}, {At: 9, Off: 2, Len: 6}})
	want := []byte("\x00\x00fga\x00\x00\x00\x00cde")
	for off := range want {
		for end := off; end <= len(want)+2; end++ {
			p := bytes.Repeat([]byte{'?'}, end-off)
			n, err := m.ReadAt(p, int64(off))
			if !bytes.Equal(p[:n], want[off:min(end, len(want))]) || (err == io.EOF) != (end > len(want)) || err != nil && err != io.EOF {
				t.Errorf("bytes %d to %d: %q, %v", off, end, p[:n], err)
			}
		}
	}
	if n, err := m.ReadAt(make([]byte, 1), 12); n != 0 || err != io.EOF {
		t.Errorf("at the end: %d, %v", n, err)
	}
	if _, err := m.ReadAt(make([]byte, 1), -1); err == nil {
		t.Error("negative offset: no error")
	}
	var holes []int64
	for off := range int64(13) {
		holes = append(holes, m.Hole(off))
	}
	if !slices.Equal(holes, []int64{2, 1, 0, 0, 0, 4, 3, 2, 1, 0, 0, 0, 0}) {
		t.Errorf("holes %d", holes)
	}
	if runs := slices.Collect(image.Runs(m)); !slices.Equal(runs, []image.Span{{Off: 2, Len: 2}, {Off: 4, Len: 1}, {Off: 9, Len: 3}}) {
		t.Errorf("runs %v", runs)
	}
	short := image.NewMapped(r, 10, []image.Segment{{At: 0, Off: 6, Len: 4}})
	if n, err := short.ReadAt(make([]byte, 8), 0); n != 2 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a reader that is too short: %d, %v", n, err)
	}
}
