package ext4

import (
	"bytes"
	"encoding/binary"
	"io"
	"math"

	"imgtool/image"
	"imgtool/image/tree"
)

// New returns the image of a file system of opt.Size bytes with the files of t, which
// may be nil, and a directory lost+found. The extents of the image are named by the
// path of a file or the kind of metadata; bytes outside of them need not be written.
//
// If the tree does not fit, the error is a [*FullError].
func New(t *tree.Tree, opt Options) (*image.Image, error) {
	// 1. Inodes, directories and xattrs, which do not depend on the allocation.
	p, err := collect(t, opt)
	if err != nil {
		return nil, err
	}
	// 2. Allocation of all blocks.
	if err := p.fit(); err != nil {
		return nil, err
	}
	// 3. Metadata of the groups, then the superblock and its copies, which have the
	// number of free blocks and inodes.
	b := &builder{plan: p}
	groups := b.groups()
	b.superblocks(groups)
	b.bitmapsAndTables()
	// 4. Content of files.
	if p.resize != nil {
		b.resizeBlocks()
	}
	for _, x := range p.xattrs {
		b.add("extended attributes", x.block, bytes.NewReader(x.encode(p.seed)))
	}
	for _, f := range p.all() {
		b.blocks(f)
	}
	return image.New(opt.Size, b.extents...)
}

type builder struct {
	*plan
	extents []image.Extent
	table   []byte // all inodes, from 1 on
	desc    []groupState
	backup  [68]byte // copy of i_block and size of the journal's inode
}

func (b *builder) add(name string, block int64, c image.Content) {
	b.extents = append(b.extents, image.Extent{Name: name, Off: block * blockSize, Content: c})
}

func (p *plan) all() []*file {
	all := []*file{p.root}
	if p.journal != nil {
		all = append(all, p.journal)
	}
	return append(all, p.files...)
}

func (b *builder) blocks(f *file) {
	name := f.path
	switch {
	case f == b.root:
		name = "root folder" // these names are kept: manifests contain them
	case f.dir != nil:
		name = "folder " + name
	}
	off := int64(0)
	for _, r := range f.runs {
		b.add(name, r.start, section(f.content, off, r.n*blockSize))
		off += r.n * blockSize
	}
}

// groupState is a group's descriptor, and the block bitmap if that is written.
type groupState struct {
	descriptor
	bitmap  []byte
	inodes  int64 // number of inodes in use, which are the first of the group
	written int64 // blocks of the inode table that are written
}

// groups makes inodes, bitmaps and descriptors, and returns the encoded
// descriptors.
func (b *builder) groups() []byte {
	b.inodes()
	used := int64(lostInode - 1 + len(b.files))
	dirs := make([]uint32, b.geometry.groups)
	for _, f := range b.all() {
		if f.dir != nil {
			dirs[int64(f.number-1)/b.geometry.inodes]++
		}
	}
	full := bytes.Repeat([]byte{0xff}, blockSize)
	fullSum := crc(b.seed, full)

	var out []byte
	free := b.space.free
	b.desc = make([]groupState, b.geometry.groups)
	for i := range b.geometry.groups {
		g := &b.desc[i]
		start := i * groupBlocks
		length := b.groupLen(i)

		// Blocks: all are used but for the runs that are left.
		left := int64(0)
		bitmap := full
		for len(free) > 0 && free[0].end() <= start {
			free = free[1:]
		}
		for _, f := range free {
			if f.start >= start+length {
				break
			}
			from, to := max(f.start, start)-start, min(f.end(), start+length)-start
			if left == 0 && from < to {
				bitmap = bytes.Clone(full)
			}
			left += to - from
			setBits(bitmap, from, to, false)
		}
		flags := uint16(0)
		if i > 0 && i < b.geometry.groups-1 && left == length-b.base(i) {
			flags |= blockUninit
		} else {
			g.bitmap = bitmap
			sum := fullSum
			if left > 0 {
				sum = crc(b.seed, bitmap)
			}
			g.BlockCsum, g.BlockCsumHigh = uint16(sum), uint16(sum>>16)
		}

		// Inodes: numbers are given from the front.
		g.inodes = max(0, min(b.geometry.inodes, used-i*b.geometry.inodes))
		g.written = ceil(g.inodes, perBlock)
		unused := b.geometry.inodes - g.inodes
		if g.inodes == 0 && i > 0 {
			flags |= inodeUninit
		} else {
			sum := crc(b.seed, b.inodeBitmap(i)[:b.geometry.inodes/8])
			g.InodeCsum, g.InodeCsumHigh = uint16(sum), uint16(sum>>16)
		}
		if g.written == b.geometry.table {
			flags |= inodeZeroed
		}
		g.Flags = flags
		g.BlockBitmap, g.BlockBitmapHigh = halves(b.blockBitmaps[i])
		g.InodeBitmap, g.InodeBitmapHigh = halves(b.inodeBitmaps[i])
		g.InodeTable, g.InodeTableHigh = halves(b.tables[i])
		g.FreeBlocks, g.FreeBlocksHigh = uint16(left), uint16(left>>16)
		g.FreeInodes, g.FreeInodesHigh = uint16(unused), uint16(unused>>16)
		g.Unused, g.UnusedHigh = g.FreeInodes, g.FreeInodesHigh
		g.Dirs, g.DirsHigh = uint16(dirs[i]), uint16(dirs[i]>>16)

		at := len(out)
		out = appendTo(out, g.descriptor)
		sum := crc(crc32le(b.seed, uint32(i)), out[at:])
		g.Checksum = uint16(sum)
		le.PutUint16(out[at+0x1e:], g.Checksum)
	}
	return append(out, make([]byte, b.descs*blockSize-int64(len(out)))...)
}

