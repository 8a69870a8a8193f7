package verity

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"imgtool/image/fault"
)

// Superblock says how a device was hashed. It takes the block before the tree.
type Superblock struct {
	UUID   [16]byte
	Salt   []byte
	Blocks int64 // of data
}

const (
	signature = "verity\x00\x00"
	algorithm = "sha256"
)

// superblock is struct verity_sb of cryptsetup. All numbers are little-endian.
type superblock struct {
	Signature     [8]byte
	Version       uint32 // of the superblock: 1
	HashType      uint32 // 1: salt before the data
	UUID          [16]byte
	Algorithm     [32]byte
	DataBlockSize uint32
	HashBlockSize uint32
	DataBlocks    uint64
	SaltSize      uint16
	_             [6]byte
	Salt          [MaxSalt]byte
	_             [168]byte
}

// Encode returns the block of the superblock.
func (s Superblock) Encode() ([]byte, error) {
	if len(s.Salt) > MaxSalt {
		return nil, fmt.Errorf("a salt has at most %d bytes, not %d", MaxSalt, len(s.Salt))
	}
	d := superblock{Version: 1, HashType: 1, UUID: s.UUID, DataBlockSize: BlockSize, HashBlockSize: BlockSize,
		DataBlocks: uint64(s.Blocks), SaltSize: uint16(len(s.Salt))}
	copy(d.Signature[:], signature)
	copy(d.Algorithm[:], algorithm)
	copy(d.Salt[:], s.Salt)
	b, err := binary.Append(nil, binary.LittleEndian, d)
	return padded(b), err
}

// ParseSuperblock reads a superblock from the beginning of b.
func ParseSuperblock(b []byte) (*Superblock, error) {
	var d superblock
	if _, err := binary.Decode(b, binary.LittleEndian, &d); err != nil || string(d.Signature[:]) != signature {
		return nil, fault.New(fault.Corrupt, "the superblock of dm-verity is missing")
	}
	name, _, _ := bytes.Cut(d.Algorithm[:], []byte{0})
	switch {
	case d.Version != 1 || d.HashType != 1:
		return nil, fmt.Errorf("a superblock of dm-verity of version %d with hash type %d is not supported, only 1 with 1", d.Version, d.HashType)
	case string(name) != algorithm || d.DataBlockSize != BlockSize || d.HashBlockSize != BlockSize:
		return nil, fmt.Errorf("dm-verity with %q and blocks of %d and %d bytes is not supported, only with %q and %d", name, d.DataBlockSize, d.HashBlockSize, algorithm, BlockSize)
	case d.SaltSize > MaxSalt || d.DataBlocks > 1<<50:
		return nil, fault.New(fault.Corrupt, "the superblock of dm-verity has a salt of %d bytes and %d blocks", d.SaltSize, d.DataBlocks)
	}
	return &Superblock{UUID: d.UUID, Salt: bytes.Clone(d.Salt[:d.SaltSize]), Blocks: int64(d.DataBlocks)}, nil
}
