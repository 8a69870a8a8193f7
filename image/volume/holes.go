package volume

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"imgtool/image"
)

// minHole is the size from which a hole is skipped; smaller ones are read.
const minHole = 1 << 20

// nextData returns the first offset at or after off that is not in a hole. It returns off
// if the file system does not tell.
func nextData(f *os.File, off, size int64) int64 {
	at, err := f.Seek(off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return size
	case err != nil:
		return off
	}
	return at
}

// dataSpans returns where a regular file of size bytes has no holes, or all of it if the
// file system does not tell.
func dataSpans(f *os.File, size int64) []image.Span {
	everything := []image.Span{{Len: size}}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return everything
	}
	var spans []image.Span
	for at := int64(0); at < size; {
		from := nextData(f, at, size)
		if from >= size {
			break
		}
		to, err := f.Seek(from, unix.SEEK_HOLE)
		if err != nil || to <= from {
			return everything
		}
		to = min(to, size)
		if n := len(spans); n > 0 && from-spans[n-1].End() < minHole {
			spans[n-1].Len = to - spans[n-1].Off
		} else {
			spans = append(spans, image.Span{Off: from, Len: to - from})
		}
		at = to
	}
	return spans
}

// Data returns where a raw image file without a manifest has no holes. ok is false for
// other sources.
func (s *Source) Data() (spans []image.Span, ok bool) {
	if s.Image == nil || s.Image != s.plain {
		return nil, false
	}
	return dataSpans(s.File, s.Image.Size()), true
}

// WithoutHoles returns the image without the ranges that are holes both in its file and in
// the regular files it is written to, as these need no writing. It returns s itself if
// holes are not known.
func (s *Source) WithoutHoles(targets []string) (*Source, error) {
	spans, ok := s.Data()
	if !ok || len(targets) == 0 {
		return s, nil
	}
	for _, name := range targets {
		f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			return s, nil // opening it for writing will report the error
		}
		info, err := f.Stat()
		regular := err == nil && info.Mode().IsRegular()
		if regular {
			spans = append(spans, dataSpans(f, info.Size())...)
		}
		if f.Close(); !regular {
			return s, nil
		}
	}
	var extents []image.Extent
	whole := []image.Span{{Len: s.Image.Size()}}
	for _, d := range image.Subtract(whole, image.Subtract(whole, spans)) {
		extents = append(extents, image.Extent{Name: "image", Off: d.Off, Content: io.NewSectionReader(s.Image, d.Off, d.Len)})
	}
	img, err := image.New(s.Image.Size(), extents...)
	if err != nil {
		return nil, err
	}
	less := *s
	less.Image = img
	return &less, nil
}
