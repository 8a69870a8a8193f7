// Package sums computes checksums of the files of a tree, block by block, and from
// them a digest of the whole tree.
//
// The checksums serve two purposes: they find equal blocks, and they are the keys by
// which compressed blocks are cached.
package sums

import (
	"cmp"
	"crypto/sha256"
	"hash/crc32"
	"slices"

	"imgtool/image"
	"imgtool/image/tree"
)

// BlockSize is the default number of bytes that each checksum covers.
const BlockSize = 128 << 10

// Sum is the SHA-256 of a block.
type Sum [sha256.Size]byte

// Checksums are the checksums of files. They are valid for every tree that has the
// same inodes. A nil *Checksums has none.
type Checksums struct {
	block int64
	of    map[*tree.Inode]*File
	known *Checksums // searched if of lacks a file; may be nil
}

// Of returns the checksums of a regular file, or nil if it has none or is empty.
func (c *Checksums) Of(n *tree.Inode) *File {
	if c == nil {
		return nil
	}
	if f := c.of[n]; f != nil {
		return f
	}
	return c.known.Of(n)
}

// File is the checksums of one file's blocks. The last block may be short. Blocks of
// zeros are kept as runs, so that a large hole takes little memory.
type File struct {
	sums  []blockSum // of the blocks that are not zero
	zeros []zeroRun  // sorted
}

type blockSum struct {
	sum Sum
	crc uint32 // CRC-32C
}

// zeroRun is n consecutive blocks of zeros; before counts the zero blocks of all
// earlier runs.
type zeroRun struct{ first, n, before int64 }

func (r zeroRun) end() int64 { return r.first + r.n }

// run returns the index of the first run of zeros that ends after block i.
func (f *File) run(i int64) int {
	at, _ := slices.BinarySearchFunc(f.zeros, i, func(r zeroRun, i int64) int { return cmp.Compare(r.end(), i+1) })
	return at
}

// find returns the index in f.sums of the checksum of block i, or zero if the block is
// zero.
func (f *File) find(i int64) (at int64, zero bool) {
	run := f.run(i)
	switch {
	case run < len(f.zeros):
		return i - f.zeros[run].before, f.zeros[run].first <= i
	case run > 0:
		last := f.zeros[run-1]
		return i - last.before - last.n, false
	}
	return i, false
}

// Block returns the checksum of block i, or zero if all its bytes are zero.
func (f *File) Block(i int64) (sum Sum, zero bool) {
	if i, zero = f.find(i); zero {
		return Sum{}, true
	}
	return f.sums[i].sum, false
}

// ZeroRun returns how many consecutive blocks from block i on are zero.
func (f *File) ZeroRun(i int64) int64 {
	if run := f.run(i); run < len(f.zeros) && f.zeros[run].first <= i {
		return f.zeros[run].end() - i
	}
	return 0
}

// Same reports whether b has the CRC-32C of block i. It detects files that change while
// they are read, but does not protect from an attacker.
func (f *File) Same(i int64, b []byte) bool {
	i, zero := f.find(i)
	if zero {
		return image.IsZero(b)
	}
	return f.sums[i].crc == checksum(b)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// addZeros appends n blocks of zeros, the first of which is block first.
func (f *File) addZeros(first, n int64) {
	last := len(f.zeros) - 1
	switch {
	case last < 0:
		f.zeros = append(f.zeros, zeroRun{first: first, n: n})
	case f.zeros[last].end() == first:
		f.zeros[last].n += n
	default:
		f.zeros = append(f.zeros, zeroRun{first, n, f.zeros[last].before + f.zeros[last].n})
	}
}
