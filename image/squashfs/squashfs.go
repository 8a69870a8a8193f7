// Package squashfs writes and reads squashfs 4.0, the read-only compressed file
// system. The writer turns a tree into one, in memory that grows with the number
// of files and not with their bytes; the reader turns one back into a tree whose
// files are decompressed where they are read.
//
// The writer, step by step:
//
//  1. plan: inodes, owners and attributes; what the format cannot hold is refused.
//  2. cut: every file is hashed, and taken apart into blocks and an end; files
//     whose blocks another has, and equal ends, are found.
//  3. byLikeness, fragments: ends that are alike are put together in blocks.
//  4. writeBlocks: blocks are taken from a cache, or read, compared with their
//     hashes and compressed, several at once; holes take no room.
//  5. tables of inodes, folders and all else.
//
// The result is the same whatever the number of workers, and with a cache or
// without. It makes an export table, and knows neither LZO nor LZMA.
//
// A file system is, in this order: superblock, compressor options, data and
// fragment blocks, inode table, directory table, fragment table, export table,
// id table, xattr tables. All numbers are little-endian.
package squashfs

import (
	"encoding/binary"
	"math"
)

const (
	magic          = 0x73717368 // "hsqs"
	superblockSize = 96
	metaSize       = 8192    // bytes in a metadata block before compression
	metaRaw        = 1 << 15 // in a metadata block's header: not compressed
	blockRaw       = 1 << 24 // in a block's size word: not compressed
	minBlock       = 4096
	maxBlock       = 1 << 20
	padding        = 4096
	fragmentLen    = 16 // bytes of a fragment table entry
	xattrIDLen     = 16 // bytes of an xattr id table entry

	none      = math.MaxUint32 // no fragment, no xattrs
	noTable   = math.MaxUint64
	maxName   = 255
	maxTarget = 4095 // Linux takes no longer symbolic link
	maxXattr  = 1 << 16

	headEntries = 256 // entries one directory header serves
	// The listing size in a directory's inode counts "." and ".." as 3 bytes.
	listExtra = 3
)

// Superblock flags.
const (
	flagNoFragments     = 1 << 4
	flagAlwaysFragments = 1 << 5
	flagDuplicates      = 1 << 6
	flagExportable      = 1 << 7
	flagNoXattrs        = 1 << 9
	flagOptions         = 1 << 10
)

// Inode types. The extended one of each is extended higher.
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

// Xattr name prefixes, by their number. The rest of a name is stored.
var prefixes = []string{"user.", "trusted.", "security."}

// xattrElsewhere in an xattr's type says its value is a reference to the value.
const xattrElsewhere = 1 << 8

// superblock is the first 96 bytes.
type superblock struct {
	Magic      uint32
	Inodes     uint32
	ModTime    uint32
	BlockSize  uint32
	Fragments  uint32
	Compressor uint16
	BlockLog   uint16
	Flags      uint16
	IDs        uint16
	Major      uint16
	Minor      uint16
	Root       uint64 // reference to the root's inode
	BytesUsed  uint64 // without the padding
	IDTable    uint64
	XattrTable uint64
	InodeTable uint64
	DirTable   uint64
	FragTable  uint64
	Export     uint64
}

// appendTo lays out v, a struct or number, on the end of b.
func appendTo(b []byte, v ...any) []byte {
	for _, v := range v {
		var err error
		if b, err = binary.Append(b, binary.LittleEndian, v); err != nil {
			panic("squashfs: internal error: " + err.Error())
		}
	}
	return b
}

// A reference is the place of something in a table of metadata blocks: where the
// block starts on disk, counted from the table, and where in its bytes.
func reference(block int64, offset int) uint64 { return uint64(block)<<16 | uint64(offset) }

func clampTime(t int64) uint32 { return uint32(min(max(t, 0), math.MaxUint32)) }
