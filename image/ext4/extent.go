package ext4

import (
	"bytes"
	"io"

	"imgtool/image"
)

const (
	extentMagic  = 0xf30a
	extentSize   = 12      // of an extent, an index entry and a header
	maxExtent    = 1 << 15 // blocks; greater lengths are of unwritten extents
	rootExtents  = 4       // in an inode
	blockExtents = (blockSize - extentSize) / extentSize
)

// extent is a run of blocks that is contiguous in the file and on disk.
type extent struct {
	at    int64 // first block in the file
	start int64 // first block on disk
	n     int64
}

// split returns the extents of a file whose mapped blocks are, in order, in runs on
// disk. A nil mapped means all blocks.
func split(runs, mapped []run) []extent {
	var extents []extent
	if mapped == nil {
		n := int64(0)
		for _, r := range runs {
			n += r.n
		}
		mapped = []run{{0, n}}
	}
	var m run // the rest of a mapped run
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

// indexBlocks returns the number of blocks of a tree of n extents, besides the inode.
func indexBlocks(n int) int64 {
	all := int64(0)
	for level := int64(n); level > rootExtents; all += level {
		level = ceil(level, blockExtents)
	}
	return all
}

// extentTree returns the root of the tree, for the inode, and its blocks:
// Documentation/filesystems/ext4, "Extent Tree".
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
			blocks = append(blocks, image.Extent{Name: "extents of " + f.path, Off: at * blockSize, Content: bytes.NewReader(b)})
			up = append(up, item{level[0].at, appendTo(nil, uint32(level[0].at), uint32(at), uint16(at>>32), uint16(0))})
			level = level[n:]
		}
		level = up
	}
	return node(level, rootExtents, depth), blocks
}

// section returns size bytes of c from off. Bytes after the end of c are explicit zeros,
// because the last block of a file must not keep the former content of the disk.
func section(c image.Content, off, size int64) image.Content {
	if off+size <= c.Size() {
		return io.NewSectionReader(c, off, size)
	}
	return image.NewMapped(c, size, []image.Segment{{Off: off, Len: c.Size() - off}})
}
