package ext4

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"imgtool/image"
	"imgtool/image/tree"
)

// readable are the incompatible features that Read supports or can ignore.
const readable = fileType | withExtents | with64bit | withMMP | flexBG | csumSeed | largeDir

// Read reads the file system at byte 0 of r, which has size bytes, as a tree whose
// files are read on demand. Hard links share an inode. [New] makes the same file
// system again with the returned options, apart from First.
//
// Checksums are verified, if there are any; bitmaps are not read. A file system that
// was not unmounted and files with indirect blocks, as in ext2, are errors. So is
// metadata that needs more memory than 64 MiB plus a fixed multiple of the size (at
// most 2 GiB), so that a malicious file system cannot use up memory.
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
		err = errors.New("not a directory")
	}
	if err != nil {
		return nil, nil, fmt.Errorf("ext4: the root directory: %w", err)
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

type scan struct {
	r         io.ReaderAt
	super     superblock
	blockSize int64
	blocks    int64
	sums      bool // metadata has checksums
	seed      uint32
	tree      *tree.Tree
	nodes     map[uint32]*tree.Inode
	tables    map[int64]int64 // inode table of each group
	xattrs    map[int64][]tree.Xattr
	left      int64 // bytes of memory that may still be used

	inodes  []byte // the last block of an inode table that was read, and its number
	inodeAt int64
}

func (s *scan) spend(n int64) error {
	if s.left -= n; s.left < 0 {
		return fmt.Errorf("the metadata needs more memory than a valid file system of %d blocks", s.blocks)
	}
	return nil
}

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
		return errors.New("not an ext4 file system: the superblock has no magic number")
	}
	if s.sums = sb.ROCompat&metadataCsum != 0; s.sums {
		if sum := crc(math.MaxUint32, b[:csumOff]); sum != sb.Checksum {
			return fmt.Errorf("the superblock is damaged: the checksum is %#x, want %#x", sum, sb.Checksum)
		}
		if sb.ChecksumType != crc32c {
			return fmt.Errorf("checksums of type %d are not supported", sb.ChecksumType)
		}
	}
	switch unknown := sb.Incompat &^ readable; {
	case sb.Incompat&needsReplay != 0:
		return errors.New("the file system was not unmounted: the journal must be replayed first")
	case unknown != 0:
		return fmt.Errorf("unsupported features %#x", unknown)
	case sb.Revision == 0 || sb.LogBlock > 2:
		return fmt.Errorf("revision %d with blocks of 1024<<%d bytes is not supported", sb.Revision, sb.LogBlock)
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
		return fmt.Errorf("the file system has %d blocks of %d bytes, but there are only %d bytes", s.blocks, s.blockSize, size)
	case s.blockSize > 1024 && sb.FirstBlock != 0 || s.blockSize == 1024 && sb.FirstBlock != 1,
		int64(sb.BlocksPerGroup) > 8*s.blockSize || sb.BlocksPerGroup < 256,
		int64(sb.InodesPerGroup) > 8*s.blockSize || sb.InodesPerGroup == 0,
		sb.InodeSize < baseInode || int64(sb.InodeSize) > s.blockSize || sb.InodeSize&(sb.InodeSize-1) != 0,
		sb.DescSize < 32 || int64(sb.DescSize) > s.blockSize || sb.DescSize&(sb.DescSize-1) != 0,
		sb.Incompat&with64bit != 0 && sb.DescSize < descSize:
		return errors.New("the superblock is damaged: invalid geometry")
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

func (s *scan) block(n int64) ([]byte, error) {
	if n <= 0 || n >= s.blocks {
		return nil, fmt.Errorf("block %d does not exist, there are %d", n, s.blocks)
	}
	b := make([]byte, s.blockSize)
	return b, readFull(s.r, b, n*s.blockSize)
}

type found struct {
	inode
	number uint32
	seed   uint32 // of the checksums of its blocks
	rest   []byte // the bytes after the fields: xattrs
}

func (f *found) size() int64 { return int64(f.SizeHigh)<<32 | int64(f.Size) }

func (f *found) Type() uint32 { return uint32(f.Mode) & tree.TypeMask }

func (s *scan) table(group int64) (int64, error) {
	if at, ok := s.tables[group]; ok {
		return at, nil
	}
	size := int64(s.super.DescSize)
	b := make([]byte, max(size, descSize))
	at := (int64(s.super.FirstBlock)+1)*s.blockSize + group*size
	if at+size > s.blocks*s.blockSize {
		return 0, fmt.Errorf("group %d does not exist", group)
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
			return 0, fmt.Errorf("the descriptor of group %d (block %d) is damaged: the checksum is %#x, want %#x", group, at/s.blockSize, sum, d.Checksum)
		}
	}
	table := int64(d.InodeTable) | int64(d.InodeTableHigh)<<32
	if table >= s.blocks {
		return 0, fmt.Errorf("the descriptor of group %d (block %d) is damaged: an inode table at %d of %d blocks", group, at/s.blockSize, table, s.blocks)
	}
	s.tables[group] = table
	return table, s.spend(64)
}

// raw reads an inode, which may be unused.
func (s *scan) raw(number uint32) (*found, error) {
	if number == 0 || number > s.super.Inodes {
		return nil, fmt.Errorf("inode %d does not exist, there are %d", number, s.super.Inodes)
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
	// Fields beyond the size of this inode are zeros.
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
			return nil, fmt.Errorf("inode %d (block %d) is damaged: the checksum is %#x, want %#x", number, at, sum, want)
		}
	}
	return f, nil
}

// inode reads an inode, and checks that it is in use.
func (s *scan) inode(number uint32) (*found, error) {
	f, err := s.raw(number)
	if err == nil && (f.Links == 0 || kinds[f.Type()] == 0) {
		err = fmt.Errorf("inode %d is damaged: %d links and mode %o", number, f.Links, f.Mode)
	}
	return f, err
}
