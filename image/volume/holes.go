package main

import (
	"io"
	"os"

	"golang.org/x/sys/unix"

	"imgtool/image"
)

// smallHole is up to how large a hole is read like data.
const smallHole = 1 << 20

// dataOf is where a regular file of size bytes has something, as far as the file system
// tells: the rest are holes, which read as zeros.
func dataOf(f *os.File, size int64) []image.Span {
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
		if n := len(spans); n > 0 && from-spans[n-1].End() < smallHole {
			spans[n-1].Len = to - spans[n-1].Off
		} else {
			spans = append(spans, image.Span{Off: from, Len: to - from})
		}
		at = to
	}
	return spans
}

// isPlain says whether the image is its file, byte for byte.
func (p *picture) isPlain() bool { return p.img != nil && p.img == p.plain }

// withoutHoles is the image without what is a hole in its file and in the regular files
// it is to be flashed to: there is nothing to write. It is p itself where that cannot be
// said.
func (p *picture) withoutHoles(targets []string) (*picture, error) {
	if !p.isPlain() || len(targets) == 0 {
		return p, nil
	}
	spans := dataOf(p.file, p.img.Size())
	for _, name := range targets {
		f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			return p, nil // it is said later what is wrong with it
		}
		info, err := f.Stat()
		if err == nil && info.Mode().IsRegular() {
			spans = append(spans, dataOf(f, info.Size())...)
		}
		f.Close()
		if err != nil || !info.Mode().IsRegular() {
			return p, nil
		}
	}
	var extents []image.Extent
	whole := []image.Span{{Len: p.img.Size()}}
	for _, s := range image.Subtract(whole, image.Subtract(whole, spans)) {
		extents = append(extents, image.Extent{Name: "image", Off: s.Off, Content: io.NewSectionReader(p.img, s.Off, s.Len)})
	}
	img, err := image.New(p.img.Size(), extents...)
	if err != nil {
		return nil, err
	}
	less := *p
	less.img = img
	return &less, nil
}
