package ext4

import (
	"cmp"
	"fmt"
	"math/bits"
	"slices"

	"imgtool/image/tree"
)

// kinds are the file types in directory entries: Documentation/filesystems/ext4,
// "Directory Entries".
var kinds = map[uint32]uint8{
	tree.Regular: 1, tree.Dir: 2, tree.CharDev: 3, tree.BlockDev: 4, tree.Fifo: 5, tree.Socket: 6, tree.Symlink: 7,
}

const (
	tailSize = 12   // of ext4_dir_entry_tail, an entry without a name that has the checksum
	tailKind = 0xde // its file type
	leafSize = blockSize - tailSize
	dotsSize = 24 // the entries "." and ".."

	// Offsets of the index in its root and in its other blocks, and the number of
	// entries of 8 bytes in each. The last 8 bytes have the checksum.
	rootIndex = 32
	rootLimit = (blockSize - rootIndex - 8) / 8
	nodeIndex = 8
	nodeLimit = (blockSize - nodeIndex - 8) / 8

	halfMD4 = 1 // s_def_hash_version
)

type entry struct {
	name   string
	number uint32
	hash   uint32
	kind   uint8
}

// size returns the length of an entry in bytes.
func (e entry) size() int { return 8 + (len(e.name)+3)&^3 }

// directory is a directory, of which blocks are made when they are read.
// A directory of more than one block has an index of hashes: block 0 is the root,
// followed by nodes, if there are more leaves than entries in the root, and leaves with
// the directory entries. (Documentation/filesystems/ext4, "Hash Tree Directories")
type directory struct {
	number, parent uint32
	seed           uint32 // of the checksums
	hashSeed       [16]byte
	least          int64 // minimum number of blocks

	entries []entry
	starts  []int // index of the first entry of each leaf
	indexed bool
	nodes   int64
	blocks  int64
}

// layOut divides the entries among blocks.
func (d *directory) layOut() error {
	size := dotsSize
	for _, e := range d.entries {
		size += e.size()
	}
	if size <= leafSize {
		d.starts, d.blocks = []int{0}, max(1, d.least)
		return nil
	}
	d.indexed = true
	for i := range d.entries {
		d.entries[i].hash = hash(d.entries[i].name, d.hashSeed)
	}
	slices.SortFunc(d.entries, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.name, b.name))
	})
	used := leafSize
	for i, e := range d.entries {
		if used+e.size() > leafSize {
			d.starts, used = append(d.starts, i), 0
		}
		used += e.size()
	}
	leaves := int64(len(d.starts))
	if leaves > rootLimit {
		d.nodes = ceil(leaves, nodeLimit)
	}
	if d.nodes > rootLimit {
		return fmt.Errorf("%d names are too many for a directory", len(d.entries))
	}
	d.blocks = 1 + d.nodes + leaves
	return nil
}

func (d *directory) block(i int64) []byte {
	b := make([]byte, 0, blockSize)
	leaf := i
	switch {
	case d.indexed && i == 0:
		b = d.dots(b, blockSize-12)
		// dx_root_info: reserved, hash version, its length, levels between root and leaves.
		b = append(b, 0, 0, 0, 0, halfMD4, 8, byte(min(d.nodes, 1)), 0)
		if d.nodes > 0 {
			return d.index(b, rootLimit, d.nodes, 1, func(i int64) int64 { return i * nodeLimit })
		}
		return d.index(b, rootLimit, int64(len(d.starts)), 1, func(i int64) int64 { return i })
	case d.indexed && i <= d.nodes:
		b = appendEntry(b, entry{}, blockSize)
		first := (i - 1) * nodeLimit
		n := min(nodeLimit, int64(len(d.starts))-first)
		return d.index(b, nodeLimit, n, 1+d.nodes+first, func(i int64) int64 { return first + i })
	case d.indexed:
		leaf -= 1 + d.nodes
	case i == 0:
		b = d.dots(b, 12)
	}
	var entries []entry
	if leaf < int64(len(d.starts)) {
		entries = d.entries[d.starts[leaf]:]
		if leaf+1 < int64(len(d.starts)) {
			entries = entries[:d.starts[leaf+1]-d.starts[leaf]]
		}
	}
	last := 0 // offset of the last entry, which extends to the end
	if len(b) > 0 {
		last = 12
	}
	for _, e := range entries {
		last = len(b)
		b = appendEntry(b, e, e.size())
	}
	if len(b) == 0 {
		b = appendEntry(b, entry{}, leafSize)
	}
	le.PutUint16(b[last+4:], uint16(leafSize-last))
	b = b[:leafSize]
	sum := crc(d.seed, b)
	return appendTo(b, uint32(0), uint16(tailSize), uint8(0), uint8(tailKind), sum)
}

