// Package mbr reads the partition table of an MBR as the kernel does, with the logical
// partitions in extended ones.
//
// go-diskfs, which the image/gpt package writes its tables with, reads the four primary
// entries and follows no extended partition, so this is not made of it.
package mbr

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Size is the size of an MBR in bytes.
const Size = 512

// maxLinks is how many tables a chain of logical partitions may have, as in the
// kernel's block/partitions/msdos.c.
const maxLinks = 100

// GPT is the type of the partition that protects a GPT.
const GPT = 0xEE

// Part is a partition. First and Count are in sectors of the disk, and may be more
// than 32 bits for a logical one.
type Part struct {
	Number       int // from 1; logical partitions from 5
	Type         byte
	First, Count int64
}

// Extended says that a partition is there to hold logical ones.
func (p Part) Extended() bool { return extended(p.Type) }

// ErrNone says that a disk does not start with an MBR.
var ErrNone = errors.New("there is no MBR")

// Table is an MBR: its partitions in the order of their numbers.
type Table struct {
	Parts      []Part
	Protective bool  // an entry is of type 0xEE: what counts is the GPT
	Covered    int64 // how many sectors the first such entry has
}

// Read reads the MBR at the start of a disk with logical sectors of that many bytes.
// Whether it protects a GPT is said, not judged. A chain of logical partitions ends
// where it cannot be followed, as in the kernel.
func Read(r io.ReaderAt, sector int64) (*Table, error) {
	b := make([]byte, Size)
	if n, err := r.ReadAt(b, 0); n < len(b) {
		if err == nil || err == io.EOF {
			return nil, fmt.Errorf("%w: it has %d bytes", ErrNone, n)
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
		if e.count != 0 { // the kernel takes one of type 0 as well
			t.Parts = append(t.Parts, Part{i + 1, e.kind, e.first, e.count})
		}
	}
	if t.Protective {
		return t, nil
	}
	// The code of a boot sector ends in the same two bytes.
	if !plain {
		return nil, fmt.Errorf("%w: the active flag of a partition is neither 0 nor 0x80", ErrNone)
	}
	next := 5
	for _, p := range t.Parts {
		if p.Extended() {
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

// chain is the logical partitions in an extended one, numbered from next on.
func chain(r io.ReaderAt, sector int64, in Part, next int) (parts []Part, err error) {
	at := in.First
	b := make([]byte, Size)
	for range maxLinks {
		if n, err := r.ReadAt(b, at*sector); n < len(b) {
			if err == nil || err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
				return parts, nil
			}
			return nil, fmt.Errorf("reading the table of logical partitions in sector %d: %w", at, err)
		}
		if !signed(b) {
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
			// The first two are what they say; of others only what is inside counts.
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

func extended(kind byte) bool { return kind == 0x05 || kind == 0x0F || kind == 0x85 }
