package ext4

import (
	"bytes"
	"encoding/binary"
	"math"

	"imgtool/image"
	"imgtool/image/tree"
)

// New returns a file system of opt.Size bytes that holds the tree, which may be
// nil, and a folder lost+found. Its extents are what is to be written, named by
// their path or what they are; everything else may be anything.
//
// A tree that does not fit is a *FullError.
func New(t *tree.Tree, opt Options) (*image.Image, error) {
	// 1. Inodes, folders and xattrs, which do not depend on where things go.
	p, err := collect(t, opt)
	if err != nil {
		return nil, err
	}
	// 2. Blocks for everything.
	if err := p.fit(); err != nil {
		return nil, err
	}
	// 3. The superblock, and copies of it, need to know what is used.
	b := &builder{plan: p}
	groups := b.groups()
	b.superblocks(groups)
	b.bitmapsAndTables()
	// 4. What files hold.
	if p.resize != nil {
		b.resizeBlocks()
	}
	for _, x := range p.xattrs {
		b.add("extended attributes", x.block, content(x.encode(p.seed)))
	}
	for _, f := range p.all() {
		b.blocks(f)
	}
	return image.New(opt.Size, b.extents...)
}

func content(b []byte) image.Content { return bytes.NewReader(b) }

// builder makes extents of a plan.
type builder struct {
	*plan
	extents []image.Extent
	table   []byte // all inodes from 1 to the last
	desc    []groupState
	backup  [68]byte // of the journal's inode
}

func (b *builder) add(name string, block int64, c image.Content) {
	b.extents = append(b.extents, image.Extent{Name: name, Off: block * blockSize, Content: c})
}

// all are the inodes that have blocks or a number.
func (p *plan) all() []*file {
	all := []*file{p.root}
	if p.journal != nil {
		all = append(all, p.journal)
	}
	return append(all, p.files...)
}

// blocks adds what a file's blocks hold.
func (b *builder) blocks(f *file) {
	name := f.path
	switch {
	case f == b.root:
		name = "root folder"
	case f.folder != nil:
		name = "folder " + name
	}
	off := int64(0)
	for _, r := range f.runs {
		b.add(name, r.start, section(f.content, off, r.n*blockSize))
		off += r.n * blockSize
	}
}

// groupState is a group's descriptor, and the bitmap of its blocks if that has to
// be written.
type groupState struct {
	descriptor
	bitmap  []byte
	inodes  int64 // in use, the lowest of the group
	written int64 // blocks of its inode table
}