func halves(n int64) (low, high uint32) { return uint32(n), uint32(n >> 32) }

func setBits(bitmap []byte, from, to int64, on bool) {
	for i := from; i < to; {
		mask, n := byte(1)<<(i%8), int64(1)
		if i%8 == 0 && to-i >= 8 {
			mask, n = 0xff, 8
		}
		if on {
			bitmap[i/8] |= mask
		} else {
			bitmap[i/8] &^= mask
		}
		i += n
	}
}

// inodeBitmap returns the inode bitmap of a group. Bits beyond its inodes are set.
func (b *builder) inodeBitmap(group int64) []byte {
	bitmap := make([]byte, blockSize)
	setBits(bitmap, 0, b.desc[group].inodes, true)
	setBits(bitmap, b.geometry.inodes, groupBlocks, true)
	return bitmap
}

// bitmapsAndTables adds the bitmaps and inode tables of groups in use. The kernel
// initialises the rest of an inode table.
func (b *builder) bitmapsAndTables() {
	for i := range b.desc {
		g := &b.desc[i]
		if g.Flags&blockUninit == 0 {
			b.add("block bitmap", b.blockBitmaps[i], bytes.NewReader(g.bitmap))
		}
		if g.Flags&inodeUninit == 0 {
			b.add("inode bitmap", b.inodeBitmaps[i], bytes.NewReader(b.inodeBitmap(int64(i))))
			from := int64(i) * b.geometry.table * blockSize
			b.add("inode table", b.tables[i], bytes.NewReader(b.table[from:from+g.written*blockSize]))
		}
	}
}

