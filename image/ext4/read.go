package ext4

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"sort"
	"strings"

	"imgtool/image"
	"imgtool/image/tree"
)

// readable are the incompatible features that Read can do without knowing.
const readable = fileType | withExtents | with64bit | withMMP | flexBG | csumSeed | largeDir

// Read reads the file system at the start of r, which has size bytes, as a tree
// whose files are read when they are asked for. Names of one inode share it. The
// options are those that would make it again, without First.
//
// Checksums are checked where there are any, but for those of bitmaps, which are
// not read. A file system that was not unmounted, or whose files are mapped in
// the way of ext2, is an error; and one made to harm, whose metadata would take
// more memory than 64 MiB and a fixed multiple of its size, 2 GiB at most.
func Read(r io.ReaderAt, size int64) (*tree.Tree, *Options, error) {
	s := &scan{
		r:       r,
		tree:    tree.New(0),
		nodes:   map[uint32]*tree.Inode{},
		tables:  map[int64]int64{},
		xattrs:  map[int64][]tree.Xattr{},
		left:    64*mib + 64*min(size, 32*mib),
		inodeAt: -1,
	}
	if err := s.open(size); err != nil {
		return nil, nil, fmt.Errorf("ext4: %w", err)
	}
	n, err := s.inode(rootInode)
	if err == nil && n.Type() != tree.Dir {
		err = errors.New("not a folder")
	}
	if err != nil {
		return nil, nil, fmt.Errorf("ext4: the root folder: %w", err)
	}
	if err := s.enter("", rootInode, rootInode, n); err != nil {
		return nil, nil, fmt.Errorf("ext4: %w", err)
	}
	opt, err := s.options()
	if err != nil {
		return nil, nil, fmt.Errorf("ext4: the journal: %w", err)
	}
	return s.tree, opt, nil
}

// scan reads a file system.
type scan struct {
	r         io.ReaderAt
	super     superblock
	blockSize int64
	blocks    int64
	sums      bool // there are checksums
	seed      uint32
	tree      *tree.Tree
	nodes     map[uint32]*tree.Inode
	tables    map[int64]int64 // inode table of each group
	xattrs    map[int64][]tree.Xattr
	left      int64 // bytes of memory that may still be used

	inodes  []byte // the block of an inode table that was read last
	inodeAt int64
}

func (s *scan) spend(n int64) error {
	if s.left -= n; s.left < 0 {
		return fmt.Errorf("its metadata takes more memory than %d blocks can need", s.blocks)
	}
	return nil
}

// open checks the superblock.
func (s *scan) open(size int64) error {
	b := make([]byte, superSize)
	if size < superOff+superSize {
		return fmt.Errorf("%d bytes are too few", size)
	}
	if err := readFull(s.r, b, superOff); err != nil {
		return err
	}
	if _, err := binary.Decode(b, le, &s.super); err != nil {
		return err
	}
	sb := &s.super
	if sb.Magic != magic {
		return errors.New("not an ext4 file system: its superblock has no signature")
	}
	if s.sums = sb.ROCompat&metadataCsum != 0; s.sums {
		if sum := crc(math.MaxUint32, b[:csumOff]); sum != sb.Checksum {
			return fmt.Errorf("the superblock is damaged: its checksum is %#x and not %#x", sum, sb.Checksum)
		}
		if sb.ChecksumType != crc32c {
			return fmt.Errorf("checksums of type %d are not known", sb.ChecksumType)
		}
	}
	switch unknown := sb.Incompat &^ readable; {
	case sb.Incompat&needsReplay != 0:
		return errors.New("it was not unmounted: its journal has to be replayed first")
	case unknown != 0:
		return fmt.Errorf("it has features that are not known: %#x", unknown)
	case sb.Revision == 0 || sb.LogBlock > 2:
		return fmt.Errorf("revision %d with blocks of 1024<<%d bytes is not known", sb.Revision, sb.LogBlock)
	}
	s.blockSize = 1024 << sb.LogBlock
	s.blocks = int64(sb.Blocks)
	if sb.Incompat&with64bit == 0 {
		sb.DescSize = 32
	} else {
		s.blocks |= int64(sb.BlocksHigh) << 32
	}
	switch {
	case s.blocks > size/s.blockSize:
		return fmt.Errorf("it has %d blocks of %d bytes and there are %d bytes", s.blocks, s.blockSize, size)
	case s.blockSize > 1024 && sb.FirstBlock != 0 || s.blockSize == 1024 && sb.FirstBlock != 1,
		int64(sb.BlocksPerGroup) > 8*s.blockSize || sb.BlocksPerGroup < 256,
		int64(sb.InodesPerGroup) > 8*s.blockSize || sb.InodesPerGroup == 0,
		sb.InodeSize < baseInode || int64(sb.InodeSize) > s.blockSize || sb.InodeSize&(sb.InodeSize-1) != 0,
		sb.DescSize < 32 || int64(sb.DescSize) > s.blockSize || sb.DescSize&(sb.DescSize-1) != 0,
		sb.Incompat&with64bit != 0 && sb.DescSize < descSize:
		return errors.New("the superblock is damaged: such a geometry cannot be")
	}
	s.seed = crc(math.MaxUint32, sb.UUID[:])
	if sb.Incompat&csumSeed != 0 {
		s.seed = sb.ChecksumSeed
	}
	return nil
}

