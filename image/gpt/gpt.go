// Package gpt reads and writes GUID partition tables (UEFI specification 2.10, chapter 5).
// Tables are encoded with go-diskfs.
package gpt

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
	"unicode/utf16"

	"github.com/diskfs/go-diskfs/backend"
	"github.com/diskfs/go-diskfs/partition/gpt"
	"github.com/google/uuid"

	"imgtool/image"
)

const (
	sector    = 512
	entries   = 128
	entrySize = 128

	// HeadSize is the length in bytes of the protective MBR, header and entries at the start
	// of a disk; TailSize is the length of the entries and header at its end.
	HeadSize = 2*sector + entries*entrySize
	TailSize = HeadSize - sector
)

// Table is a GPT. A table that [Read] returned keeps the bytes of its header and entries,
// and [Table.Fit] changes only the necessary fields. The defaults are 128 entries of 128
// bytes in sector 2, with sectors of 512 bytes.
type Table struct {
	GUID        string
	Size        int64 // of the disk, in bytes
	FirstUsable int64 // in bytes
	Parts

	Sector     int64 // logical sector size, in bytes
	Entries    int   // number of entries, in use or not
	EntrySize  int   // in bytes
	EntriesOff int64 // offset of the entries at the start of the disk, in bytes

	header, entries []byte // as read
}

// Parts are the partitions of a disk.
type Parts []Part

// Part is an entry in use (UEFI 2.10, table 5-6). Off and Len are in bytes.
type Part struct {
	Number     int // from 1
	Name       string
	Type, GUID string // upper case
	Off, Len   int64
	Attrs      uint64
}

// Extents returns the extents "gpt" at the start of the disk, with the protective MBR, and
// "gpt-backup" at its end.
func (t *Table) Extents() ([]image.Extent, error) {
	if !t.Usual() {
		return nil, &UnsupportedError{fmt.Sprintf("writing a partition table of %d entries of %d bytes at byte %d, in sectors of %d bytes, is not supported", t.Entries, t.EntrySize, t.EntriesOff, t.Sector)}
	}
	if t.Size%sector != 0 || t.Size < HeadSize+TailSize {
		return nil, fmt.Errorf("a disk of %d bytes is too small for a partition table, or its size is not a multiple of %d", t.Size, sector)
	}
	g := gpt.Table{LogicalSectorSize: sector, PhysicalSectorSize: sector, GUID: t.GUID, ProtectiveMBR: true}
	lastUsable := t.Size - TailSize - 1
	for _, p := range t.Parts {
		if p.Off%sector != 0 || p.Len%sector != 0 || p.Len <= 0 || p.Off < t.FirstUsable || p.Off+p.Len-1 > lastUsable {
			return nil, fmt.Errorf("partition %s (bytes %d to %d) is not between %d and %d", p.Name, p.Off, p.Off+p.Len, t.FirstUsable, lastUsable)
		}
		g.Partitions = append(g.Partitions, &gpt.Partition{
			Index: p.Number, Start: uint64(p.Off / sector), End: uint64((p.Off+p.Len)/sector - 1), Size: uint64(p.Len),
			Type: gpt.Type(p.Type), Name: p.Name, GUID: p.GUID, Attributes: p.Attrs,
		})
	}
	m := ends{head: make([]byte, HeadSize), tail: make([]byte, TailSize), size: t.Size}
	if err := g.Write(&m, t.Size); err != nil {
		return nil, err
	}
	// go-diskfs sets FirstUsableLBA (at byte 40 of the header) to the sector after the
	// entries, and the size in its protective MBR overflows at 2 TiB.
	for _, h := range [][]byte{m.head[sector : 2*sector], m.tail[TailSize-sector:]} {
		binary.LittleEndian.PutUint64(h[40:], uint64(max(t.FirstUsable, HeadSize)/sector))
		binary.LittleEndian.PutUint32(h[16:], 0)
		binary.LittleEndian.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
	}
	binary.LittleEndian.PutUint32(m.head[446+12:], uint32(min(t.Size/sector-1, 1<<32-1)))
	return []image.Extent{
		{Name: "gpt", Content: bytes.NewReader(m.head)},
		{Name: "gpt-backup", Off: t.Size - TailSize, Content: bytes.NewReader(m.tail)},
	}, nil
}

// ends is a disk of which only the first and last sectors can be written. Its embedded file is
// nil: go-diskfs only calls WriteAt.
type ends struct {
	backend.File
	head, tail []byte
	size       int64
}

func (e *ends) WriteAt(p []byte, off int64) (int, error) {
	switch at := off - (e.size - TailSize); {
	case off+int64(len(p)) <= HeadSize:
		return copy(e.head[off:], p), nil
	case at >= 0 && at+int64(len(p)) <= TailSize:
		return copy(e.tail[at:], p), nil
	}
	return 0, fmt.Errorf("a write at byte %d of %d, which is outside the partition tables", off, e.size)
}

// Start returns the offset of the first partition, or 0 without partitions.
func (parts Parts) Start() int64 {
	if len(parts) == 0 {
		return 0
	}
	return slices.MinFunc(parts, func(a, b Part) int { return cmp.Compare(a.Off, b.Off) }).Off
}

// End returns the end of the last partition.
func (parts Parts) End() (end int64) {
	for _, p := range parts {
		end = max(end, p.Off+p.Len)
	}
	return end
}

// guid decodes a GUID on disk, which is partly little-endian (UEFI 2.10, appendix A).
func guid(b []byte) string {
	u := uuid.UUID{b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6]}
	copy(u[8:], b[8:])
	return strings.ToUpper(u.String())
}

func utf16Name(b []byte) string {
	u := make([]uint16, len(b)/2)
	binary.Decode(b, binary.LittleEndian, u)
	if n := slices.Index(u, 0); n >= 0 {
		u = u[:n]
	}
	return string(utf16.Decode(u))
}
