package ext4

import (
	"io"
	"sort"

	"imgtool/image"
)

// omitHoles omits the blocks of a file that are completely within its known holes. They
// are not allocated and not in the extent tree, so they read as zeros.
func (f *file) omitHoles() {
	if _, ok := f.content.(image.Sparse); !ok {
		return
	}
	var mapped []run
	total := int64(0)
	for s := range image.Runs(f.content) {
		from, to := s.Off/blockSize, ceil(s.End(), blockSize)
		if n := len(mapped); n > 0 && from <= mapped[n-1].end() {
			from = mapped[n-1].end()
			mapped[n-1].n += max(0, to-from)
		} else {
			mapped = append(mapped, run{from, to - from})
		}
		total += max(0, to-from)
	}
	switch {
	case total == ceil(f.content.Size(), blockSize):
	case total == 0:
		f.content = nil
	default:
		f.mapped, f.content = mapped, newGathered(f.content, mapped)
	}
}

// gathered is the concatenation of the mapped blocks of a file.
type gathered struct {
	c      image.Content
	mapped []run
	before []int64 // offset of each run in gathered
	size   int64
}

func newGathered(c image.Content, mapped []run) *gathered {
	g := &gathered{c: c, mapped: mapped, before: make([]int64, len(mapped))}
	for i, r := range mapped {
		g.before[i] = g.size
		g.size += min(r.end()*blockSize, c.Size()) - r.start*blockSize
	}
	return g
}

func (g *gathered) Size() int64 { return g.size }

func (g *gathered) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= g.size {
		return 0, io.EOF
	}
	i := sort.Search(len(g.before), func(i int) bool { return g.before[i] > off }) - 1
	for n := 0; ; i++ {
		at := off + int64(n) - g.before[i]
		part := p[n:min(int64(len(p)), int64(n)+g.mapped[i].n*blockSize-at)]
		k, err := g.c.ReadAt(part, g.mapped[i].start*blockSize+at)
		n += k
		switch {
		case k == len(part) && n == len(p):
			return n, nil
		case off+int64(n) == g.size:
			return n, io.EOF
		case k < len(part):
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return n, err
		}
	}
}