func (s *scan) options() (*Options, error) {
	sb := &s.super
	opt := &Options{
		Label: string(bytes.TrimRight(sb.Label[:], "\x00")), UUID: sb.UUID, HashSeed: sb.HashSeed,
		Time: int64(sb.Made) | int64(sb.MadeHigh)<<32, Size: s.blocks * s.blockSize, Inodes: int64(sb.Inodes), JournalSize: -1,
	}
	if s.blocks > 0 {
		reserved := int64(sb.ReservedHigh)<<32 | int64(sb.Reserved)
		opt.Reserved = int(min((reserved*100+s.blocks/2)/s.blocks, 100))
	}
	if opt.Reserved == 0 {
		opt.Reserved = -1
	}
	if sb.Compat&hasJournal != 0 && sb.Journal != 0 {
		raw, err := s.raw(sb.Journal)
		if err != nil {
			return nil, err
		}
		opt.JournalSize = raw.size()
	}
	return opt, nil
}

func readFull(r io.ReaderAt, p []byte, off int64) error {
	if _, err := image.ReadFull(r, p, off); err != nil {
		return fmt.Errorf("reading at byte %d: %w", off, err)
	}
	return nil
}

// block reads a block of metadata.
func (s *scan) block(n int64) ([]byte, error) {
	if n <= 0 || n >= s.blocks {
		return nil, fmt.Errorf("block %d is not one of %d", n, s.blocks)
	}
	b := make([]byte, s.blockSize)
	return b, readFull(s.r, b, n*s.blockSize)
}

// found is an inode as it is on disk.
type found struct {
	inode
	number uint32
	seed   uint32 // of the checksums of what belongs to it
	rest   []byte // what follows the fields: xattrs
}

func (f *found) size() int64 { return int64(f.SizeHigh)<<32 | int64(f.Size) }

func (f *found) Type() uint32 { return uint32(f.Mode) & tree.TypeMask }

