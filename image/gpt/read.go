package gpt

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"

	"imgtool/image"
)

// ErrNone is the error for a sector without a GPT header.
var ErrNone = errors.New("no GPT header")

// UnsupportedError is a table that may be valid and that this package does not support.
type UnsupportedError struct{ reason string }

func (e *UnsupportedError) Error() string { return e.reason }

const (
	headerSize   = 92 // UEFI 2.10, table 5-5, without the reserved bytes
	maxEntrySize = 4096
	maxEntries   = 2 << 20 // in bytes; the kernel reads up to 4 MiB
)

// Read reads the table at the start of a disk or image with the logical sector size sector,
// in bytes. The header states the size of the disk. Read checks the checksums, and does not
// read the backup table.
func Read(r io.ReaderAt, sector int64) (*Table, error) { return read(r, sector, 1) }

// ReadBackup reads the backup table at the end of a disk of size bytes.
func ReadBackup(r io.ReaderAt, sector, size int64) (*Table, error) {
	return read(r, sector, size/sector-1)
}

func read(r io.ReaderAt, sector, lba int64) (*Table, error) {
	if lba < 1 {
		return nil, fmt.Errorf("%w: the disk is too small", ErrNone)
	}
	h := make([]byte, sector)
	if _, err := image.ReadFull(r, h, lba*sector); err == io.ErrUnexpectedEOF {
		return nil, fmt.Errorf("%w: the disk ends before the end of sector %d", ErrNone, lba)
	} else if err != nil {
		return nil, fmt.Errorf("reading sector %d: %w", lba, err)
	}
	if string(h[:8]) != "EFI PART" {
		return nil, fmt.Errorf("%w: the signature in sector %d of %d bytes is missing", ErrNone, lba, sector)
	}
	if err := checkHeader(h, lba); err != nil {
		return nil, err
	}
	// Offsets: UEFI 2.10, table 5-5, and table 5-6 for entries.
	le := binary.LittleEndian
	t := &Table{
		GUID: guid(h[56:72]), FirstUsable: int64(le.Uint64(h[40:])) * sector, Sector: sector, EntriesOff: int64(le.Uint64(h[72:])) * sector,
		Entries: int(le.Uint32(h[80:])), EntrySize: int(le.Uint32(h[84:])), header: h,
	}
	last := max(uint64(lba), le.Uint64(h[32:]))
	t.Size = int64(last+1) * sector
	t.entries = make([]byte, t.Entries*t.EntrySize)
	if _, err := image.ReadFull(r, t.entries, t.EntriesOff); err != nil {
		return nil, fmt.Errorf("reading the %d entries at byte %d: %w", t.Entries, t.EntriesOff, err)
	}
	if got, want := crc32.ChecksumIEEE(t.entries), le.Uint32(h[88:]); got != want {
		return nil, fmt.Errorf("the CRC of the entries at byte %d is %08x, not %08x", t.EntriesOff, got, want)
	}
	for i := range t.Entries {
		b := t.entries[i*t.EntrySize:][:entrySize]
		if image.IsZero(b[:16]) {
			continue
		}
		from, to := le.Uint64(b[32:]), le.Uint64(b[40:])
		name := utf16Name(b[56:])
		if from > to || to > last || from < 2 {
			return nil, fmt.Errorf("partition %d (%s) has sectors %d to %d, and the disk has sectors up to %d", i+1, name, from, to, last)
		}
		t.Parts = append(t.Parts, Part{Number: i + 1, Name: name, Type: guid(b[:16]), GUID: guid(b[16:32]),
			Off: int64(from) * sector, Len: int64(to-from+1) * sector, Attrs: le.Uint64(b[48:])})
	}
	if lba != 1 {
		t.EntriesOff = 2 * sector // the backup header does not state the offset at the start
	}
	return t, nil
}

func checkHeader(h []byte, lba int64) error {
	le := binary.LittleEndian
	size := le.Uint32(h[12:])
	if size < headerSize || int(size) > len(h) {
		return fmt.Errorf("the header in sector %d states a size of %d bytes, and %d to %d are possible", lba, size, headerSize, len(h))
	}
	if got, want := headerSum(h), le.Uint32(h[16:]); got != want {
		return fmt.Errorf("the CRC of the header in sector %d is %08x, not %08x", lba, got, want)
	}
	if own := le.Uint64(h[24:]); own != uint64(lba) {
		return fmt.Errorf("the header in sector %d states that it is in sector %d", lba, own)
	}
	last := max(uint64(lba), le.Uint64(h[32:]))
	first, end, at := le.Uint64(h[40:]), le.Uint64(h[48:]), le.Uint64(h[72:])
	if last > 1<<50 || first > last || end > last || at > last {
		return fmt.Errorf("the header in sector %d refers to sectors after the last one, %d", lba, last)
	}
	if at < 2 {
		return fmt.Errorf("the header in sector %d states that the entries are in sector %d, which overlaps the MBR and the header", lba, at)
	}
	n, each := int64(le.Uint32(h[80:])), int64(le.Uint32(h[84:]))
	if each < entrySize || each > maxEntrySize || each&(each-1) != 0 || n < 1 || n*each > maxEntries {
		return &UnsupportedError{fmt.Sprintf("a partition table of %d entries of %d bytes is not supported: entries may have 128, 256, 512, 1024, 2048 or 4096 bytes, and at most %d bytes together", n, each, int64(maxEntries))}
	}
	return nil
}

func headerSum(h []byte) uint32 {
	b := slices.Clone(h[:binary.LittleEndian.Uint32(h[12:])])
	clear(b[16:20])
	return crc32.ChecksumIEEE(b)
}

// Usual reports whether [Table.Extents] can write a table of this form.
func (t *Table) Usual() bool {
	return (t.Sector == 0 || t.Sector == sector) && (t.Entries == 0 || t.Entries == entries) &&
		(t.EntrySize == 0 || t.EntrySize == entrySize) && (t.EntriesOff == 0 || t.EntriesOff == 2*sector)
}

// Same reports whether two copies of a table are equal.
func (t *Table) Same(other *Table) bool {
	return t.GUID == other.GUID && t.Size == other.Size && t.FirstUsable == other.FirstUsable && t.EntrySize == other.EntrySize &&
		bytes.Equal(t.entries, other.entries)
}

// Overlap returns an error if two partitions overlap. The kernel and other programs accept
// such tables, and some images for optical media have them.
func (t *Table) Overlap() error {
	sorted := slices.SortedFunc(slices.Values(t.Parts), func(a, b Part) int { return cmp.Compare(a.Off, b.Off) })
	for i := 1; i < len(sorted); i++ {
		if a, b := sorted[i-1], sorted[i]; b.Off < a.Off+a.Len {
			return fmt.Errorf("partitions %d (%s) and %d (%s) overlap", a.Number, a.Name, b.Number, b.Name)
		}
	}
	return nil
}
