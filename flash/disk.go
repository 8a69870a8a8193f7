// Package flash knows the disks of this machine: which there are, why one must
// not be written, how to open one so that nobody else has it, and in which
// order an image goes onto it so that an interrupted flash never looks whole.
//
// It knows no board, no format and no partition table: what is written comes
// in as chunks. It asks nothing and prints nothing.
package flash

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Disk is a disk of this machine, or a regular file that stands in for one. It
// is what was found at one moment; Open looks again.
type Disk struct {
	Path       string // /dev/sdb, or the path of a file as it was given
	Name       string // sdb
	Size       int64  // in bytes, 0 for a reader without a card
	SectorSize int    // logical, in bytes
	Model      string
	Vendor     string
	Serial     string
	Bus        string // usb, nvme, sd, mmc, virtio, ata, scsi, loop, nbd, or nothing
	Removable  bool
	ReadOnly   bool
	File       bool   // a regular file
	Diskseq    uint64 // a number the kernel gives to no other disk until it reboots, 0 if it gives none
	Parts      []Part
	InUse      []string // who uses it, one sentence each
	System     bool     // this system runs from it
}

// Part is a partition of a disk.
type Part struct {
	Name      string // sdb1
	Off, Size int64
}

// Need is what an image asks of a disk. What is zero is not asked.
type Need struct {
	Size       int64  // of the image, in bytes
	Floor      int64  // the least that Who gets along with, in bytes
	Who        string // who needs the floor, such as "rock64"
	SectorSize int    // the sectors the image is made for, in bytes
}

// Check says whether the disk may be written: a *RefusedError if not. Nothing
// lifts it. With a zero Need it is about the disk alone.
func (d *Disk) Check(need Need) error {
	users := strings.Join(d.InUse, "; ")
	switch {
	case d.System && users != "":
		return d.refuse("this system runs from it (%s)", users)
	case d.System:
		return d.refuse("this system runs from it")
	case users != "":
		return d.refuse("%s: unmount or release it first", users)
	case d.Size == 0 && d.File:
		return d.refuse("an empty file stands for no disk: give it a size first, with truncate -s")
	case d.Size == 0:
		return d.refuse("there is no medium in it: put one in")
	case d.ReadOnly:
		return d.refuse("it is read-only: look for a write-protect switch")
	case need.SectorSize != 0 && d.SectorSize != need.SectorSize:
		return d.refuse("its sectors have %d bytes and the image is made for %d: use a disk with %d-byte sectors",
			d.SectorSize, need.SectorSize, need.SectorSize)
	case d.Size < need.Size:
		has, needs := sizes(d.Size, need.Size)
		return d.refuse("%s is too small: the image needs %s: use a larger disk", has, needs)
	case d.Size < need.Floor:
		has, needs := sizes(d.Size, need.Floor)
		return d.refuse("%s is too small: %s needs %s: use a larger disk", has, cmp.Or(need.Who, "the board"), needs)
	}
	return nil
}

func (d *Disk) refuse(format string, args ...any) error {
	return &RefusedError{d.Path, fmt.Sprintf(format, args...)}
}

// RefusedError is why something is not written to.
type RefusedError struct{ Disk, Reason string }

func (e *RefusedError) Error() string { return e.Disk + ": " + e.Reason }

// GoneError is a disk that went away, or turned into another one.
type GoneError struct {
	Disk string
	Err  error // how it was noticed
}

func (e *GoneError) Error() string {
	return fmt.Sprintf("%s: the disk is gone: plug it in and start over (%v)", e.Disk, e.Err)
}
func (e *GoneError) Unwrap() error { return e.Err }

// ReadError is a disk that could not be read back; Err names the offset.
type ReadError struct{ Err error }

func (e *ReadError) Error() string { return e.Err.Error() }
func (e *ReadError) Unwrap() error { return e.Err }

const (
	mib = 1 << 20
	gib = 1 << 30
)

// sizes are two different sizes in words that differ and can be compared: both
// in the same unit.
func sizes(a, b int64) (string, string) {
	unit, name := int64(1), "bytes"
	switch least := min(a, b); {
	case least >= 10*gib:
		unit, name = gib, "GiB"
	case least >= mib:
		unit, name = mib, "MiB"
	}
	in := func(n int64) string {
		if a%unit == 0 && b%unit == 0 {
			return fmt.Sprintf("%d %s", n/unit, name)
		}
		return fmt.Sprintf("%.1f %s", float64(n)/float64(unit), name)
	}
	if in(a) == in(b) {
		unit, name = 1, "bytes"
	}
	return in(a), in(b)
}

func sortParts(parts []Part) {
	slices.SortFunc(parts, func(a, b Part) int { return cmp.Or(cmp.Compare(a.Off, b.Off), cmp.Compare(a.Name, b.Name)) })
}
