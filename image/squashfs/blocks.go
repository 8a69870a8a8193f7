package squashfs

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"imgtool/image/squashfs/similarity"
	"imgtool/image/tree/sums"
)

// tailEnd is the last bytes of a file, or all of them, that share a fragment
// block with other tail ends. Equal tail ends are one.
type tailEnd struct {
	node     *node // the first file that has it
	len      int32 // bytes
	fragment uint32
	at       uint32 // offset in the fragment block
}

func (e *tailEnd) piece() piece { return piece{e.node, e.node.data.size - int64(e.len), int(e.len)} }

// piece is a range of a file's content that begins at a block.
type piece struct {
	node *node
	off  int64
	len  int
}

// read reads a piece into b and compares it with the file's checksums. size is
// the block size.
func (p piece) read(b []byte, size int64) error {
	if err := p.node.read(b, p.off); err != nil {
		return err
	}
	each := int(hashed(size))
	for off := 0; off < len(b); off += each {
		if at := p.off + int64(off); !p.node.data.sums.Same(at/int64(each), b[off:min(off+each, len(b))]) {
			return fmt.Errorf("%s: it changed while it was read: the bytes at %d differ from those read before", show(p.node.path()), at)
		}
	}
	return nil
}

// hashed returns how many bytes each checksum of a file covers, given the block
// size.
func hashed(size int64) int64 { return min(sums.BlockSize, size) }

// cut divides all files into blocks of size bytes and tail ends, and finds
// duplicates among both.
func (p *plan) cut(checksums *sums.Checksums, size int64) {
	p.tailEnds = make([]tailEnd, 0, len(p.files))
	// By a part of the checksum: a map of the whole would need much memory.
	known := map[uint64]int32{}
	for _, n := range p.files {
		d := n.data
		d.sums = checksums.Of(n.Inode)
		d.blocks = d.size / size
		left := d.size % size
		if left == 0 {
			continue
		}
		// A long tail end is a separate block: it would leave little space in a fragment
		// block, and a change to a large file then changes no fragment block.
		if left > size/8*5 {
			d.blocks++
			continue
		}
		sum := sumOf(piece{n, d.size - left, int(left)}, size)
		k := binary.LittleEndian.Uint64(sum[:]) + uint64(left)
		i, ok := known[k]
		if ok && p.tailEnds[i].len == int32(left) && sumOf(p.tailEnds[i].piece(), size) == sum {
			p.duplicates = true
		} else {
			i = int32(len(p.tailEnds))
			known[k] = i
			p.tailEnds = append(p.tailEnds, tailEnd{node: n, len: int32(left)})
		}
		d.tailEnd = i
	}
	p.share(size)
}

// maxBlocks limits the number of all blocks of all files. Each takes four bytes of
// memory and of the inode table, holes too. The limit corresponds to 64 TiB in
// blocks of 1 MiB and to 256 MiB of memory.
const maxBlocks = 1 << 26

// checkBlockCount returns an error that names the largest file if there are more
// than maxBlocks blocks.
func (p *plan) checkBlockCount(size int) error {
	all := int64(0)
	var largest *node
	for _, n := range p.files {
		all += n.data.blocks
		if largest == nil || n.data.size > largest.data.size {
			largest = n
		}
	}
	if all <= maxBlocks {
		return nil
	}
	return fmt.Errorf("the files have %d blocks of %d bytes in all, the limit is %d: leave out large sparse files, the largest is %s with %d bytes",
		all, size, maxBlocks, show(largest.path()), largest.data.size)
}

type position struct {
	data  *fileData
	block int64
}

// maxPositions limits how many positions of equal blocks are compared.
const maxPositions = 8

// share finds files whose blocks are equal to a run of blocks of an earlier file.
func (p *plan) share(size int64) {
	p.shared = map[*fileData]position{}
	positions := map[sums.Sum][]position{}
	for _, n := range p.files {
		d := n.data
		// Holes take no space, so the first other block is looked up.
		first, sum := int64(0), sums.Sum{}
		for ; first < d.blocks; first++ {
			if first += d.zeroBlocks(first, size); first == d.blocks {
				break
			}
			if sum = sumOf(n.piece(first, size), size); sum != (sums.Sum{}) {
				break
			}
		}
		if first == d.blocks {
			continue
		}
		for _, at := range positions[sum] {
			from := at.block - first
			if from >= 0 && d.equalBlocks(at.data, from, size) {
				p.shared[d] = position{at.data, from}
				p.duplicates = true
				break
			}
		}
		if p.shared[d].data != nil {
			continue
		}
		for i := first; i < d.blocks; i++ {
			if i += d.zeroBlocks(i, size); i == d.blocks {
				break
			}
			sum := sumOf(n.piece(i, size), size)
			if list := positions[sum]; sum != (sums.Sum{}) && len(list) < maxPositions {
				positions[sum] = append(list, position{d, i})
			}
		}
	}
}

func (n *node) piece(i, size int64) piece {
	return piece{n, i * size, int(min(size, n.data.size-i*size))}
}

// equalBlocks reports whether all blocks of d equal the blocks of other from block
// from on.
func (d *fileData) equalBlocks(other *fileData, from, size int64) bool {
	if from+d.blocks > other.blocks {
		return false
	}
	each := size / hashed(size)
	for i := range d.blocks {
		if d.blockLen(i, size) != other.blockLen(from+i, size) {
			return false
		}
		for j := range (d.blockLen(i, size) + hashed(size) - 1) / hashed(size) {
			a, aZero := d.sums.Block(i*each + j)
			b, bZero := other.sums.Block((from+i)*each + j)
			if a != b || aZero != bZero {
				return false
			}
		}
	}
	return true
}

