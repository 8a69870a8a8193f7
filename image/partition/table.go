// Package partition reads the partition table of an image or disk, whichever kind it has.
package partition

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"

	"imgtool/image"
	"imgtool/image/gpt"
	"imgtool/image/mbr"
)

// Table is the partition table of an image or disk.
type Table struct {
	GPT    *gpt.Table // nil: an MBR
	Sector int64      // size of the logical sectors it is for, in bytes
	Parts  []gpt.Part // of an MBR, number, type and place alone, extended partitions among them
}

// ErrNone says that an image or disk has no partition table.
var ErrNone = errors.New("it starts with no partition table")

// sectors are the sizes of logical sectors of disks, in bytes.
var sectors = []int64{512, 1024, 2048, 4096}

// Read reads the partition table of an image or disk. As for the kernel, there is a
// GPT only if an entry in the MBR is of type 0xEE; without one the MBR counts, whatever
// else there is.
//
// sector is the size of the disk's logical sectors; 0 is not known, and for an image:
// then a GPT is looked for in sector 1 of all sizes, and an MBR is for sectors of 4096
// bytes if a file system is found where it starts in these and none where it starts in
// sectors of 512 bytes, else for 512.
//
// Errors are ErrNone, a *gpt.UnsupportedError, those of r, and damage.
func Read(r io.ReaderAt, sector int64) (*Table, error) {
	table := &Table{Sector: sector}
	if sector == 0 {
		table.Sector = sectors[0]
	}
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

// hasFileSystem says whether something known is in a partition of an MBR, if it is for
// sectors of that many bytes.
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

// readGPT reads a GPT. Of several, as a disk may have after its sectors were made
// larger, it is the one for the disk that the MBR covers.
func readGPT(r io.ReaderAt, sector, covered int64) (*gpt.Table, error) {
	sizes := sectors
	if sector != 0 {
		sizes = []int64{sector}
	}
	var found *gpt.Table
	var fault error
	for _, s := range sizes {
		t, err := gpt.Read(r, s)
		switch {
		case err == nil && (found == nil || t.Size/s-1 == covered && found.Size/found.Sector-1 != covered):
			found = t
		case err != nil && (fault == nil || errors.Is(fault, gpt.ErrNone) && !errors.Is(err, gpt.ErrNone)):
			fault = err
		}
	}
	if found != nil {
		return found, nil
	}
	if errors.Is(fault, gpt.ErrNone) {
		return nil, fmt.Errorf("the MBR has an entry of type 0xEE, for a GPT: %w", fault)
	}
	return nil, fault
}

// ReadBackup reads the GPT at the end of an image or disk of size bytes.
func ReadBackup(r io.ReaderAt, size int64) (*Table, error) {
	var fault error
	for _, s := range sectors {
		t, err := gpt.ReadBackup(r, s, size)
		if err == nil {
			return &Table{GPT: t, Sector: s, Parts: t.Parts}, nil
		}
		if fault == nil || errors.Is(fault, gpt.ErrNone) && !errors.Is(err, gpt.ErrNone) {
			fault = err
		}
	}
	return nil, fault
}

// Start is where the first partition starts, or 0 if there is none.
func (t *Table) Start() int64 {
	if len(t.Parts) == 0 {
		return 0
	}
	return slices.MinFunc(t.Parts, func(a, b gpt.Part) int { return cmp.Compare(a.Off, b.Off) }).Off
}

// End is where the last partition ends.
func (t *Table) End() (end int64) {
	for _, p := range t.Parts {
		end = max(end, p.Off+p.Len)
	}
	return end
}

// Spans are where the table is, without the entries of an MBR that protects a GPT and
// without the tables of logical partitions.
func (t *Table) Spans() []image.Span {
	if t.GPT == nil {
		return nil
	}
	return append(t.GPT.Head(), t.GPT.Backup())
}

// DiskSize is how large the disk is that the partition table in the first bytes of r
// is for: of an MBR, up to the end of its last partition. It is 0 where there is no
// table, or one with a fault.
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
