// Package squashfs writes and reads squashfs 4.0, the compressed read-only file
// system of Linux.
//
// [Write] writes a [tree.Tree] as a file system. Its memory grows with the number
// of files, not with their size. [Open] and [Reader.Tree] read a file system as a
// tree whose files are decompressed when they are read.
//
// The writer takes these steps:
//
//  1. newPlan: make inodes, owner and attribute tables; refuse what the format
//     cannot hold.
//  2. cut: divide files into blocks and tail ends by their checksums; find files
//     whose blocks another file has, and equal tail ends.
//  3. bySimilarity, fragments: put similar tail ends into the same
//     fragment blocks.
//  4. writeBlocks: take each block from the cache, or read, check and compress it,
//     several at a time. Holes take no space.
//  5. writeInodes and the steps after it: the tables.
//
// The blocks of a file, and each fragment block, begin at a multiple of 4 KiB unless
// that leaves a large gap: see maxGap. The format permits gaps between them.
//
// The bytes do not depend on the number of workers or on the cache. The file
// system has an export table. LZO and LZMA are not supported.
//
// The format is described in Documentation/filesystems/squashfs.rst of Linux and
// at https://dr-emann.github.io/squashfs/squashfs.html, whose section names the
// comments quote. A file system consists of, in this order: superblock, compressor
// options, data and fragment blocks, inode table, directory table, fragment
// table, export table, ID table, xattr tables. All numbers are little-endian.
package squashfs

import (
	"encoding/binary"
	"math"
	"math/bits"
)

const (
	magic          = 0x73717368 // "hsqs"
	superblockSize = 96
	metaSize       = 8192    // bytes of a metadata block before compression
	metaRaw        = 1 << 15 // in the header of a metadata block: stored uncompressed
	blockRaw       = 1 << 24 // in the size word of a block: stored uncompressed
	minBlock       = 4096
	maxBlock       = 1 << 20
	alignment      = 4096 // of the size, and of blocks: a block of most devices and page caches
	fragmentLen    = 16   // bytes of a fragment table entry
	xattrIDLen     = 16   // bytes of an xattr ID table entry

	none      = math.MaxUint32 // no fragment, no xattrs
	noTable   = math.MaxUint64
	maxName   = 255
	maxTarget = 4095 // longest target of a symbolic link in Linux
	maxXattr  = 1 << 16

	headEntries = 256 // most entries after one directory header
	// The listing size in a directory's inode counts "." and ".." as 3 bytes.
	listExtra = 3
)

// Superblock flags: squashfs 4.0, "The Superblock".
const (
	flagNoFragments     = 1 << 4
	flagAlwaysFragments = 1 << 5
	flagDuplicates      = 1 << 6
	flagExportable      = 1 << 7
	flagNoXattrs        = 1 << 9
	flagOptions         = 1 << 10
)

// Inode types: squashfs 4.0, "Inode Table". The extended form of a type is
// greater by extended.
const (
	typeDir = iota + 1
	typeFile
	typeSymlink
	typeBlock
	typeChar
	typeFifo
	typeSocket
	extended = 7
)

// prefixes are the prefixes of xattr names, by the type in the xattr's key:
// squashfs 4.0, "Xattr Table". The rest of the name is stored.
var prefixes = []string{"user.", "trusted.", "security."}

// xattrOutOfLine in the type of an xattr means that its value is a reference to
// the value.
const xattrOutOfLine = 1 << 8

// superblock is the first 96 bytes: squashfs 4.0, "The Superblock".
type superblock struct {
	Magic      uint32
	Inodes     uint32
	ModTime    uint32 // seconds since 1970
	BlockSize  uint32 // bytes
	Fragments  uint32
	Compressor uint16
	BlockLog   uint16 // log2 of BlockSize
	Flags      uint16
	IDs        uint16
	Major      uint16
	Minor      uint16
	Root       uint64 // reference to the inode of the root directory
	BytesUsed  uint64 // without the padding
	IDTable    uint64 // byte offsets of the tables, or noTable
	XattrTable uint64
	InodeTable uint64
	DirTable   uint64
	FragTable  uint64
	Export     uint64
}

// appendTo appends the little-endian form of each v, a fixed-size value, to b.
func appendTo(b []byte, v ...any) []byte {
	for _, v := range v {
		var err error
		if b, err = binary.Append(b, binary.LittleEndian, v); err != nil {
			panic("squashfs: internal error: " + err.Error())
		}
	}
	return b
}

// reference is a position in a table of metadata blocks: the offset of a block
// from the start of the table, and an offset into its uncompressed bytes.
func reference(block int64, offset int) uint64 { return uint64(block)<<16 | uint64(offset) }

func clampTime(t int64) uint32 { return uint32(min(max(t, 0), math.MaxUint32)) }

func blockLog(size int) uint16 { return uint16(bits.TrailingZeros(uint(size))) }
