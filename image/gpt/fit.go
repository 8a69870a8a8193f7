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

// sectorSize is the size of a sector in bytes, also of a table that was not read.
func (t *Table) sectorSize() int64 { return cmp.Or(t.Sector, sector) }

// TailLen is how many bytes the copy at the end of the disk has: the entries in whole
// sectors, and the header.
func (t *Table) TailLen() int64 {
	s := t.sectorSize()
	array := int64(cmp.Or(t.Entries, entries) * cmp.Or(t.EntrySize, entrySize))
	return (array+s-1)/s*s + s
}

// Head is where the header and the entries at the start are.
func (t *Table) Head() []image.Span {
	s := t.sectorSize()
	return []image.Span{{Off: s, Len: s}, {Off: cmp.Or(t.EntriesOff, 2*s), Len: t.TailLen() - s}}
}

// Backup is where the copy at the end of the disk is.
func (t *Table) Backup() image.Span {
	return image.Span{Off: t.Size - t.TailLen(), Len: t.TailLen()}
}

// Fit is the same table for a disk of another size. It is an error if the
// partitions do not fit.
func (t *Table) Fit(size int64) (*Table, error) {
	s := t.sectorSize()
	fitted := *t
	fitted.Size = size / s * s
	if end, room := t.End(), fitted.Size-t.TailLen(); end > room || t.FirstUsable > room {
		return nil, fmt.Errorf("the partitions end at byte %d and a disk of %d bytes has room up to %d", end, size, max(0, room))
	}
	if t.header != nil {
		last := fitted.Size/s - 1
		fitted.header = slices.Clone(t.header)
		le := binary.LittleEndian
		le.PutUint64(fitted.header[32:], uint64(last))
		le.PutUint64(fitted.header[48:], uint64(last-t.TailLen()/s))
		le.PutUint32(fitted.header[16:], headerSum(fitted.header))
	}
	return &fitted, nil
}

// Header is the sector with the header at the start of the disk, of a table that was
// read there.
func (t *Table) Header() []byte { return slices.Clone(t.header) }

// Tail is the copy at the end of the disk, of a table that was read at its start: the
// last TailLen bytes.
func (t *Table) Tail() []byte {
	b := make([]byte, t.TailLen())
	copy(b, t.entries)
	h := b[t.TailLen()-t.Sector:]
	copy(h, t.header)
	le := binary.LittleEndian
	le.PutUint64(h[24:], uint64(t.Size/t.Sector-1))
	le.PutUint64(h[32:], 1)
	le.PutUint64(h[72:], uint64((t.Size-t.TailLen())/t.Sector))
	le.PutUint32(h[16:], headerSum(h))
	return b
}

// IsTail says whether the last TailLen bytes of a disk are a whole copy of the table.
// Its header may say that the entries are elsewhere: these are not looked at.
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

// FitMBR is the first 512 bytes of a disk with this table, fitted to the disk of
// another: of the partition of type 0xEE its size is changed, if it is that of the
// disk or there is no other. All else in them is kept.
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
