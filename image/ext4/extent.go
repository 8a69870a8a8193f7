package ext4

import (
	"io"

	"imgtool/image"
)

const (
	extentMagic  = 0xf30a
	extentSize   = 12      // of an extent, an index entry and a header
	maxExtent    = 1 << 15 // blocks; more means that they were never written
	rootExtents  = 4       // in an inode
	blockExtents = (blockSize - extentSize) / extentSize
)

// extent is blocks of a file in a row, on disk too.
type extent struct {
	at    int64 // in the file
	start int64
	n     int64
}

// split makes extents of runs on disk that hold, one after the other, the mapped
// blocks of a file; nil is all blocks from its start on.
func split(runs, mapped []run) []extent {
	var extents []extent
	if mapped == nil {
		n := int64(0)
		for _, r := range runs {
			n += r.n
		}
		mapped = []run{{0, n}}
	}
	var m run // what is left of one
	for _, r := range runs {
		for r.n > 0 {
			if m.n == 0 {
				m, mapped = mapped[0], mapped[1:]
			}
			n := min(r.n, m.n, maxExtent)
			extents = append(extents, extent{m.start, r.start, n})
			m.start, m.n = m.start+n, m.n-n
			r.start, r.n = r.start+n, r.n-n
		}
	}
	return extents
}

// indexBlocks is how many blocks a tree of n extents needs besides the inode.
func indexBlocks(n int) int64 {
	all := int64(0)
	for level := int64(n); level > rootExtents; all += level {
		level = ceil(level, blockExtents)
	}
	return all
}

// extentTree is what goes into the inode, and the blocks of the tree.
func (f *file) extentTree(seed uint32) (root []byte, blocks []image.Extent) {
	type item struct {
		at   int64
		data []byte
	}
	var level []item
	for _, e := range f.extents {
		level = append(level, item{e.at, appendTo(nil, uint32(e.at), uint16(e.n), uint16(e.start>>32), uint32(e.start))})
	}
	node := func(items []item, limit, depth int) []byte {
		b := appendTo(nil, uint16(extentMagic), uint16(len(items)), uint16(limit), uint16(depth), uint32(0))
		for _, it := range items {
			b = append(b, it.data...)
		}
		return b
	}
	var free []int64
	for _, r := range f.index {
		for i := range r.n {
			free = append(free, r.start+i)
		}
	}
	depth := 0
	for ; len(level) > rootExtents; depth++ {
		var up []item
		for len(level) > 0 {
			n := min(len(level), blockExtents)
			b := make([]byte, blockSize)
			copy(b, node(level[:n], blockExtents, depth))
			end := extentSize * (1 + blockExtents)
			le.PutUint32(b[end:], crc(seed, b[:end]))
			at := free[0]
			free = free[1:]
			blocks = append(blocks, image.Extent{Name: "extents of " + f.path, Off: at * blockSize, Content: content(b)})
			up = append(up, item{level[0].at, appendTo(nil, uint32(level[0].at), uint32(at), uint16(at>>32), uint16(0))})
			level = level[n:]
		}
		level = up
	}
	return node(level, rootExtents, depth), blocks
}

// section is size bytes of c from off, all of them content: c's own bytes, then
// zeros to the end of the block, where a disk would show what it held before.
func section(c image.Content, off, size int64) image.Content {
	if off+size <= c.Size() {
		return io.NewSectionReader(c, off, size)
	}
	return &padded{c, off, size}
}

type padded struct {
	c         image.Content
	off, size int64
}

func (s *padded) Size() int64 { return s.size }

func (s *padded) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= s.size {
		return 0, io.EOF
	}
	var short error
	if int64(len(p)) > s.size-off {
		p, short = p[:s.size-off], io.EOF
	}
	data := p[:min(int64(len(p)), max(0, s.c.Size()-s.off-off))]
	if len(data) > 0 {
		if n, err := image.ReadFull(s.c, data, s.off+off); err != nil {
			return n, err
		}
	}
	clear(p[len(data):])
	return len(p), short
}
