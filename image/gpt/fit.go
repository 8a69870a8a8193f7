package gpt

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"slices"

	"imgtool/image"
)

// sectorSize returns the sector size in bytes; the default is 512.
func (t *Table) sectorSize() int64 { return cmp.Or(t.Sector, sector) }

// TailLen returns the length in bytes of the backup table at the end of the disk: the
// entries in whole sectors, and the header.
func (t *Table) TailLen() int64 {
	s := t.sectorSize()
	array := int64(cmp.Or(t.Entries, entries) * cmp.Or(t.EntrySize, entrySize))
	return (array+s-1)/s*s + s
}

// Head returns the places of the header and the entries at the start of the disk.
func (t *Table) Head() []image.Span {
	s := t.sectorSize()
	return []image.Span{{Off: s, Len: s}, {Off: cmp.Or(t.EntriesOff, 2*s), Len: t.TailLen() - s}}
}

// Backup returns the place of the backup table at the end of the disk.
func (t *Table) Backup() image.Span {
	return image.Span{Off: t.Size - t.TailLen(), Len: t.TailLen()}
}

// Fit returns the table for a disk of another size, in bytes. It fails if the partitions do
// not fit.
func (t *Table) Fit(size int64) (*Table, error) {
	s := t.sectorSize()
	fitted := *t
	fitted.Size = size / s * s
	if end, room := t.End(), fitted.Size-t.TailLen(); end > room || t.FirstUsable > room {
		return nil, fmt.Errorf("the partitions end at byte %d and a disk of %d bytes has room up to %d", end, size, max(0, room))
	}
	if t.header != nil {
		// UEFI 2.10, table 5-5: AlternateLBA at 32, LastUsableLBA at 48, HeaderCRC32 at 16.
		last := fitted.Size/s - 1
		fitted.header = slices.Clone(t.header)
		le := binary.LittleEndian
		le.PutUint64(fitted.header[32:], uint64(last))
		le.PutUint64(fitted.header[48:], uint64(last-t.TailLen()/s))
		le.PutUint32(fitted.header[16:], headerSum(fitted.header))
	}
	return &fitted, nil
}

// Header returns the sector with the header, of a table that [Read] returned.
func (t *Table) Header() []byte { return slices.Clone(t.header) }

// Tail returns the backup table for the last TailLen bytes of the disk, of a table that
// [Read] returned. Its header differs in MyLBA, AlternateLBA and PartitionEntryLBA (UEFI
// 2.10, 5.3.2).
func (t *Table) Tail() []byte {
	b := make([]byte, t.TailLen())
	copy(b, t.entries)
	h := b[t.TailLen()-t.Sector:]
	copy(h, t.header)
	le := binary.LittleEndian
	le.PutUint64(h[24:], uint64(t.Size/t.Sector-1))             // MyLBA
	le.PutUint64(h[32:], 1)                                     // AlternateLBA
	le.PutUint64(h[72:], uint64((t.Size-t.TailLen())/t.Sector)) // PartitionEntryLBA
	le.PutUint32(h[16:], headerSum(h))
	return b
}

// IsTail reports whether b, the last TailLen bytes of a disk, is a complete backup of the
// table. If its header places the entries elsewhere, IsTail does not compare them.
func (t *Table) IsTail(b []byte) bool {
	if int64(len(b)) != t.TailLen() {
		return false
	}
	at := t.TailLen() - t.Sector
	h := b[at:]
	le := binary.LittleEndian
	if string(h[:8]) != "EFI PART" || checkHeader(h, t.Size/t.Sector-1) != nil || guid(h[56:72]) != t.GUID || le.Uint32(h[88:]) != crc32.ChecksumIEEE(t.entries) {
		return false
	}
	return int64(le.Uint64(h[72:]))*t.Sector != t.Backup().Off || bytes.Equal(b[:len(t.entries)], t.entries)
}

// FitMBR returns b, the first 512 bytes of a disk with this table, for the disk of a fitted
// table. It changes only the size of the partition of type 0xEE (UEFI 2.10, 5.2.3), and only
// if that is the size of the disk or there are no other partitions.
func (t *Table) FitMBR(b []byte, fitted *Table) []byte {
	b = slices.Clone(b)
	alone := true
	var protective [][]byte
	for at := 446; at < 510; at += 16 {
		switch e := b[at : at+16]; e[4] {
		case 0xEE:
			protective = append(protective, e)
		case 0:
		default:
			alone = false
		}
	}
	last := func(t *Table) uint32 { return uint32(min(t.Size/t.sectorSize()-1, math.MaxUint32)) }
	for _, e := range protective {
		n := binary.LittleEndian.Uint32(e[12:])
		if n == last(t) || alone && len(protective) == 1 && n != math.MaxUint32 {
			binary.LittleEndian.PutUint32(e[12:], last(fitted))
		}
	}
	return b
}