// groups makes inodes, bitmaps and descriptors, and returns the descriptors as
// they are on disk.
func (b *builder) groups() []byte {
	b.inodes()
	used := int64(lostInode - 1 + len(b.files))
	dirs := make([]uint32, b.geometry.groups)
	for _, f := range b.all() {
		if f.folder != nil {
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
		switch {
		case g.inodes == 0 && i > 0:
			flags |= inodeUninit
		default:
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

// inodeBitmap has what lies beyond the group's inodes marked, too.
func (b *builder) inodeBitmap(group int64) []byte {
	bitmap := make([]byte, blockSize)
	setBits(bitmap, 0, b.desc[group].inodes, true)
	setBits(bitmap, b.geometry.inodes, groupBlocks, true)
	return bitmap
}

// bitmapsAndTables adds those of groups that have something in them. What is
// left of an inode table is for the kernel to write.
func (b *builder) bitmapsAndTables() {
	for i := range b.desc {
		g := &b.desc[i]
		if g.Flags&blockUninit == 0 {
			b.add("block bitmap", b.blockBitmaps[i], content(g.bitmap))
		}
		if g.Flags&inodeUninit == 0 {
			b.add("inode bitmap", b.inodeBitmaps[i], content(b.inodeBitmap(int64(i))))
			from := int64(i) * b.geometry.table * blockSize
			b.add("inode table", b.tables[i], content(b.table[from:from+g.written*blockSize]))
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

	for i := range b.geometry.groups {
		if !hasSuper(i) {
			continue
		}
		// All of the block, so that nobody finds another file system there.
		block := make([]byte, blockSize)
		at := 0
		if i == 0 {
			at = superOff
		}
		s.Group = uint16(i)
		encoded := appendTo(nil, s)
		le.PutUint32(encoded[csumOff:], crc(math.MaxUint32, encoded[:csumOff]))
		copy(block[at:], encoded)
		b.add("superblock", i*groupBlocks, content(block))
		b.add("group descriptors", i*groupBlocks+1, content(groups))
	}
}

// journal is an empty one: its superblock, which is big-endian, and zeros, as
// the kernel would take up what an old disk holds here.
func journal(blocks int64) image.Content {
	head := make([]byte, 0, blockSize)
	// Magic, superblock version 2, sequence; the block size, blocks, the first
	// block of the log, its first sequence; features are none, and one user.
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

// rendered is blocks that are made as they are read; nil is zeros.
type rendered struct {
	blocks int64
	block  func(i int64) []byte
}

func (r *rendered) Size() int64 { return r.blocks * blockSize }

func (r *rendered) ReadAt(p []byte, off int64) (int, error) {
	return readBlocks(p, off, r.Size(), r.block)
}

// resizeBlocks adds the block that tells where the reserved descriptor blocks
// are, each of which tells where its own copies are.
func (b *builder) resizeBlocks() {
	var backups []int64
	for i := int64(1); i < b.geometry.groups; i++ {
		if hasSuper(i) {
			backups = append(backups, i*groupBlocks)
		}
	}
	first := 1 + b.descs
	dind := make([]byte, blockSize)
	for i := range b.reserved {
		le.PutUint32(dind[(b.descs+i)%(blockSize/4)*4:], uint32(first+i))
	}
	b.add("resize inode", b.resize[0].start, content(dind))
	b.add("reserved group descriptors", first, &rendered{b.reserved, func(i int64) []byte {
		block := make([]byte, 0, blockSize)
		for _, at := range backups {
			block = le.AppendUint32(block, uint32(at+first+i))
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
	// The resize inode is mapped by indirect blocks. Its size is as if it had all.
	n := b.encode(&file{node: &tree.Inode{Mode: tree.Regular | 0o600, ModTime: b.opt.Time}, number: resizeInode, links: 1})
	const perBlock = blockSize / 4
	size := int64(12+perBlock+perBlock*perBlock) * blockSize
	n.Size, n.SizeHigh = halves(size)
	backups := int64(0)
	for i := int64(1); i < b.geometry.groups; i++ {
		if hasSuper(i) {
			backups++
		}
	}
	n.Blocks = uint32((1 + b.reserved*(1+backups)) * sectors)
	n.Flags = 0
	clear(n.Block[:])
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
	if f.folder != nil && f.folder.indexed {
		n.Flags |= indexFlag
	}
	if f == b.journal {
		copy(b.backup[:], n.Block[:])
		le.PutUint32(b.backup[60:], n.SizeHigh)
		le.PutUint32(b.backup[64:], n.Size)
	}
	b.put(f.number, n, f.xattrs)
}

// encode fills in what all kinds of file have.
func (b *builder) encode(f *file) *inode {
	m := f.node
	n := &inode{Mode: uint16(m.Mode), ExtraSize: extraSize}
	n.UID, n.UIDHigh = uint16(m.UID), uint16(m.UID>>16)
	n.GID, n.GIDHigh = uint16(m.GID), uint16(m.GID>>16)
	n.Size, n.SizeHigh = halves(f.size)
	n.Links = uint16(f.links)
	if f.folder != nil && f.links > maxLinks {
		n.Links = 1 // dir_nlink: nobody counts
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

// stamp is a time as an inode has it: 32 bits with a sign, and in the lowest two
// of another word what that has to be moved up by, to reach from 1901 to 2446.
func stamp(t int64) (low, extra uint32) {
	t = min(max(t, math.MinInt32), math.MaxInt32+3<<32)
	return uint32(t), uint32((t-int64(int32(t)))>>32) & 3
}

// put places an inode in its table, with its checksum.
func (b *builder) put(number uint32, n *inode, xattrs []byte) {
	at := int64(number-1) * inodeSize
	raw := append(appendTo(b.table[at:at:at+inodeSize], n), xattrs...)
	sum := crc(inodeSeed(b.seed, number, 0), b.table[at:at+inodeSize])
	le.PutUint16(raw[0x7c:], uint16(sum))
	le.PutUint16(raw[0x82:], uint16(sum>>16))
}