// table is where the inode table of a group is.
func (s *scan) table(group int64) (int64, error) {
	if at, ok := s.tables[group]; ok {
		return at, nil
	}
	size := int64(s.super.DescSize)
	b := make([]byte, max(size, descSize))
	at := (int64(s.super.FirstBlock)+1)*s.blockSize + group*size
	if at+size > s.blocks*s.blockSize {
		return 0, fmt.Errorf("there is no group %d", group)
	}
	if err := readFull(s.r, b[:size], at); err != nil {
		return 0, err
	}
	var d descriptor
	if _, err := binary.Decode(b, le, &d); err != nil {
		return 0, err
	}
	if s.sums {
		le.PutUint16(b[0x1e:], 0)
		if sum := uint16(crc(crc32le(s.seed, uint32(group)), b[:size])); sum != d.Checksum {
			return 0, fmt.Errorf("the descriptor of group %d (block %d) is damaged: its checksum is %#x and not %#x", group, at/s.blockSize, sum, d.Checksum)
		}
	}
	table := int64(d.InodeTable) | int64(d.InodeTableHigh)<<32
	if table >= s.blocks {
		return 0, fmt.Errorf("the descriptor of group %d (block %d) is damaged: an inode table at %d of %d blocks", group, at/s.blockSize, table, s.blocks)
	}
	s.tables[group] = table
	return table, s.spend(64)
}

// raw reads an inode.
func (s *scan) raw(number uint32) (*found, error) {
	if number == 0 || number > s.super.Inodes {
		return nil, fmt.Errorf("inode %d is not one of %d", number, s.super.Inodes)
	}
	table, err := s.table(int64(number-1) / int64(s.super.InodesPerGroup))
	if err != nil {
		return nil, err
	}
	size := int64(s.super.InodeSize)
	off := int64(number-1) % int64(s.super.InodesPerGroup) * size
	at := table + off/s.blockSize
	if at != s.inodeAt {
		if s.inodes, err = s.block(at); err != nil {
			s.inodeAt = -1
			return nil, err
		}
		s.inodeAt = at
	}
	raw := bytes.Clone(s.inodes[off%s.blockSize:][:size])
	// Fields that this inode has no room for are zeros.
	fields := make([]byte, inodeBody)
	copy(fields, raw)
	extra := int64(0)
	if size > baseInode {
		extra = int64(le.Uint16(raw[baseInode:]))
	}
	if baseInode+extra > size || extra%4 != 0 {
		return nil, fmt.Errorf("inode %d (block %d) is damaged: %d bytes of extra fields", number, at, extra)
	}
	if extra < extraSize {
		clear(fields[baseInode+extra:])
	}
	f := &found{number: number, rest: bytes.Clone(raw[baseInode+extra:])}
	if _, err := binary.Decode(fields, le, &f.inode); err != nil {
		return nil, err
	}
	f.seed = inodeSeed(s.seed, number, f.Generation)
	if s.sums {
		want, mask := uint32(f.Checksum), uint32(math.MaxUint16)
		le.PutUint16(raw[0x7c:], 0)
		if extra >= 4 {
			want, mask = want|uint32(f.ChecksumHigh)<<16, math.MaxUint32
			le.PutUint16(raw[0x82:], 0)
		}
		if sum := crc(f.seed, raw) & mask; sum != want {
			return nil, fmt.Errorf("inode %d (block %d) is damaged: its checksum is %#x and not %#x", number, at, sum, want)
		}
	}
	return f, nil
}

// inode reads an inode that is in use.
func (s *scan) inode(number uint32) (*found, error) {
	f, err := s.raw(number)
	if err == nil && (f.Links == 0 || kinds[f.Type()] == 0) {
		err = fmt.Errorf("inode %d is damaged: %d links and mode %o", number, f.Links, f.Mode)
	}
	return f, err
}

// enter puts an inode at path, and what is in it if it is a folder.
func (s *scan) enter(path string, number, parent uint32, f *found) error {
	n, err := s.node(f)
	if err == nil {
		err = s.spend(512)
	}
	if err != nil {
		return fmt.Errorf("%s: inode %d: %w", show(path), number, err)
	}
	s.nodes[number] = n
	if err := s.tree.Put(path, n); err != nil {
		return err
	}
	if n.Type() != tree.Dir {
		return nil
	}
	return s.list(path, parent, f)
}

func show(path string) string {
	if path == "" {
		return "the root folder"
	}
	return path
}

