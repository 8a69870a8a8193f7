// Package verity makes and checks the hash trees of dm-verity, with which Linux checks each
// block of a read-only device when it is read.
//
// Blocks have 4096 bytes and hashes are salted SHA-256, as veritysetup(8) and RAUC make
// them by default. The tree is at the end of the data or on its own, with or without a
// superblock. Its format is described in
// Documentation/admin-guide/device-mapper/verity.rst of Linux, and the superblock at
// https://gitlab.com/cryptsetup/cryptsetup/-/wikis/DMVerity.
package verity

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"runtime"

	"imgtool/image"
	"imgtool/image/fault"
	"imgtool/image/parallel"
)

const (
	// BlockSize is the size in bytes of the blocks of the data and of the tree.
	BlockSize = 4096

	// MaxSalt is the size in bytes of the longest salt.
	MaxSalt = 256

	perBlock = BlockSize / sha256.Size // hashes in a block of the tree
	batch    = 8 * perBlock * BlockSize
)

// Hash is the hash of a block, or of the root of a tree.
type Hash [sha256.Size]byte

// TreeSize returns the size in bytes of the tree of size bytes of data, without a
// superblock. Data of one block have no tree: the hash of the block is the root.
func TreeSize(size int64) int64 {
	_, n := levels(size / BlockSize)
	return n * BlockSize
}

// levels returns the number of blocks of each level of the tree, the lowest first, and
// their sum.
func levels(blocks int64) (sizes []int64, sum int64) {
	for blocks > 1 {
		blocks = (blocks + perBlock - 1) / perBlock
		sizes = append(sizes, blocks)
		sum += blocks
	}
	return sizes, sum
}

// CheckSize reports data that have no hash tree: none, or not a multiple of BlockSize.
func CheckSize(size int64) error {
	if size <= 0 || size%BlockSize != 0 {
		return fmt.Errorf("%d bytes have no hash tree: their number must be a multiple of %d", size, BlockSize)
	}
	return nil
}

// MismatchError is the error of [Verify] for a block of the data or the tree that has
// another hash than expected.
type MismatchError struct {
	Off    int64 // of the first byte of the block, in the data or the tree
	InTree bool
}

func (e *MismatchError) Error() string {
	where := "the data"
	if e.InTree {
		where = "the hash tree"
	}
	return fmt.Sprintf("bytes %d to %d of %s do not have the expected SHA-256", e.Off, e.Off+BlockSize-1, where)
}

// Kind implements the interface of package fault.
func (e *MismatchError) Kind() string { return fault.Corrupt }

// Write reads the data, writes their tree to w and returns the hash of its root. The tree may be
// in the file of the data, after them (see [io.NewOffsetWriter]). w is nil if only the root is
// needed. p receives the number of bytes of data.
func Write(ctx context.Context, w io.WriterAt, data *io.SectionReader, salt []byte, p image.Progress) (Hash, error) {
	if err := CheckSize(data.Size()); err != nil {
		return Hash{}, err
	}
	if len(salt) > MaxSalt {
		return Hash{}, fmt.Errorf("a salt has at most %d bytes, not %d", MaxSalt, len(salt))
	}
	sizes, sum := levels(data.Size() / BlockSize)
	at := sum * BlockSize
	hashes, err := hashData(ctx, data, salt, p, func(block int64, b []byte) error {
		if w == nil || len(sizes) == 0 {
			return nil
		}
		_, err := w.WriteAt(b, at-sizes[0]*BlockSize+block*BlockSize)
		return err
	})
	if err != nil {
		return Hash{}, err
	}
	// The lowest level is written; hashes are the hashes of its blocks. The levels above it are
	// before it in the file.
	for i, n := range sizes {
		at -= n * BlockSize
		if i == 0 {
			continue
		}
		blocks := padded(hashes)
		if w != nil {
			if _, err := w.WriteAt(blocks, at); err != nil {
				return Hash{}, err
			}
		}
		hashes = appendHashes(nil, blocks, salt)
	}
	return Hash(hashes), nil
}

// padded returns hashes with zeros up to a whole block.
func padded(hashes []byte) []byte {
	return append(hashes, make([]byte, -len(hashes)&(BlockSize-1))...)
}

// appendHashes appends the hash of each block.
func appendHashes(to, blocks, salt []byte) []byte {
	h := sha256.New()
	for ; len(blocks) > 0; blocks = blocks[BlockSize:] {
		to = appendHash(to, h, blocks[:BlockSize], salt)
	}
	return to
}

func appendHash(to []byte, h hash.Hash, block, salt []byte) []byte {
	h.Reset()
	h.Write(salt)
	h.Write(block)
	return h.Sum(to)
}

