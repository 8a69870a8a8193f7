// Package partition reads the partition table of an image or disk, a GPT or an MBR.
package partition

import (
	"cmp"
	"errors"
	"fmt"
	"io"

	"imgtool/image"
	"imgtool/image/gpt"
	"imgtool/image/mbr"
)

// Table is the partition table of an image or disk.
type Table struct {
	GPT       *gpt.Table // nil for an MBR
	Sector    int64      // logical sector size, in bytes
	gpt.Parts            // with an MBR: including extended partitions, without names and GUIDs
}

// ErrNone is the error for an image or disk without a partition table.
var ErrNone = errors.New("it starts with no partition table")

// sectors are the logical sector sizes of disks, in bytes.
var sectors = []int64{512, 1024, 2048, 4096}

// Read reads the partition table of an image or disk. As in Linux, a disk has a GPT only if
// the MBR has an entry of type 0xEE.
//
// sector is the logical sector size of the disk in bytes. With 0, as for an image, Read looks
// for a GPT with all sector sizes. An MBR has sectors of 4096 bytes if a file system starts in
// a partition with this size and none does with 512; else it has sectors of 512 bytes.
//
// The error is [ErrNone], a [*gpt.UnsupportedError], an error of r, or describes damage.
func Read(r io.ReaderAt, sector int64) (*Table, error) {
	table := &Table{Sector: cmp.Or(sector, sectors[0])}
	m, err := mbr.Read(r, table.Sector)
	if err == nil && sector == 0 && !m.Protective && !hasFileSystem(r, m, 512) && hasFileSystem(r, m, 4096) {
		table.Sector = 4096
		m, err = mbr.Read(r, table.Sector)
	}
	if errors.Is(err, mbr.ErrNone) {
		return nil, fmt.Errorf("%w (%w)", ErrNone, err)
	}
	if err != nil {
		return nil, err
	}
	if !m.Protective {
		for _, p := range m.Parts {
			table.Parts = append(table.Parts, gpt.Part{Number: p.Number, Type: fmt.Sprintf("%#02x", p.Type), Off: p.First * table.Sector, Len: p.Count * table.Sector})
		}
		return table, nil
	}
	if table.GPT, err = readGPT(r, sector, m.Covered); err != nil {
		return nil, err
	}
	table.Sector, table.Parts = table.GPT.Sector, table.GPT.Parts
	return table, nil
}

// hasFileSystem reports whether a partition of an MBR with the given sector size has a known
// file system.
func hasFileSystem(r io.ReaderAt, m *mbr.Table, sector int64) bool {
	magics := []struct {
		off   int64
		magic string
	}{
		{0, "hsqs"}, {0, "XFSB"}, {0, "LUKS\xba\xbe"}, {1024, "\x10\x20\xf5\xf2"}, {1080, "\x53\xef"}, {4086, "SWAPSPACE2"},
		{65600, "_BHRfS_M"}, {510, "\x55\xaa"}, // FAT, exFAT, NTFS, and the table of logical partitions
	}
	for _, p := range m.Parts {
		for _, known := range magics {
			b := make([]byte, len(known.magic))
			if n, _ := r.ReadAt(b, p.First*sector+known.off); n == len(b) && string(b) == known.magic && p.First > 0 {
				return true
			}
		}
	}
	return false
}

// readGPT reads a GPT. If there are several, as after the sector size of a disk was changed,
// it returns the table for the number of sectors in the MBR.
func readGPT(r io.ReaderAt, sector, covered int64) (*gpt.Table, error) {
	sizes := sectors
	if sector != 0 {
		sizes = []int64{sector}
	}
	var found *gpt.Table
	var fault error
	for _, s := range sizes {
		t, err := gpt.Read(r, s)
		if err == nil && (found == nil || t.Size/s-1 == covered && found.Size/found.Sector-1 != covered) {
			found = t
		}
		fault = worse(fault, err)
	}
	if found != nil {
		return found, nil
	}
	if errors.Is(fault, gpt.ErrNone) {
		return nil, fmt.Errorf("the MBR has an entry of type 0xEE, for a GPT: %w", fault)
	}
	return nil, fault
}

// ReadBackup reads the backup GPT at the end of an image or disk of size bytes.
func ReadBackup(r io.ReaderAt, size int64) (*Table, error) {
	var fault error
	for _, s := range sectors {
		t, err := gpt.ReadBackup(r, s, size)
		if err == nil {
			return &Table{GPT: t, Sector: s, Parts: t.Parts}, nil
		}
		fault = worse(fault, err)
	}
	return nil, fault
}

// worse returns the first of two errors, or the second if the first is [gpt.ErrNone] or nil.
func worse(first, second error) error {
	if second == nil || first != nil && (!errors.Is(first, gpt.ErrNone) || errors.Is(second, gpt.ErrNone)) {
		return first
	}
	return second
}

// Spans returns the places of a GPT, without the protective MBR. An MBR has none.
func (t *Table) Spans() []image.Span {
	if t.GPT == nil {
		return nil
	}
	return append(t.GPT.Head(), t.GPT.Backup())
}

// DiskSize returns the size of the disk of the partition table at the start of r: for an
// MBR, the end of the last partition. It returns 0 without a valid table.
func DiskSize(r io.ReaderAt) int64 {
	t, err := Read(r, 0)
	switch {
	case err != nil:
		return 0
	case t.GPT != nil:
		return t.GPT.Size
	}
	return t.End()
}