// node makes an inode of a tree.
func (s *scan) node(f *found) (*tree.Inode, error) {
	n := &tree.Inode{
		Mode: uint32(f.Mode), UID: uint32(f.UID) | uint32(f.UIDHigh)<<16, GID: uint32(f.GID) | uint32(f.GIDHigh)<<16,
		ModTime: int64(int32(f.Mtime)) + int64(f.MtimeExtra&3)<<32,
	}
	if f.Flags&inlineFlag != 0 {
		return nil, errors.New("its data is in the inode, which is not known")
	}
	var err error
	switch n.Type() {
	case tree.Regular:
		if f.size() < 0 || ceil(f.size(), s.blockSize) > math.MaxUint32 {
			return nil, fmt.Errorf("damaged: a file of %d bytes", f.size())
		}
		if f.size() > 0 {
			d, err := s.data(f)
			if err != nil {
				return nil, err
			}
			n.Content = d
		}
	case tree.Symlink:
		n.Mode = tree.Symlink | 0o777
		if n.Target, err = s.target(f); err != nil {
			return nil, err
		}
	case tree.CharDev, tree.BlockDev:
		n.Major, n.Minor = uint32(f.Block[1]), uint32(f.Block[0])
		if old := le.Uint32(f.Block[:]); old == 0 {
			d := le.Uint32(f.Block[4:])
			n.Major, n.Minor = d>>8&0xfff, d&0xff|d>>12&0xfff00
		}
	}
	n.Xattrs, err = s.allXattrs(f)
	return n, err
}

func (s *scan) target(f *found) (string, error) {
	size := f.size()
	if size <= 0 || size >= s.blockSize {
		return "", fmt.Errorf("damaged: a symbolic link to a path of %d bytes", size)
	}
	if f.Flags&extentFlag == 0 && size < fastSymlink {
		return string(f.Block[:size]), nil
	}
	d, err := s.data(f)
	if err != nil {
		return "", err
	}
	b := make([]byte, size)
	if err := readFull(d, b, 0); err != nil {
		return "", err
	}
	return string(b), s.spend(size)
}

// data is what a file holds: extents in order, zeros between them.
type data struct {
	r       io.ReaderAt
	size    int64
	block   int64
	extents []extent // only those that were written
}

func (d *data) Size() int64 { return d.size }

// Hole is as image.Sparse has it.
func (d *data) Hole(off int64) int64 {
	end := d.size
	if i := d.after(off); i < len(d.extents) {
		end = d.extents[i].at * d.block
	}
	return max(0, end-off)
}

// after is the number of the extent at off, or of the one after it.
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

