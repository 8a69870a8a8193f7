package ext4

import (
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"sort"
)

// data is the content of a file: sorted extents with zeros between them. It implements
// image.Sparse.
type data struct {
	r       io.ReaderAt
	size    int64
	block   int64
	extents []extent // without unwritten ones
}

func (d *data) Size() int64 { return d.size }

// Hole implements image.Sparse.
func (d *data) Hole(off int64) int64 {
	end := d.size
	if i := d.after(off); i < len(d.extents) {
		end = d.extents[i].at * d.block
	}
	return max(0, end-off)
}

// after returns the index of the first extent that ends after off.
func (d *data) after(off int64) int {
	return sort.Search(len(d.extents), func(i int) bool { return (d.extents[i].at+d.extents[i].n)*d.block > off })
}

func (d *data) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("reading at %d: negative offset", off)
	}
	if off >= d.size {
		return 0, io.EOF
	}
	var short error
	if int64(len(p)) > d.size-off {
		p, short = p[:d.size-off], io.EOF
	}
	i := d.after(off)
	for n := 0; n < len(p); {
		at := off + int64(n)
		if i == len(d.extents) || at < d.extents[i].at*d.block {
			hole := int64(len(p) - n)
			if i < len(d.extents) {
				hole = min(hole, d.extents[i].at*d.block-at)
			}
			clear(p[n : n+int(hole)])
			n += int(hole)
			continue
		}
		e := d.extents[i]
		part := p[n:min(int64(len(p)), int64(n)+(e.at+e.n)*d.block-at)]
		if err := readFull(d.r, part, e.start*d.block+at-e.at*d.block); err != nil {
			return n, err
		}
		n += len(part)
		i++
	}
	return len(p), short
}

// data reads the extent tree of a file: Documentation/filesystems/ext4, "Extent Tree".
func (s *scan) data(f *found) (*data, error) {
	d := &data{r: s.r, size: f.size(), block: s.blockSize}
	if f.Flags&extentFlag == 0 {
		return nil, errors.New("indirect blocks, as in ext2, are not supported")
	}
	next := int64(0)
	var walk func(node []byte, at int64, depth int) error
	walk = func(node []byte, at int64, depth int) error {
		bad := func(what string) error {
			where := "in the inode"
			if at > 0 {
				where = fmt.Sprintf("in block %d", at)
			}
			return fmt.Errorf("the extent tree is damaged %s: %s", where, what)
		}
		count, limit, level := int(le.Uint16(node[2:])), int(le.Uint16(node[4:])), int(le.Uint16(node[6:]))
		switch {
		case le.Uint16(node) != extentMagic:
			return bad("no magic number")
		case count > limit || extentSize*(1+limit) > len(node) || level > 5 || depth >= 0 && level != depth:
			return bad(fmt.Sprintf("%d entries, want at most %d, at level %d", count, limit, level))
		}
		if s.sums && at > 0 {
			end := extentSize * (1 + limit)
			if end+4 > len(node) {
				return bad("no space for a checksum")
			}
			if sum, want := crc(f.seed, node[:end]), le.Uint32(node[end:]); sum != want {
				return bad(fmt.Sprintf("the checksum is %#x, want %#x", sum, want))
			}
		}
		for i := range count {
			e := node[extentSize*(1+i):][:extentSize]
			first := int64(le.Uint32(e))
			if first < next {
				return bad(fmt.Sprintf("file block %d after %d", first, next))
			}
			if level > 0 {
				child := int64(le.Uint32(e[4:])) | int64(le.Uint16(e[8:]))<<32
				if err := s.spend(s.blockSize); err != nil {
					return err
				}
				b, err := s.block(child)
				if err != nil {
					return err
				}
				if err := walk(b, child, level-1); err != nil {
					return err
				}
				next = max(next, first+1)
				continue
			}
			n, start := int64(le.Uint16(e[4:])), int64(le.Uint32(e[8:]))|int64(le.Uint16(e[6:]))<<32
			unwritten := n > maxExtent
			if unwritten {
				n -= maxExtent
			}
			if n == 0 || start <= 0 || start+n > s.blocks || first+n > math.MaxUint32+1 {
				return bad(fmt.Sprintf("%d blocks at %d exceed the file system of %d", n, start, s.blocks))
			}
			if next = first + n; !unwritten {
				if err := s.spend(32); err != nil {
					return err
				}
				d.extents = append(d.extents, extent{first, start, n})
			}
		}
		return nil
	}
	err := walk(f.Block[:], 0, -1)
	d.extents = slices.Clip(d.extents)
	return d, err
}