func (d *directory) dots(b []byte, second int) []byte {
	b = appendEntry(b, entry{name: ".", number: d.number, kind: kinds[tree.Dir]}, 12)
	b = appendEntry(b, entry{name: "..", number: d.parent, kind: kinds[tree.Dir]}, second)
	return b[:dotsSize]
}

func appendEntry(b []byte, e entry, size int) []byte {
	b = le.AppendUint32(b, e.number)
	b = le.AppendUint16(b, uint16(size))
	b = append(b, byte(len(e.name)), e.kind)
	b = append(b, e.name...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// index appends n index entries to b. Entry i refers to the i-th block from block on,
// and has the lowest hash there, but in place of the first hash are limit and count.
// leaf returns the first leaf below entry i.
func (d *directory) index(b []byte, limit, n, block int64, leaf func(i int64) int64) []byte {
	for i := range n {
		if i == 0 {
			b = le.AppendUint16(b, uint16(limit))
			b = le.AppendUint16(b, uint16(n))
		} else {
			first := d.starts[leaf(i)]
			h := d.entries[first].hash
			if d.entries[first-1].hash == h {
				h |= 1 // the leaf before has names with this hash, too
			}
			b = le.AppendUint32(b, h)
		}
		b = le.AppendUint32(b, uint32(block+i))
	}
	// The checksum covers the entries and 8 bytes of zeros in its place.
	sum := crc(crc(d.seed, b), make([]byte, 8))
	b = b[:blockSize]
	le.PutUint32(b[blockSize-4:], sum)
	return b
}

// hash returns the half MD4 hash of a name with unsigned bytes: ext4fs_dirhash in
// fs/ext4/hash.c of Linux. The lowest bit is reserved for the index.
func hash(name string, seed [16]byte) uint32 {
	buf := [4]uint32{0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476}
	if seed != [16]byte{} {
		for i := range buf {
			buf[i] = le.Uint32(seed[4*i:])
		}
	}
	for {
		in := hashInput(name)
		halfMD4Transform(&buf, in)
		if len(name) <= 32 {
			break
		}
		name = name[32:]
	}
	h := buf[1] &^ 1
	if h == 0xfffffffe { // readdir uses it for the end of the directory
		h = 0xfffffffc
	}
	return h
}

// hashInput returns the first 32 bytes of name, padded with its length.
func hashInput(name string) [8]uint32 {
	pad := uint32(len(name)) * 0x01010101
	name = name[:min(len(name), 32)]
	var in [8]uint32
	for i := range in {
		val := pad
		for j := 4 * i; j < min(len(name), 4*i+4); j++ {
			val = val<<8 + uint32(name[j])
		}
		in[i] = val
	}
	return in
}

func halfMD4Transform(buf *[4]uint32, in [8]uint32) {
	v := *buf
	round := func(f func(x, y, z uint32) uint32, add uint32, order [8]int, shift [4]int) {
		for i, k := range order {
			a, b, c, d := &v[(8-i)%4], v[(9-i)%4], v[(10-i)%4], v[(11-i)%4]
			*a = bits.RotateLeft32(*a+f(b, c, d)+in[k]+add, shift[i%4])
		}
	}
	round(func(x, y, z uint32) uint32 { return z ^ x&(y^z) }, 0, [8]int{0, 1, 2, 3, 4, 5, 6, 7}, [4]int{3, 7, 11, 19})
	round(func(x, y, z uint32) uint32 { return x&y + (x^y)&z }, 0x5a827999, [8]int{1, 3, 5, 7, 0, 2, 4, 6}, [4]int{3, 5, 9, 13})
	round(func(x, y, z uint32) uint32 { return x ^ y ^ z }, 0x6ed9eba1, [8]int{3, 7, 2, 6, 1, 5, 0, 4}, [4]int{3, 9, 11, 15})
	for i := range buf {
		buf[i] += v[i]
	}
}
