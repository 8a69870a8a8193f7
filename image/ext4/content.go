package ext4

import (
	"errors"
	"fmt"
	"math"

	"imgtool/image"
)

func (s *scan) content(f *found) (image.Content, error) {
	extents, err := s.extents(f)
	if err != nil {
		return nil, err
	}
	segments := make([]image.Segment, len(extents))
	for i, e := range extents {
		segments[i] = image.Segment{At: e.at * s.blockSize, Off: e.start * s.blockSize, Len: e.n * s.blockSize}
	}
	return image.NewMapped(s.r, f.size(), segments), nil
}

// extents reads the extent tree of a file, without unwritten extents:
// Documentation/filesystems/ext4, "Extent Tree".
func (s *scan) extents(f *found) ([]extent, error) {
	if f.Flags&extentFlag == 0 {
		return nil, errors.New("indirect blocks, as in ext2, are not supported")
	}
	var all []extent
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
				all = append(all, extent{first, start, n})
			}
		}
		return nil
	}
	err := walk(f.Block[:], 0, -1)
	return all, err
}