// superblocks adds the superblock, the descriptors and their copies.
func (b *builder) superblocks(groups []byte) {
	s := superblock{
		BlocksPerGroup: groupBlocks, ClustersPerGroup: groupBlocks, InodesPerGroup: uint32(b.geometry.inodes),
		LogBlock: 2, LogCluster: 2, MaxMounts: math.MaxUint16, Magic: magic, State: 1, Errors: 1, Revision: 1,
		FirstInode: lostInode, InodeSize: inodeSize,
		Compat: compatible, Incompat: incompatible, ROCompat: roCompatible,
		UUID: b.opt.UUID, HashSeed: b.opt.HashSeed, HashVersion: halfMD4, DescSize: descSize, MountOptions: mountOptions,
		ReservedGDT: uint16(b.reserved), MinExtra: extraSize, WantExtra: extraSize, Flags: unsignedHash,
		LogFlex: flexLog, ChecksumType: crc32c, Overhead: uint32(b.overhead()),
	}
	copy(s.Label[:], b.opt.Label)
	if b.reserved == 0 {
		s.Compat &^= hasResize
	}
	if b.journal == nil {
		s.Compat &^= hasJournal
	} else {
		s.Journal, s.JournalBackup, s.JournalBlocks = journalInode, jnlInBlocks, b.backup
	}
	free, freeInodes := int64(0), int64(0)
	for i := range b.desc {
		free += int64(b.desc[i].FreeBlocks) | int64(b.desc[i].FreeBlocksHigh)<<16
		freeInodes += int64(b.desc[i].FreeInodes) | int64(b.desc[i].FreeInodesHigh)<<16
	}
	s.Inodes, s.FreeInodes = uint32(b.geometry.inodes*b.geometry.groups), uint32(freeInodes)
	s.Blocks, s.BlocksHigh = halves(b.geometry.blocks)
	s.FreeBlocks, s.FreeBlocksHigh = halves(free)
	s.Reserved, s.ReservedHigh = halves(b.geometry.blocks * int64(max(b.opt.Reserved, 0)) / 100)
	// Unlike an inode's, these times have 40 bits and no sign.
	now := min(max(b.opt.Time, 0), 1<<40-1)
	s.Made, s.Written, s.Checked = uint32(now), uint32(now), uint32(now)
	s.MadeHigh, s.WrittenHigh, s.CheckedHigh = uint8(now>>32), uint8(now>>32), uint8(now>>32)

	for _, i := range b.supers() {
		// The whole block, so that no signature of a former file system is left.
		block := make([]byte, blockSize)
		at := 0
		if i == 0 {
			at = superOff
		}
		s.Group = uint16(i)
		encoded := appendTo(nil, s)
		le.PutUint32(encoded[csumOff:], crc(math.MaxUint32, encoded[:csumOff]))
		copy(block[at:], encoded)
		b.add("superblock", i*groupBlocks, bytes.NewReader(block))
		b.add("group descriptors", i*groupBlocks+1, bytes.NewReader(groups))
	}
}

// journal returns an empty journal: a superblock, which is big-endian, and zeros, because
// the kernel would replay what the disk had there. (Documentation/filesystems/ext4,
// "Journal (jbd2)", "Super Block")
func journal(blocks int64) image.Content {
	head := make([]byte, 0, blockSize)
	// Magic, superblock version 2, sequence; block size, number of blocks, first block
	// of the log, its first sequence; no features, one user.
	for _, v := range []uint32{0xc03b3998, 4, 0, blockSize, uint32(blocks), 1, 1} {
		head = binary.BigEndian.AppendUint32(head, v)
	}
	head = head[:blockSize]
	binary.BigEndian.PutUint32(head[64:], 1)
	return &rendered{blocks, func(i int64) []byte {
		if i == 0 {
			return head
		}
		return nil
	}}
}

// rendered is content of which blocks are made when they are read; nil is zeros.
type rendered struct {
	blocks int64
	block  func(i int64) []byte
}

func (r *rendered) Size() int64 { return r.blocks * blockSize }

func (r *rendered) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	for n < len(p) {
		if off < 0 || off >= r.Size() {
			return n, io.EOF
		}
		part := p[n:min(int64(len(p)), int64(n)+blockSize-off%blockSize)]
		if b := r.block(off / blockSize); b != nil {
			copy(part, b[off%blockSize:])
		} else {
			clear(part)
		}
		n, off = n+len(part), off+int64(len(part))
	}
	return n, nil
}

// resizeBlocks adds the double indirect block of the resize inode, which has the numbers
// of the reserved descriptor blocks, and these, each of which has the numbers of its
// copies.
func (b *builder) resizeBlocks() {
	backups := b.supers()[1:]
	first := 1 + b.descs
	dind := make([]byte, blockSize)
	for i := range b.reserved {
		le.PutUint32(dind[(b.descs+i)%(blockSize/4)*4:], uint32(first+i))
	}
	b.add("resize inode", b.resize[0].start, bytes.NewReader(dind))
	b.add("reserved group descriptors", first, &rendered{b.reserved, func(i int64) []byte {
		block := make([]byte, 0, blockSize)
		for _, group := range backups {
			block = le.AppendUint32(block, uint32(group*groupBlocks+first+i))
		}
		return block[:blockSize]
	}})
}

