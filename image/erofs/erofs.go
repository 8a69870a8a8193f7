// Package erofs reads EROFS file systems: the superblock of all of them, and the files of
// those that are not compressed.
package erofs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"

	"github.com/google/uuid"

	"imgtool/image"
)

// Magic is the beginning of the superblock, at byte SuperOffset (EROFS_SUPER_MAGIC_V1 of
// fs/erofs/erofs_fs.h, in little-endian order).
const (
	Magic       = "\xe2\xe1\xf5\xe0"
	SuperOffset = 1024
)

// ErrCompressed says that the files of a file system cannot be read because it is compressed.
var ErrCompressed = errors.New("compressed erofs is not unpacked")

// Summary is the content of a superblock.
type Summary struct {
	BlockSize   int
	Inodes      int64
	BytesUsed   int64
	ModTime     int64 // seconds since 1970
	Label, UUID string
	Codecs      []string // compression algorithms; empty if it is not compressed
}

// superblock is struct erofs_super_block of fs/erofs/erofs_fs.h.
type superblock struct {
	Magic            [4]byte
	Checksum         uint32
	FeatureCompat    uint32
	BlockBits        uint8
	ExtSlots         uint8
	RootNID          uint16
	Inodes           uint64
	BuildTime        uint64
	BuildTimeNsec    uint32
	Blocks           uint32
	MetaBlock        uint32
	XattrBlock       uint32
	UUID             [16]byte
	Volume           [16]byte
	FeatureIncompat  uint32
	Algorithms       uint16 // or the maximum distance of LZ4 in kilobytes, without compressionConfigs
	ExtraDevices     uint16
	DeviceTable      uint16
	DirBlockBits     uint8
	XattrPrefixCount uint8
	XattrPrefixStart uint32
	PackedNID        uint64
	XattrFilter      uint8
	Reserved         [23]byte
}

// Bits of FeatureCompat and FeatureIncompat.
const (
	hasChecksum        = 1 << 0
	zeroPadding        = 1 << 0 // set for compressed file systems, except those for Linux before 5.3
	compressionConfigs = 1 << 1
)

// The compression algorithms by their bits in Algorithms.
var algorithms = []string{"lz4", "lzma", "deflate", "zstd"}

// Reader reads a file system.
type Reader struct {
	r     io.ReaderAt
	super superblock
}

// Open reads the superblock of the file system at byte 0 of r, and checks it. r has size
// bytes, which may be more than the file system.
func Open(r io.ReaderAt, size int64) (*Reader, error) {
	head := make([]byte, SuperOffset+128)
	if n, err := image.ReadFull(r, head, 0); err == io.ErrUnexpectedEOF {
		return nil, fmt.Errorf("erofs: %d bytes are too few", n)
	} else if err != nil {
		return nil, fmt.Errorf("erofs: reading the superblock: %w", err)
	}
	var s superblock
	if _, err := binary.Decode(head[SuperOffset:], binary.LittleEndian, &s); err != nil {
		panic("erofs: internal error: " + err.Error())
	}
	if string(s.Magic[:]) != Magic {
		return nil, fmt.Errorf("not an erofs: the magic number is %x, want %x", s.Magic, Magic)
	}
	if s.BlockBits < 9 || s.BlockBits > 16 {
		return nil, fmt.Errorf("erofs: invalid block size 1 << %d", s.BlockBits)
	}
	if s.ExtraDevices > 0 {
		return nil, fmt.Errorf("erofs: the content of its files is in %d other files or disks (mkfs.erofs --blobdev); it must be in one", s.ExtraDevices)
	}
	if used := int64(s.Blocks) << s.BlockBits; used > size {
		return nil, fmt.Errorf("erofs of %d bytes is cut off after %d", used, size)
	}
	if s.FeatureCompat&hasChecksum != 0 {
		if err := checksum(r, s); err != nil {
			return nil, err
		}
	}
	return &Reader{r, s}, nil
}

// checksum compares the CRC-32C of the rest of the first block, or of the second 1 KiB if blocks
// are not larger, with the superblock's (erofs_superblock_csum_verify of fs/erofs/super.c).
func checksum(r io.ReaderAt, s superblock) error {
	n := 1 << s.BlockBits
	if n > SuperOffset {
		n -= SuperOffset
	}
	b := make([]byte, n)
	if _, err := image.ReadFull(r, b, SuperOffset); err != nil {
		return fmt.Errorf("erofs: reading the superblock: %w", err)
	}
	clear(b[4:8])
	if sum := ^crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)); sum != s.Checksum {
		return fmt.Errorf("erofs: the superblock is damaged: its checksum is %#08x, want %#08x", sum, s.Checksum)
	}
	return nil
}

// Summary returns the content of the superblock.
func (r *Reader) Summary() Summary {
	s := r.super
	var codecs []string
	switch {
	case s.FeatureIncompat&compressionConfigs != 0:
		for i, name := range algorithms {
			if s.Algorithms&(1<<i) != 0 {
				codecs = append(codecs, name)
			}
		}
	case s.FeatureIncompat&zeroPadding != 0, s.Algorithms != 0:
		codecs = algorithms[:1]
	}
	label, _, _ := bytes.Cut(s.Volume[:], []byte{0})
	return Summary{
		BlockSize: 1 << s.BlockBits,
		Inodes:    int64(s.Inodes),
		BytesUsed: int64(s.Blocks) << s.BlockBits,
		ModTime:   int64(s.BuildTime),
		Label:     string(label),
		UUID:      uuid.UUID(s.UUID).String(),
		Codecs:    codecs,
	}
}

// Compression returns the compression algorithms in words.
func (s Summary) Compression() string {
	if len(s.Codecs) == 0 {
		return "not compressed"
	}
	return strings.Join(s.Codecs, ", ")
}
