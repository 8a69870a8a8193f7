// Package ext4 makes and reads ext4 file systems.
//
// [New] makes the image of a file system with the files of a tree. Metadata is
// computed, in memory that grows with the number of files; files are extents that are
// read on demand. Unused block groups are left uninitialised, so an empty file system
// of any size has few extents. The kernel never reads the former content of the disk:
// blocks that are not written are free or marked as uninitialised.
//
// Blocks have 4096 bytes, inodes 256. All metadata has checksums. Linux 4.9 and its e2fsck
// support all features; inline data, bigalloc, quota, project, verity, encryption and case
// folding are not used.
//
// [Read] reads a file system as a tree, whichever program made it, if the files are mapped
// by extents. A file system is never modified.
//
// All numbers are little-endian, except in the journal. Names and values are
// from fs/ext4/ext4.h and Documentation/filesystems/ext4 of Linux.
package ext4

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

const (
	blockSize   = 4096
	inodeSize   = 256
	perBlock    = blockSize / inodeSize // inodes
	groupBlocks = 8 * blockSize         // blocks of a group: bits of a bitmap block
	flexGroups  = 16                    // groups with adjacent bitmaps and inode tables
	descSize    = 64                    // of a group descriptor
	superOff    = 1024
	superSize   = 1024
	sectors     = blockSize / 512 // the unit of i_blocks

	maxBlocks   = 1<<32 - 1 // the limit of resize_inode
	maxName     = 255
	maxLinks    = 65000 // EXT4_LINK_MAX
	fastSymlink = 60    // bytes of a target, with the NUL, that fit into i_block
)

// Reserved inode numbers: Documentation/filesystems/ext4, "Special inodes".
const (
	rootInode    = 2
	resizeInode  = 7
	journalInode = 8
	lostInode    = 11 // the first number that is not reserved
)

// Feature flags: Documentation/filesystems/ext4, "The Super Block". A kernel that does
// not know a compatible feature may mount the file system, with an unknown incompatible
// one it must not, with an unknown ro_compatible one only read-only.
const (
	hasJournal  = 0x4
	extAttr     = 0x8
	hasResize   = 0x10
	dirIndex    = 0x20
	compatible  = hasJournal | extAttr | hasResize | dirIndex
	fileType    = 0x2
	needsReplay = 0x4
	withExtents = 0x40
	with64bit   = 0x80
	withMMP     = 0x100
	flexBG      = 0x200
	csumSeed    = 0x2000
	largeDir    = 0x4000

	incompatible = fileType | withExtents | with64bit | flexBG
	sparseSuper  = 0x1
	largeFile    = 0x2
	hugeFile     = 0x8
	dirNlink     = 0x20
	extraIsize   = 0x40
	metadataCsum = 0x400
	roCompatible = sparseSuper | largeFile | hugeFile | dirNlink | extraIsize | metadataCsum
)

const (
	magic        = 0xef53
	unsignedHash = 2   // s_flags: names are hashed as unsigned bytes
	mountOptions = 0xc // s_default_mount_opts: user_xattr, acl
	flexLog      = 4
	crc32c       = 1    // s_checksum_type
	extraSize    = 32   // bytes of an inode's fields after the first 128
	jnlInBlocks  = 1    // s_jnl_backup_type
	csumOff      = 1020 // offset of the checksum in the superblock
)

// superblock is at byte 1024 and, as a copy, at the start of some groups:
// Documentation/filesystems/ext4, "The Super Block".
type superblock struct {
	Inodes, Blocks, Reserved, FreeBlocks, FreeInodes uint32
	FirstBlock, LogBlock, LogCluster                 uint32
	BlocksPerGroup, ClustersPerGroup, InodesPerGroup uint32
	Mounted, Written                                 uint32
	Mounts, MaxMounts, Magic, State, Errors, Minor   uint16
	Checked, CheckInterval, OS, Revision             uint32
	ReservedUID, ReservedGID                         uint16
	FirstInode                                       uint32
	InodeSize, Group                                 uint16
	Compat, Incompat, ROCompat                       uint32
	UUID                                             [16]byte
	Label                                            [16]byte
	LastMounted                                      [64]byte
	_                                                uint32
	_                                                uint16
	ReservedGDT                                      uint16
	JournalUUID                                      [16]byte
	Journal, JournalDev, LastOrphan                  uint32
	HashSeed                                         [16]byte
	HashVersion, JournalBackup                       uint8
	DescSize                                         uint16
	MountOptions, FirstMeta, Made                    uint32
	JournalBlocks                                    [68]byte // i_block, i_size_high, i_size
	BlocksHigh, ReservedHigh, FreeBlocksHigh         uint32
	MinExtra, WantExtra                              uint16
	Flags                                            uint32
	_                                                [16]byte // RAID and multi-mount protection
	LogFlex, ChecksumType                            uint8
	_                                                uint16
	_                                                [208]byte // kbytes written, snapshots, errors, quota
	Overhead                                         uint32
	_                                                [36]byte // backup groups, encryption, lost+found, project quota
	ChecksumSeed                                     uint32
	WrittenHigh, MountedHigh, MadeHigh, CheckedHigh  uint8
	_                                                [388]byte
	Checksum                                         uint32
}

