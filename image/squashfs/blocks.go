package squashfs

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"imgtool/image/tree/sums"
)

// end is the last bytes of a file, or all of them, that share a fragment block
// with others. Equal ends are one.
type end struct {
	node     *node // whose it is; the first of several
	len      int32
	fragment uint32 // the block it is in, and where in it
	at       uint32
}

func (e *end) piece() piece { return piece{e.node, e.node.data.size - int64(e.len), int(e.len)} }

// piece is a run of a file's bytes that begins with a block.
type piece struct {
	node *node
	off  int64
	len  int
}

// read fills b with a piece, and sees to it that it is what was hashed.
func (p piece) read(b []byte, size int64) error {
	if err := p.node.read(b, p.off); err != nil {
		return err
	}
	each := int(hashed(size))
	for off := 0; off < len(b); off += each {
		if at := p.off + int64(off); !p.node.data.sums.Same(at/int64(each), b[off:min(off+each, len(b))]) {
			return fmt.Errorf("%s: it changed while it was read: the bytes at %d are not what they were a moment ago", show(p.node.path()), at)
		}
	}
	return nil
}

// block is a data block of one file or a fragment block of the ends of several.
type block struct {
	file   *data // nil for a fragment block
	pieces []piece
	zeros  int64 // so many blocks of nothing but zeros, which have no pieces
	bytes  int64 // of those
}

// ownEnd says whether the end of a file is a block of its own, and not in a fragment:
// one that leaves little room beside it. A large file that changes makes no other
// block new then.
func ownEnd(end, size int64) bool { return end > size/8*5 }

// hashed is how many bytes of a file each of its sums is over: all of them that
// are in one block of size bytes make the key of that.
func hashed(size int64) int64 { return min(sums.BlockSize, size) }

// cut takes files apart into blocks and ends of no more than size bytes.
func (p *plan) cut(checksums *sums.Checksums, size int64) {
	p.ends = make([]end, 0, len(p.files))
	// By the beginning of its hash: there may be very many.
	known := map[uint64]int32{}
	for _, n := range p.files {
		d := n.data
		d.sums = checksums.Of(n.Inode)
		d.blocks = d.size / size
		left := d.size % size
		if left == 0 {
			continue
		}
		if ownEnd(left, size) {
			d.blocks++
			continue
		}
		sum := sumOf(piece{n, d.size - left, int(left)}, size)
		k := binary.LittleEndian.Uint64(sum[:]) + uint64(left)
		i, ok := known[k]
		if ok && p.ends[i].len == int32(left) && sumOf(p.ends[i].piece(), size) == sum {
			p.duplicates = true
		} else {
			i = int32(len(p.ends))
			known[k] = i
			p.ends = append(p.ends, end{node: n, len: int32(left)})
		}
		d.end = i
	}
	p.share(size)
}

// maxBlocks bounds the lists of blocks, in which holes take four bytes a block, too: it
// is enough for 64 TiB in blocks of 1 MiB, and takes 256 MiB of memory.
const maxBlocks = 1 << 26

// tooManyBlocks names the largest file where there are too many blocks.
func (p *plan) tooManyBlocks(size int) error {
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

// place is a block of a file.
type place struct {
	d  *data
	at int64
}

// runPlaces is how many places a block is looked for in at most.
const runPlaces = 8

// share finds files whose blocks are all, in their order, those of a file before
// them, or some of those.
func (p *plan) share(size int64) {
	p.like = map[*data]place{}
	places := map[sums.Sum][]place{}
	for _, n := range p.files {
		d := n.data
		// Holes take no room, so it is the first of the others that is looked for.
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
		for _, at := range places[sum] {
			from := at.at - first
			if from >= 0 && d.likeBlocks(at.d, from, size) {
				p.like[d] = place{at.d, from}
				p.duplicates = true
				break
			}
		}
		if p.like[d].d != nil {
			continue
		}
		for i := first; i < d.blocks; i++ {
			if i += d.zeroBlocks(i, size); i == d.blocks {
				break
			}
			sum := sumOf(n.piece(i, size), size)
			if list := places[sum]; sum != (sums.Sum{}) && len(list) < runPlaces {
				places[sum] = append(list, place{d, i})
			}
		}
	}
}

// piece is block i of a file.
func (n *node) piece(i, size int64) piece {
	return piece{n, i * size, int(min(size, n.data.size-i*size))}
}

// likeBlocks says whether all blocks of d are those of other from one on.
func (d *data) likeBlocks(other *data, from, size int64) bool {
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

// zeroBlocks is how many blocks from i on are nothing but zeros.
func (d *data) zeroBlocks(i, size int64) int64 {
	each := hashed(size)
	zeros := d.sums.ZeroRun(i * size / each)
	if (i*size + zeros*each) >= d.size {
		return d.blocks - i
	}
	return zeros * each / size
}

func (d *data) blockLen(i, size int64) int64 { return min(size, d.size-i*size) }

// sumOf is the hash of a piece by those of what is in it, and zero if that is
// zeros.
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

// fragments puts the ends, in an order in which like is near like, into blocks of
// size bytes, and says which are in each.
//
// A block is not filled to the last byte: it ends where, in the last sixteenth, the
// hash of an end is the smallest. After a change, other blocks become what they
// were before soon, and need not be compressed again.
func (p *plan) fragments(order []int32, size int64) [][]int32 {
	var blocks [][]int32
	for len(order) > 0 {
		used, i, cut, least := int64(0), 0, 0, uint64(0)
		for ; i < len(order); i++ {
			e := &p.ends[order[i]]
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
			p.ends[e].fragment, p.ends[e].at = uint32(len(blocks)), at
			at += uint32(p.ends[e].len)
		}
		blocks = append(blocks, order[:cut])
		order = order[cut:]
	}
	return blocks
}

// blocks are those of the files in the order they are written, before the fragments.
// It says whether yield took all of them.
func (p *plan) blocks(size int64, yield func(block) bool) bool {
	for _, n := range p.files {
		if p.like[n.data].d != nil {
			continue
		}
		for i := int64(0); i < n.data.blocks; i++ {
			// A hole of a few bytes in a tar may be as large as any disk.
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

// fragmentBlocks are those of the ends that are put together.
func (p *plan) fragmentBlocks(fragments [][]int32, yield func(block) bool) {
	for _, ends := range fragments {
		b := block{pieces: make([]piece, 0, len(ends))}
		for _, i := range ends {
			b.pieces = append(b.pieces, p.ends[i].piece())
		}
		if !yield(b) {
			return
		}
	}
}

// settle says where the blocks are that are those of other files.
func (p *plan) settle() {
	for d, like := range p.like {
		d.start = like.d.start
		for _, w := range like.d.words[:like.at] {
			d.start += int64(w &^ blockRaw)
		}
		d.words = like.d.words[like.at : like.at+d.blocks]
	}
}

// sparse is how many bytes of a file are in holes.
func (d *data) sparse(size int64) (n int64) {
	for i, w := range d.words {
		if w == 0 {
			n += d.blockLen(int64(i), size)
		}
	}
	return n
}