// inodes encodes all inodes, and adds the blocks of their extent trees.
func (b *builder) inodes() {
	last := int64(lostInode - 1 + len(b.files))
	b.table = make([]byte, roundUp(last*inodeSize, blockSize))
	for _, f := range b.all() {
		b.inode(f)
	}
	if b.resize == nil {
		return
	}
	// The resize inode has indirect blocks. Its size is the size of all blocks that a
	// double indirect block can map.
	n := b.encode(&file{node: &tree.Inode{Mode: tree.Regular | 0o600, ModTime: b.opt.Time}, number: resizeInode, links: 1})
	const perBlock = blockSize / 4
	n.Size, n.SizeHigh = halves((12 + perBlock + perBlock*perBlock) * blockSize)
	n.Blocks = uint32((1 + b.reserved*int64(len(b.supers()))) * sectors)
	le.PutUint32(n.Block[13*4:], uint32(b.resize[0].start))
	b.put(resizeInode, n, nil)
}

func (b *builder) inode(f *file) {
	n := b.encode(f)
	seed := inodeSeed(b.seed, f.number, 0)
	switch t := f.node.Type(); {
	case t == tree.Symlink && f.content == nil:
		copy(n.Block[:], f.node.Target)
	case t == tree.CharDev || t == tree.BlockDev:
		major, minor := f.node.Major, f.node.Minor
		if major < 256 && minor < 256 {
			le.PutUint32(n.Block[:], major<<8|minor)
		} else {
			le.PutUint32(n.Block[4:], minor&0xff|major<<8|minor&^0xff<<12)
		}
	case t == tree.Fifo || t == tree.Socket:
	default:
		root, blocks := f.extentTree(seed)
		copy(n.Block[:], root)
		n.Flags |= extentFlag
		b.extents = append(b.extents, blocks...)
	}
	if f.dir != nil && f.dir.indexed {
		n.Flags |= indexFlag
	}
	if f == b.journal {
		copy(b.backup[:], n.Block[:])
		le.PutUint32(b.backup[60:], n.SizeHigh)
		le.PutUint32(b.backup[64:], n.Size)
	}
	b.put(f.number, n, f.xattrs)
}

// encode returns the fields that all types of files have.
func (b *builder) encode(f *file) *inode {
	m := f.node
	n := &inode{Mode: uint16(m.Mode), ExtraSize: extraSize}
	n.UID, n.UIDHigh = uint16(m.UID), uint16(m.UID>>16)
	n.GID, n.GIDHigh = uint16(m.GID), uint16(m.GID>>16)
	n.Size, n.SizeHigh = halves(f.size)
	n.Links = uint16(f.links)
	if f.dir != nil && f.links > maxLinks {
		n.Links = 1 // dir_nlink: not counted
	}
	blocks := f.blocks()
	for _, r := range f.index {
		blocks += r.n
	}
	if f.more != nil {
		blocks++
		n.XattrBlock, n.XattrBlockHigh = uint32(f.more.block), uint16(f.more.block>>32)
	}
	n.Blocks, n.BlocksHigh = uint32(blocks*sectors), uint16(blocks*sectors>>32)
	n.Mtime, n.MtimeExtra = stamp(m.ModTime)
	n.Atime, n.AtimeExtra = n.Mtime, n.MtimeExtra
	n.Ctime, n.CtimeExtra = n.Mtime, n.MtimeExtra
	n.Crtime, n.CrtimeExtra = stamp(b.opt.Time)
	return n
}

// stamp encodes a time from 1901 to 2446: 32 bits with a sign, and in the lowest two bits
// of another word the multiple of 2^32 to add. (Documentation/filesystems/ext4, "Inode
// Timestamps")
func stamp(t int64) (low, extra uint32) {
	t = min(max(t, math.MinInt32), math.MaxInt32+3<<32)
	return uint32(t), uint32((t-int64(int32(t)))>>32) & 3
}

// put stores an inode in the table, with its checksum.
func (b *builder) put(number uint32, n *inode, xattrs []byte) {
	at := int64(number-1) * inodeSize
	raw := append(appendTo(b.table[at:at:at+inodeSize], n), xattrs...)
	sum := crc(inodeSeed(b.seed, number, 0), b.table[at:at+inodeSize])
	le.PutUint16(raw[0x7c:], uint16(sum))
	le.PutUint16(raw[0x82:], uint16(sum>>16))
}