// Flags of a group: Documentation/filesystems/ext4, "Block Group Descriptors".
const (
	inodeUninit = 1 // no inode is in use; bitmap and table are not written
	blockUninit = 2 // no block is in use, apart from copies of the superblock
	inodeZeroed = 4 // the whole inode table is written
)

// descriptor describes one group: Documentation/filesystems/ext4, "Block Group
// Descriptors".
type descriptor struct {
	BlockBitmap, InodeBitmap, InodeTable             uint32
	FreeBlocks, FreeInodes, Dirs, Flags              uint16
	_                                                uint32
	BlockCsum, InodeCsum, Unused, Checksum           uint16
	BlockBitmapHigh, InodeBitmapHigh, InodeTableHigh uint32
	FreeBlocksHigh, FreeInodesHigh, DirsHigh         uint16
	UnusedHigh                                       uint16
	_                                                uint32
	BlockCsumHigh, InodeCsumHigh                     uint16
	_                                                uint32
}

// Inode flags.
const (
	indexFlag  = 0x1000
	extentFlag = 0x80000
	inlineFlag = 0x10000000
)

// inode is followed by the xattrs in the inode: Documentation/filesystems/ext4, "Index
// Nodes".
type inode struct {
	Mode, UID                           uint16
	Size, Atime, Ctime, Mtime, Dtime    uint32
	GID, Links                          uint16
	Blocks, Flags, Version              uint32
	Block                               [60]byte
	Generation, XattrBlock, SizeHigh, _ uint32
	BlocksHigh, XattrBlockHigh          uint16
	UIDHigh, GIDHigh                    uint16
	Checksum, _                         uint16

	ExtraSize, ChecksumHigh                      uint16
	CtimeExtra, MtimeExtra, AtimeExtra           uint32
	Crtime, CrtimeExtra, VersionHigh, ProjectIDs uint32
}

const (
	baseInode = 128
	inodeBody = baseInode + extraSize // offset of the xattrs
)

// FullError is the error of [New] for a tree that does not fit. Files, directories and
// the journal need Need bytes in whole blocks; a file system of Size bytes has Free
// bytes for them.
type FullError struct{ Need, Free, Size int64 }

func (e *FullError) Error() string {
	return fmt.Sprintf("the files need %d bytes and a file system of %d bytes has %d for them", e.Need, e.Size, e.Free)
}

// appendTo appends the little-endian form of each v, a fixed-size value, to b.
func appendTo(b []byte, v ...any) []byte {
	for _, v := range v {
		var err error
		if b, err = binary.Append(b, binary.LittleEndian, v); err != nil {
			panic("ext4: internal error: " + err.Error())
		}
	}
	return b
}

var le = binary.LittleEndian

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// crc updates a CRC-32C as Linux computes it, without inversion at the start and end.
func crc(sum uint32, p []byte) uint32 { return ^crc32.Update(^sum, castagnoli, p) }

func crc32le(sum, v uint32) uint32 { return crc(sum, le.AppendUint32(nil, v)) }

// inodeSeed returns the seed of the checksums of an inode and its blocks.
func inodeSeed(seed, number, generation uint32) uint32 {
	return crc32le(crc32le(seed, number), generation)
}

func ceil(n, of int64) int64 { return (n + of - 1) / of }

func roundUp(n, to int64) int64 { return ceil(n, to) * to }
