// Package mbr reads the partition table of an MBR as Linux does (block/partitions/msdos.c),
// including logical partitions.
//
// It does not use go-diskfs, which reads only the four primary entries and hides the errors
// of the disk.
package mbr

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Size is the size of an MBR in bytes.
const Size = 512

// maxLinks is the largest number of tables in a chain of logical partitions, as in Linux.
const maxLinks = 100

// GPT is the type of the partition that protects a GPT (UEFI 2.10, table 5-4).
const GPT = 0xEE

// Part is a partition. First and Count are in sectors. For a logical partition, First may
// need more than 32 bits.
type Part struct {
	Number       int // from 1; logical partitions from 5
	Type         byte
	First, Count int64
}

// ErrNone is the error for a disk that does not start with an MBR.
var ErrNone = errors.New("no MBR")

// Table is an MBR: its partitions in the order of their numbers.
type Table struct {
	Parts      []Part
	Protective bool  // has an entry of type 0xEE: the disk has a GPT
	Covered    int64 // number of sectors of the first such entry
}

// Read reads the MBR at the start of a disk with the logical sector size sector, in bytes.
// It does not read a GPT. A chain of logical partitions ends at the first invalid table, as
// in Linux.
func Read(r io.ReaderAt, sector int64) (*Table, error) {
	b := make([]byte, Size)
	if n, err := r.ReadAt(b, 0); n < len(b) {
		if err == nil || err == io.EOF {
			return nil, fmt.Errorf("%w: the disk has %d bytes", ErrNone, n)
		}
		return nil, err
	}
	if !signed(b) {
		return nil, fmt.Errorf("%w: the bytes 55 AA at 510 are missing", ErrNone)
	}
	t := &Table{}
	plain := true
	for i, e := range entries(b) {
		plain = plain && e.boot&0x7f == 0
		if e.kind == GPT && !t.Protective {
			t.Protective, t.Covered = true, e.count
		}
		if e.count != 0 { // Linux accepts type 0
			t.Parts = append(t.Parts, Part{i + 1, e.kind, e.first, e.count})
		}
	}
	if t.Protective {
		return t, nil
	}
	// A boot sector without a table has the same signature.
	if !plain {
		return nil, fmt.Errorf("%w: the active flag of a partition is neither 0 nor 0x80", ErrNone)
	}
	next := 5
	for _, p := range t.Parts {
		if extended(p.Type) {
			logical, err := chain(r, sector, p, next)
			if err != nil {
				return nil, err
			}
			next += len(logical)
			t.Parts = append(t.Parts, logical...)
		}
	}
	return t, nil
}

// chain returns the logical partitions of an extended partition, numbered from next.
func chain(r io.ReaderAt, sector int64, in Part, next int) (parts []Part, err error) {
	at := in.First
	b := make([]byte, Size)
	for range maxLinks {
		n, err := r.ReadAt(b, at*sector)
		if n < len(b) && err != nil && err != io.EOF && !errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, fmt.Errorf("reading the table of logical partitions in sector %d: %w", at, err)
		}
		if n < len(b) || !signed(b) {
			return parts, nil
		}
		link := int64(-1)
		for i, e := range entries(b) {
			switch first := at + e.first; {
			case e.count == 0:
			case extended(e.kind):
				if link < 0 {
					link = in.First + e.first
				}
			// As in Linux, the last two entries count only within the extended partition.
			case i < 2 || first >= in.First && first+e.count <= in.First+in.Count:
				parts = append(parts, Part{next + len(parts), e.kind, first, e.count})
			}
		}
		if link < 0 {
			break
		}
		at = link
	}
	return parts, nil
}

// entry is a partition record: UEFI 2.10, table 5-2, which has StartingLBA at byte 8 and
// SizeInLBA at byte 12.
type entry struct {
	boot, kind   byte
	first, count int64
}

func entries(b []byte) (list [4]entry) {
	le := binary.LittleEndian
	for i := range list {
		e := b[446+16*i:]
		list[i] = entry{e[0], e[4], int64(le.Uint32(e[8:])), int64(le.Uint32(e[12:]))}
	}
	return list
}

func signed(b []byte) bool { return b[510] == 0x55 && b[511] == 0xAA }

// extended reports whether a partition of a type contains logical partitions.
func extended(kind byte) bool { return kind == 0x05 || kind == 0x0F || kind == 0x85 }
