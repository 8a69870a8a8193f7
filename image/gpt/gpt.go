// Package gpt is the partition table of a disk as a value: encoded through
// go-diskfs in memory, read from anything that can be read.
package gpt

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"slices"
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

// Table is a GPT of 512-byte sectors and 128 entries.
type Table struct {
	GUID        string
	Size        int64 // of the disk, in bytes
	FirstUsable int64 // in bytes
	Parts       []Part
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

// Fit is the same table for a disk of another size. It is an error if the
// partitions do not fit.
func (t *Table) Fit(size int64) (*Table, error) {
	fitted := *t
	fitted.Size = size / sector * sector
	if end := t.End(); end > fitted.Size-TailSize {
		return nil, fmt.Errorf("the partitions end at byte %d and a disk of %d bytes has room up to %d", end, size, max(0, fitted.Size-TailSize))
	}
	return &fitted, nil
}

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
	end := int64(HeadSize)
	for _, p := range t.Parts {
		end = max(end, p.Off+p.Len)
	}
	return end
}

// ErrNone says that a disk starts with no partition table.
var ErrNone = errors.New("no GPT: the signature in sector 1 is missing")

// Read reads the table at the start of a disk or image, whose own header says
// how large the disk is. The checksums, and that no partitions overlap, are
// checked; the copy at the end is not looked at.
func Read(r io.ReaderAt) (*Table, error) { return read(r, 1) }

// ReadBackup reads the copy at the end of a disk of size bytes.
func ReadBackup(r io.ReaderAt, size int64) (*Table, error) { return read(r, size/sector-1) }

func read(r io.ReaderAt, lba int64) (*Table, error) {
	h := make([]byte, sector)
	if lba < 1 {
		return nil, errors.New("no GPT: the disk has no room for one")
	}
	if n, err := r.ReadAt(h, lba*sector); n < len(h) {
		if err == io.EOF {
			return nil, fmt.Errorf("no GPT: it ends before sector %d", lba+1)
		}
		return nil, fmt.Errorf("reading sector %d: %w", lba, err)
	}
	le := binary.LittleEndian
	if string(h[:8]) != "EFI PART" {
		if lba == 1 {
			return nil, ErrNone
		}
		return nil, fmt.Errorf("no GPT: the signature in sector %d is missing", lba)
	}
	headerSize := le.Uint32(h[12:])
	if headerSize < 92 || headerSize > sector {
		return nil, fmt.Errorf("the header in sector %d is %d bytes long", lba, headerSize)
	}
	sum := le.Uint32(h[16:])
	le.PutUint32(h[16:], 0)
	if got := crc32.ChecksumIEEE(h[:headerSize]); got != sum {
		return nil, fmt.Errorf("the CRC of the header in sector %d is %08x, not %08x", lba, got, sum)
	}
	if own := le.Uint64(h[24:]); own != uint64(lba) {
		return nil, fmt.Errorf("the header in sector %d says it is in sector %d", lba, own)
	}
	last := max(uint64(lba), le.Uint64(h[32:]))
	first, end, at := le.Uint64(h[40:]), le.Uint64(h[48:]), le.Uint64(h[72:])
	if last > 1<<53 || first > last || end > last || at > last {
		return nil, fmt.Errorf("the header in sector %d places things beyond the end of any disk", lba)
	}
	if n, size := le.Uint32(h[80:]), le.Uint32(h[84:]); n != entries || size != entrySize {
		return nil, fmt.Errorf("a table of %d entries of %d bytes; only %d of %d are known", n, size, entries, entrySize)
	}
	// Elsewhere than next to its header the array may make room for a boot loader,
	// which a table written our way would overwrite.
	if want := uint64(2); lba == 1 && at != want {
		return nil, fmt.Errorf("the entries are in sector %d; only %d is known", at, want)
	}
	e := make([]byte, entries*entrySize)
	if n, err := r.ReadAt(e, int64(at)*sector); n < len(e) {
		return nil, fmt.Errorf("reading the entries in sector %d: %w", at, err)
	}
	if got, want := crc32.ChecksumIEEE(e), le.Uint32(h[88:]); got != want {
		return nil, fmt.Errorf("the CRC of the entries in sector %d is %08x, not %08x", at, got, want)
	}

	t := &Table{GUID: guid(h[56:72]), Size: int64(last+1) * sector, FirstUsable: int64(first) * sector}
	for i := range entries {
		b := e[i*entrySize : (i+1)*entrySize]
		if bytes.Equal(b[:16], make([]byte, 16)) {
			continue
		}
		from, to := le.Uint64(b[32:]), le.Uint64(b[40:])
		name := utf16Name(b[56:])
		if from > to || to > end || from < first {
			return nil, fmt.Errorf("partition %d (%s) has sectors %d to %d, outside of %d to %d", i+1, name, from, to, first, end)
		}
		t.Parts = append(t.Parts, Part{Number: i + 1, Name: name, Type: guid(b[:16]), GUID: guid(b[16:32]),
			Off: int64(from) * sector, Len: int64(to-from+1) * sector, Attrs: le.Uint64(b[48:])})
	}
	byPlace := slices.Clone(t.Parts)
	slices.SortFunc(byPlace, func(a, b Part) int { return cmp.Compare(a.Off, b.Off) })
	for i := 1; i < len(byPlace); i++ {
		if a, b := byPlace[i-1], byPlace[i]; b.Off < a.Off+a.Len {
			return nil, fmt.Errorf("partitions %d (%s) and %d (%s) overlap", a.Number, a.Name, b.Number, b.Name)
		}
	}
	return t, nil
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