// piece is a part of the data whose hashes fill several blocks of the lowest level.
type piece struct {
	off    int64
	data   []byte
	lowest []byte // blocks of the lowest level
	upper  []byte // their hashes
}

// hashData gives all blocks of the lowest level to emit in order, several at a time with
// the number of the first, and returns the hashes of these blocks. Data of one block have
// no level, and their hash is returned.
func hashData(ctx context.Context, data *io.SectionReader, salt []byte, p image.Progress, emit func(int64, []byte) error) (hashes []byte, err error) {
	size, next := data.Size(), int64(0)
	work := func(s *piece) error {
		if _, err := image.ReadFull(data, s.data, s.off); err != nil {
			return err
		}
		s.lowest = appendHashes(s.lowest[:0], s.data, salt)
		if size == BlockSize {
			s.upper = append(s.upper[:0], s.lowest...)
			return nil
		}
		s.lowest = padded(s.lowest)
		s.upper = appendHashes(s.upper[:0], s.lowest, salt)
		return nil
	}
	workers := make([]func(*piece) error, runtime.GOMAXPROCS(0))
	for i := range workers {
		workers[i] = work
	}
	err = parallel.Map(ctx, make([]piece, 2*len(workers)), func(s *piece) bool {
		if next == size {
			return false
		}
		if s.data == nil {
			s.data = make([]byte, batch)
		}
		s.off, s.data = next, s.data[:min(batch, size-next)]
		next += int64(len(s.data))
		return true
	}, workers, func(s *piece) error {
		p.Add(int64(len(s.data)))
		hashes = append(hashes, s.upper...)
		return emit(s.off/(BlockSize*perBlock), s.lowest)
	})
	return hashes, err
}

// Root is what a tree is checked against.
type Root struct {
	Hash Hash
	Salt []byte
}

// Verify reads the data and their tree, which has no superblock, and compares each block
// with its hash, up to the root. A block that differs is a [*MismatchError].
func Verify(ctx context.Context, data, tree *io.SectionReader, root Root, p image.Progress) error {
	if err := CheckSize(data.Size()); err != nil {
		return err
	}
	sizes, sum := levels(data.Size() / BlockSize)
	if tree.Size() != sum*BlockSize {
		return fault.New(fault.Corrupt, "the hash tree of %d bytes has %d bytes, not %d", data.Size(), sum*BlockSize, tree.Size())
	}
	// From the root downwards, so that each block is compared with a hash that is known to
	// be right. want are the hashes of the blocks of the level below.
	want, at := root.Hash[:], int64(0)
	for i := len(sizes) - 1; i > 0; i-- {
		blocks := make([]byte, sizes[i]*BlockSize)
		if _, err := image.ReadFull(tree, blocks, at); err != nil {
			return err
		}
		if n := firstDifference(appendHashes(nil, blocks, root.Salt), want); n >= 0 {
			return &MismatchError{at + n*BlockSize, true}
		}
		want, at = blocks, at+int64(len(blocks))
	}
	return verifyLowest(ctx, data, tree, lowest{want, at, root.Salt}, p)
}

// lowest is what the lowest level is compared with.
type lowest struct {
	want []byte // hashes of its blocks
	at   int64  // its place in the tree
	salt []byte
}

func verifyLowest(ctx context.Context, data, tree *io.SectionReader, l lowest, p image.Progress) error {
	if data.Size() == BlockSize {
		hashes, err := hashData(ctx, data, l.salt, p, func(int64, []byte) error { return nil })
		if err == nil && !bytes.Equal(hashes, l.want) {
			err = &MismatchError{}
		}
		return err
	}
	_, err := hashData(ctx, data, l.salt, p, func(block int64, computed []byte) error {
		stored := make([]byte, len(computed))
		if _, err := image.ReadFull(tree, stored, l.at+block*BlockSize); err != nil {
			return err
		}
		if n := firstDifference(appendHashes(nil, stored, l.salt), l.want[block*sha256.Size:]); n >= 0 {
			return &MismatchError{l.at + (block+n)*BlockSize, true}
		}
		if n := firstDifference(computed, stored); n >= 0 {
			if off := (block*perBlock + n) * BlockSize; off < data.Size() {
				return &MismatchError{off, false}
			}
			return errors.New("internal error: zeros after the last hash differ, and have the expected hash")
		}
		return nil
	})
	return err
}

// firstDifference returns the number of the first hash in got that is not in its place in
// want, or -1.
func firstDifference(got, want []byte) int64 {
	for i := 0; i < len(got); i += sha256.Size {
		if !bytes.Equal(got[i:i+sha256.Size], want[i:i+sha256.Size]) {
			return int64(i / sha256.Size)
		}
	}
	return -1
}