// data reads the extent tree of a file.
func (s *scan) data(f *found) (*data, error) {
	d := &data{r: s.r, size: f.size(), block: s.blockSize}
	if f.Flags&extentFlag == 0 {
		return nil, errors.New("its blocks are mapped in the way of ext2, which is not known")
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
			return bad("no signature")
		case count > limit || extentSize*(1+limit) > len(node) || level > 5 || depth >= 0 && level != depth:
			return bad(fmt.Sprintf("%d entries of %d at level %d", count, limit, level))
		}
		if s.sums && at > 0 {
			end := extentSize * (1 + limit)
			if end+4 > len(node) {
				return bad("no room for a checksum")
			}
			if sum, want := crc(f.seed, node[:end]), le.Uint32(node[end:]); sum != want {
				return bad(fmt.Sprintf("its checksum is %#x and not %#x", sum, want))
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
				return bad(fmt.Sprintf("%d blocks at %d of %d", n, start, s.blocks))
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

// list reads the folder at path and all below it.
func (s *scan) list(path string, parent uint32, f *found) error {
	d, err := s.data(f)
	if err != nil {
		return fmt.Errorf("%s: %w", show(path), err)
	}
	at := int64(0)
	for _, e := range d.extents {
		for i := range e.n {
			if at*s.blockSize >= d.size {
				break
			}
			block := e.start + i
			if e.at+i != at {
				return fmt.Errorf("%s: the folder is damaged: it has no block %d", show(path), at)
			}
			err := s.spend(s.blockSize)
			var b []byte
			if err == nil {
				b, err = s.block(block)
			}
			if err == nil && s.sums {
				err = checkFolderBlock(b, f, at)
			}
			if err != nil {
				return fmt.Errorf("%s: block %d: %w", show(path), block, err)
			}
			if err := s.entries(b, path, parent, f, at, block); err != nil {
				return err
			}
			at++
		}
	}
	if at*s.blockSize != d.size || at == 0 {
		return fmt.Errorf("%s: the folder is damaged: it has %d bytes and %d blocks", show(path), d.size, at)
	}
	return nil
}

// checkFolderBlock checks the checksum of a block of entries, or of the index.
func checkFolderBlock(b []byte, f *found, i int64) error {
	var sum, want uint32
	size := len(b)
	index := 0
	if f.Flags&indexFlag != 0 {
		if i == 0 {
			index = rootIndex
		} else if le.Uint32(b) == 0 && int(le.Uint16(b[4:])) == size {
			index = nodeIndex
		}
	}
	if index > 0 {
		limit, count := int(le.Uint16(b[index:])), int(le.Uint16(b[index+2:]))
		if count > limit || index+8*limit+8 > size {
			return fmt.Errorf("the folder is damaged: %d of %d index entries", count, limit)
		}
		tail := b[index+8*limit:]
		sum, want = crc(crc(f.seed, b[:index+8*count]), append(bytes.Clone(tail[:4]), 0, 0, 0, 0)), le.Uint32(tail[4:])
	} else {
		tail := b[size-tailSize:]
		if le.Uint32(tail) != 0 || le.Uint16(tail[4:]) != tailSize || tail[6] != 0 || tail[7] != tailKind {
			return errors.New("the folder is damaged: the block ends with no checksum")
		}
		sum, want = crc(f.seed, b[:size-tailSize]), le.Uint32(tail[8:])
	}
	if sum != want {
		return fmt.Errorf("the folder is damaged: its checksum is %#x and not %#x", sum, want)
	}
	return nil
}

// entries reads the entries in a block of the folder at path.
func (s *scan) entries(b []byte, path string, parent uint32, f *found, i, block int64) error {
	bad := func(what string, args ...any) error {
		return fmt.Errorf("%s: block %d: the folder is damaged: %s", show(path), block, fmt.Sprintf(what, args...))
	}
	for at, k := 0, 0; at < len(b); k++ {
		if len(b)-at < 8 {
			return bad("%d bytes are left for an entry", len(b)-at)
		}
		number, size, length, kind := le.Uint32(b[at:]), int(le.Uint16(b[at+4:])), int(b[at+6]), b[at+7]
		if s.super.Incompat&fileType == 0 {
			length, kind = length|int(kind)<<8, 0
		}
		if number == 0 {
			length = 0
		}
		if size < 8+length || size%4 != 0 || size > len(b)-at || length > maxName {
			return bad("an entry of %d bytes at %d, its name %d", size, at, length)
		}
		name := string(b[at+8 : at+8+length])
		at += size
		if i == 0 && k < 2 {
			want, of := []string{".", ".."}[k], []uint32{f.number, parent}[k]
			if name != want || number != of {
				return bad("%q of inode %d where %q of %d has to be", name, number, want, of)
			}
			continue
		}
		if number == 0 {
			continue
		}
		if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
			return bad("the name %q", name)
		}
		full := name
		if path != "" {
			full = path + "/" + name
		}
		if err := s.spend(256 + int64(len(name))); err != nil {
			return err
		}
		if s.tree.Lookup(full) != nil {
			return bad("%q is there twice", name)
		}
		if err := s.put(full, number, f.number, kind); err != nil {
			return err
		}
	}
	return nil
}

// put reads the inode that an entry names, unless another entry has.
func (s *scan) put(path string, number, parent uint32, kind uint8) error {
	n := s.nodes[number]
	var f *found
	if n != nil {
		if n.Type() == tree.Dir {
			return fmt.Errorf("%s: folder of inode %d is in more than one place", path, number)
		}
	} else {
		var err error
		if f, err = s.inode(number); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	var kindOf uint8
	if n != nil {
		kindOf = kinds[n.Type()]
	} else {
		kindOf = kinds[f.Type()]
	}
	if kind != 0 && kind != kindOf {
		return fmt.Errorf("%s: its folder says type %d and inode %d is %d", path, kind, number, kindOf)
	}
	if n != nil {
		return s.tree.Put(path, n)
	}
	return s.enter(path, number, parent, f)
}

// allXattrs reads those in an inode and those in its block.
func (s *scan) allXattrs(f *found) ([]tree.Xattr, error) {
	var all []tree.Xattr
	if len(f.rest) > 8 && le.Uint32(f.rest) == xattrMagic {
		in, err := s.decodeXattrs(f.rest[4:], 0)
		if err != nil {
			return nil, err
		}
		all = in
	}
	if at := int64(f.XattrBlock) | int64(f.XattrBlockHigh)<<32; at != 0 {
		out, ok := s.xattrs[at]
		if !ok {
			b, err := s.block(at)
			if err != nil {
				return nil, err
			}
			if le.Uint32(b) != xattrMagic || le.Uint32(b[8:]) != 1 {
				return nil, fmt.Errorf("extended attributes (block %d) are damaged: no signature", at)
			}
			if s.sums {
				want := le.Uint32(b[16:])
				le.PutUint32(b[16:], 0)
				if sum := crc(crc(s.seed, le.AppendUint64(nil, uint64(at))), b); sum != want {
					return nil, fmt.Errorf("extended attributes (block %d) are damaged: their checksum is %#x and not %#x", at, sum, want)
				}
			}
			if out, err = s.decodeXattrs(b, xattrHeader); err != nil {
				return nil, fmt.Errorf("block %d: %w", at, err)
			}
			s.xattrs[at] = out
		}
		all = append(slices.Clip(all), out...)
	}
	slices.SortFunc(all, func(a, b tree.Xattr) int { return strings.Compare(a.Name, b.Name) })
	for i := 1; i < len(all); i++ {
		if all[i].Name == all[i-1].Name {
			return nil, fmt.Errorf("extended attribute %.60q is there twice", all[i].Name)
		}
	}
	return all, s.spend(32 * int64(len(all)))
}

// decodeXattrs reads entries from start on. Where values are is counted from the
// start of the area.
func (s *scan) decodeXattrs(area []byte, start int) ([]tree.Xattr, error) {
	var all []tree.Xattr
	for at := start; at+4 <= len(area) && le.Uint32(area[at:]) != 0; {
		if at+xattrEntry+int(area[at]) > len(area) {
			return nil, errors.New("extended attributes are damaged: an entry does not fit")
		}
		e := area[at:]
		name := string(e[xattrEntry : xattrEntry+int(e[0])])
		off, size := int64(le.Uint16(e[2:])), int64(le.Uint32(e[8:]))
		prefix, ok := prefixes[e[1]]
		switch {
		case !ok:
			return nil, fmt.Errorf("extended attribute %q is of the unknown kind %d", name, e[1])
		case le.Uint32(e[4:]) != 0:
			return nil, fmt.Errorf("extended attribute %s%q has an inode of its own, which is not known", prefix, name)
		case size > 0 && off+size > int64(len(area)):
			return nil, fmt.Errorf("extended attributes are damaged: a value of %d bytes at %d", size, off)
		}
		x := tree.Xattr{Name: prefix + name}
		if size > 0 {
			x.Value = string(area[off : off+size])
		}
		if !strings.HasSuffix(prefix, ".") {
			var err error
			if x.Value, err = decodeACL(x.Value); err != nil {
				return nil, fmt.Errorf("extended attribute %s: %w", x.Name, err)
			}
		}
		if err := s.spend(128 + int64(len(x.Name)) + size); err != nil {
			return nil, err
		}
		all = append(all, x)
		at += xattrEntry + pad4(int(e[0]))
	}
	return all, nil
}