// zeroBlocks returns how many blocks from i on are all zeros.
func (d *fileData) zeroBlocks(i, size int64) int64 {
	each := hashed(size)
	zeros := d.sums.ZeroRun(i * size / each)
	if (i*size + zeros*each) >= d.size {
		return d.blocks - i
	}
	return zeros * each / size
}

func (d *fileData) blockLen(i, size int64) int64 { return min(size, d.size-i*size) }

// sumOf returns a checksum of a piece, made from the file's checksums, or the zero
// Sum if the piece is all zeros.
func sumOf(p piece, size int64) sums.Sum {
	block := hashed(size)
	first := p.off / block
	n := (int64(p.len) + block - 1) / block
	if n == 1 {
		sum, _ := p.node.data.sums.Block(first)
		return sum
	}
	h := sha256.New()
	all := true
	for i := range n {
		sum, zero := p.node.data.sums.Block(first + i)
		all = all && zero
		h.Write(sum[:])
	}
	if all {
		return sums.Sum{}
	}
	return sums.Sum(h.Sum(nil))
}

// bySimilarity returns some tail ends in an order in which similar ones are near each
// other, so that they are in the same fragment block and compress well.
func (p *plan) bySimilarity(ctx context.Context, ends []int32, opt Options) ([]int32, error) {
	size := int64(opt.BlockSize)
	contents := similarity.Contents{
		Len: len(ends),
		Key: func(i int) similarity.Key {
			e := &p.tailEnds[ends[i]]
			return similarity.Key{Sum: sumOf(e.piece(), size), Len: e.len}
		},
		// It reads a whole buffer, which can be compared with a checksum.
		Start: func(i int, buf []byte) ([]byte, error) {
			part := p.tailEnds[ends[i]].piece()
			part.len = min(part.len, len(buf))
			err := part.read(buf[:part.len], size)
			return buf[:min(part.len, similarity.Sketched)], err
		},
		Buffer: int(hashed(size)),
	}
	order, err := similarity.Order(ctx, contents, similarity.Options{Workers: opt.Workers, Cache: opt.Cache})
	for i, at := range order {
		order[i] = ends[at]
	}
	return order, err
}

// fragments divides tail ends, in the given order, into fragment blocks of at most
// size bytes, and sets the position of each.
//
// A block ends within its last sixteenth, in front of the tail end with the
// smallest checksum. So after a change, most later blocks are the same as before
// and come from the cache.
func (p *plan) fragments(order []int32, size int64) [][]int32 {
	var blocks [][]int32
	for len(order) > 0 {
		used, i, cut, least := int64(0), 0, 0, uint64(0)
		for ; i < len(order); i++ {
			e := &p.tailEnds[order[i]]
			if used+int64(e.len) > size {
				break
			}
			if sum := sumOf(e.piece(), size); used >= size-size/16 {
				if n := binary.LittleEndian.Uint64(sum[:]); cut == 0 || n < least {
					cut, least = i, n
				}
			}
			used += int64(e.len)
		}
		if i == len(order) || cut == 0 {
			cut = i
		}
		at := uint32(0)
		for _, e := range order[:cut] {
			p.tailEnds[e].fragment, p.tailEnds[e].at = uint32(len(blocks)), at
			at += uint32(p.tailEnds[e].len)
		}
		blocks = append(blocks, order[:cut])
		order = order[cut:]
	}
	return blocks
}

// dataBlocks yields the data blocks of all files that are not kept, in the order of
// their paths. It reports whether yield accepted all of them.
func (p *plan) dataBlocks(size int64, yield func(block) bool) bool {
	for _, n := range p.files {
		if p.shared[n.data].data != nil || n.data.kept {
			continue
		}
		for i := int64(0); i < n.data.blocks; i++ {
			// One block for a whole hole: a few bytes of a tar may be a hole of terabytes.
			if k := n.data.zeroBlocks(i, size); k > 0 {
				bytes := min((i+k)*size, n.data.size) - i*size
				if !yield(block{file: n.data, zeros: k, bytes: bytes}) {
					return false
				}
				i += k - 1
				continue
			}
			if !yield(block{file: n.data, pieces: []piece{n.piece(i, size)}}) {
				return false
			}
		}
	}
	return true
}

func (p *plan) fragmentBlock(tailEnds []int32, number int) block {
	b := block{fragment: number, pieces: make([]piece, 0, len(tailEnds))}
	for _, i := range tailEnds {
		b.pieces = append(b.pieces, p.tailEnds[i].piece())
	}
	return b
}

// locateShared sets the position of the blocks that files share with others, once
// all blocks are written. It frees the checksums: for a million files they take more
// memory than the tables.
func (p *plan) locateShared() {
	for d, at := range p.shared {
		d.start = at.data.start
		for _, w := range at.data.words[:at.block] {
			d.start += int64(w &^ blockRaw)
		}
		d.words = at.data.words[at.block : at.block+d.blocks]
	}
	for _, n := range p.files {
		n.data.sums = nil
	}
}

// sparse returns how many bytes of a file are in holes.
func (d *fileData) sparse(size int64) (n int64) {
	for i, w := range d.words {
		if w == 0 {
			n += d.blockLen(int64(i), size)
		}
	}
	return n
}
