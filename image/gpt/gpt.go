// Package gpt is the partition table of a disk as a value: encoded through
// go-diskfs in memory, read from anything that can be read.
package gpt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"strings"
	"unicode/utf16"

	"github.com/diskfs/go-diskfs/partition/gpt"
	"github.com/google/uuid"

	"imgtool/image"
)

const (
	sector    = 512
	entries   = 128
	entrySize = 128

	// HeadSize is what the protective MBR, header and entries take at the start
	// of a disk; at its end it is a sector less.
	HeadSize = 2*sector + entries*entrySize
	TailSize = HeadSize - sector
)

// Table is a GPT. One that Read returns keeps the header and the entries it was read
// from, and Fit changes no more of them than it must. Where the fields of the form are
// zero, it has 128 entries of 128 bytes in sector 2 of 512-byte sectors.
type Table struct {
	GUID        string
	Size        int64 // of the disk, in bytes
	FirstUsable int64 // in bytes
	Parts       []Part

	Sector     int64 // size of a logical sector, in bytes
	Entries    int   // how many there are, used or not
	EntrySize  int   // in bytes
	EntriesOff int64 // of the entries behind the header at the start, in bytes

	header, entries []byte // as they were read
}

// Part is an entry that is in use. Off and Len are in bytes.
type Part struct {
	Number     int // from 1
	Name       string
	Type, GUID string // upper case
	Off, Len   int64
	Attrs      uint64
}

// Extents are the two copies of the table: "gpt" at the start of the disk, with
// the protective MBR, and "gpt-backup" at its end.
func (t *Table) Extents() ([]image.Extent, error) {
	if !t.Usual() {
		return nil, &UnsupportedError{fmt.Sprintf("a partition table of %d entries of %d bytes at byte %d, in sectors of %d bytes, cannot be made anew", t.Entries, t.EntrySize, t.EntriesOff, t.Sector)}
	}
	if t.Size%sector != 0 || t.Size < HeadSize+TailSize {
		return nil, fmt.Errorf("a disk of %d bytes has no room for a partition table, or is no multiple of %d", t.Size, sector)
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
	// go-diskfs puts the first usable sector right behind the entries and cannot
	// be told otherwise; and its protective MBR wraps at 2 TiB.
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

// ends takes what is written to the first and last sectors of a disk.
type ends struct {
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
	return 0, fmt.Errorf("a table that is written at %d of %d", off, e.size)
}

func (e *ends) ReadAt([]byte, int64) (int, error) { return 0, errors.ErrUnsupported }
func (e *ends) Seek(int64, int) (int64, error)    { return 0, errors.ErrUnsupported }
func (e *ends) Read([]byte) (int, error)          { return 0, errors.ErrUnsupported }
func (e *ends) Stat() (fs.FileInfo, error)        { return nil, errors.ErrUnsupported }
func (e *ends) Close() error                      { return nil }

// Start is where the first partition starts, or 0 if there is none.
func (t *Table) Start() int64 {
	start := int64(0)
	for i, p := range t.Parts {
		if i == 0 || p.Off < start {
			start = p.Off
		}
	}
	return start
}

// End is where the last partition ends.
func (t *Table) End() int64 {
	end := int64(0)
	for _, p := range t.Parts {
		end = max(end, p.Off+p.Len)
	}
	return end
}

// guid reads the mixed-endian form GUIDs have on disk.
func guid(b []byte) string {
	u := uuid.UUID{b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6]}
	copy(u[8:], b[8:])
	return strings.ToUpper(u.String())
}

func utf16Name(b []byte) string {
	var u []uint16
	for ; len(b) >= 2; b = b[2:] {
		c := binary.LittleEndian.Uint16(b)
		if c == 0 {
			break
		}
		u = append(u, c)
	}
	return string(utf16.Decode(u))
}
