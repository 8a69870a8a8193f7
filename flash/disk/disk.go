// Package disk finds the disks of this machine, says why one must not be written,
// and opens one so that nothing else can use it meanwhile.
package disk

import (
	"cmp"
	"errors"
	"fmt"
	"imgtool/image/fault"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"
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
	Rev        string // the revision a SCSI disk answers with
	Serial     string // on USB that of the USB device, else that of the disk
	WWN        string // the name no other disk has, such as naa.5002538e40a12345
	Bus        string // usb, nvme, mmc, virtio, ata, scsi, loop, nbd, or nothing
	Kind       string // on bus mmc: MMC is an eMMC, SD a card
	USB        *USB   // what it hangs on, nil if that is not USB
	Removable  bool   // the medium is, says the kernel; false for many USB disks; on macOS true for all that is not Internal
	ReadOnly   bool
	File       bool   // a regular file
	Diskseq    uint64 // a number the kernel gives to no other disk until it reboots, 0 if it gives none
	Parts      []Part
	InUse      []string // who uses it, one sentence each
	System     bool     // this system runs from it

	found     fs.FileInfo // of a regular file: the file that was found
	foundFile fileID      // of a loop device: its file, if that is known

	// On macOS alone.
	Internal bool     // built in, and not a medium one can take out: no flag lifts it
	Mounted  []string // where volumes are mounted that Open unmounts
}

// fileID tells regular files apart, whatever their names are.
type fileID struct{ dev, ino uint64 }

// MadeOf says whether a loop device is made of the file that info is of, by the kernel's
// word; known is false where the kernel could not be asked.
func (d *Disk) MadeOf(info fs.FileInfo) (made, known bool) {
	id, ok := idOfInfo(info)
	return id == d.foundFile, ok && d.foundFile != (fileID{})
}

// USB is one interface of a USB device, as sysfs has it. A device has one or
// more; those of one device share its port. Strings it does not have are empty.
type USB struct {
	Port         string // where it is plugged in, such as 1-2.3: port 3 of a hub in port 2 of bus 1
	VendorID     string // four hex digits, in lower case
	ProductID    string // four hex digits, in lower case
	BCD          string // of the device's release, four digits
	Manufacturer string
	Product      string
	Serial       string
	Interface    string // class/subclass/protocol in hex: 08/06/50 is a disk over bulk transport
	Driver       string // of the interface, such as usb-storage, nothing if none took it
}

// ID is the vendor and the product, such as 2207:320c.
func (u USB) ID() string { return u.VendorID + ":" + u.ProductID }

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
	Exact      int64  // the only size the disk can have, in bytes
	SectorSize int    // the sectors the image is made for, in bytes

	// Fixed says that a person means a fixed disk, and Serial which: its serial
	// number, its WWN where it has none.
	Fixed  bool
	Serial string
}

// Fixed says that the disk belongs to the machine: it is neither removable, on
// USB, an SD card or eMMC, nor a loop device, an nbd or a regular file, which
// somebody attached by hand.
func (d *Disk) Fixed() bool {
	return !d.Removable && !d.File && !slices.Contains([]string{"usb", "mmc", "loop", "nbd"}, d.Bus)
}

// Check says whether the disk may be written: a *RefusedError if not. Nothing
// lifts it but, for a fixed disk that nobody uses, Need.Fixed with the right
// Need.Serial. A serial is compared with that of any disk if it is given.
//
// With the zero Need it is about use alone: no image, no person's intent, fixed
// disks pass.
func (d *Disk) Check(need Need) error {
	users := strings.Join(d.InUse, "; ")
	switch {
	case d.System && users != "":
		return d.refuse("this system runs from it (%s)", users)
	case d.System:
		return d.refuse("this system runs from it")
	case d.Internal:
		return d.refuse("it is built into this computer: only external disks and cards are written here")
	case users != "":
		return d.refuse("%s: unmount or release it first", users)
	case d.Size == 0 && d.File:
		return d.refuse("an empty file stands for no disk: give it a size first, with truncate -s")
	case d.Size == 0:
		return d.refuse("there is no medium in it: put one in")
	case d.ReadOnly:
		return d.refuse("it is read-only: look for a write-protect switch")
	case need.SectorSize != 0 && d.SectorSize != need.SectorSize && !d.File:
		return d.refuse("its sectors have %d bytes and the image is made for %d: use a disk with %d-byte sectors",
			d.SectorSize, need.SectorSize, need.SectorSize)
	case d.Size < need.Floor && need.Floor >= need.Size:
		has, needs := sizes(d.Size, need.Floor)
		return d.refuse("%s is too small: %s needs %s: use a larger disk", has, cmp.Or(need.Who, "the board"), needs)
	case need.Exact != 0 && d.Size > need.Exact:
		return d.refuse("it is not the disk of %s that is meant: that has %d bytes, this one %d", cmp.Or(need.Who, "the board"), need.Exact, d.Size)
	case d.Size < need.Size:
		has, needs := sizes(d.Size, need.Size)
		return d.refuse("%s is too small: the image needs %s: use a larger disk", has, needs)
	}
	if need == (Need{}) {
		return nil
	}
	return d.checkIdentity(need)
}

// checkIdentity comes last: nobody shall look up a serial for nothing.
func (d *Disk) checkIdentity(need Need) error {
	id, fixed := cmp.Or(d.Serial, d.WWN), d.Fixed()
	about := "it is a fixed disk"
	if d.Bus != "" {
		about += " (" + d.Bus + ")"
	}
	switch {
	case fixed && id == "":
		return d.refuse("%s with neither a serial number nor a WWN: it cannot be told from others", about)
	case fixed && (!need.Fixed || need.Serial == ""):
		return d.refuse("%s: if it is really meant, pass --fixed --serial %s", about, word(id))
	case need.Serial == "" || need.Serial == id:
		return nil
	case id == "":
		return d.refuse("it has no serial number, and %s is asked for: name the disk that has it", word(need.Serial))
	}
	return d.refuse("its serial number is %s, not %s: name the disk that is meant", word(id), word(need.Serial))
}

// word is s as a person types it to a shell.
func word(s string) string {
	plain := func(r rune) bool {
		return r < utf8.RuneSelf && (unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("._:-", r))
	}
	if strings.TrimFunc(s, plain) == "" {
		return s
	}
	return strconv.Quote(s)
}

func (d *Disk) refuse(format string, args ...any) error {
	return &RefusedError{d.Path, fmt.Sprintf(format, args...)}
}

// RefusedError is why something is not written to.
type RefusedError struct{ Disk, Reason string }

func (e *RefusedError) Error() string { return e.Disk + ": " + e.Reason }
func (e *RefusedError) Kind() string  { return fault.Refused }

// GoneError is a disk that went away, or turned into another one.
type GoneError struct {
	Disk string
	Err  error // how it was noticed
}

func (e *GoneError) Error() string {
	return fmt.Sprintf("%s: the disk is gone: plug it in and start over (%v)", e.Disk, e.Err)
}
func (e *GoneError) Unwrap() error { return e.Err }
func (e *GoneError) Kind() string  { return fault.Gone }

// MovedError is a regular file that lost its name while it was written: what was
// written is not where it was asked for.
type MovedError struct{ File string }

func (e *MovedError) Error() string {
	return e.File + ": the file was removed, renamed or replaced while it was written: there is no file of that name with what was written: start over"
}

func (e *MovedError) Kind() string { return fault.Gone }

// Lost is the *GoneError or *MovedError that err is or stands for, or nil.
func Lost(path string, err error) error {
	if moved, ok := errors.AsType[*MovedError](err); ok {
		return moved
	}
	if gone, ok := errors.AsType[*GoneError](err); ok {
		return gone
	}
	if errors.Is(err, syscall.ENODEV) || errors.Is(err, syscall.ENXIO) || errors.Is(err, errNoMedium) || errors.Is(err, fs.ErrNotExist) {
		return &GoneError{path, err}
	}
	return nil
}

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

// list joins names, the first few of many.
func list(names []string) string {
	const few = 4
	if len(names) > few {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:few], ", "), len(names)-few)
	}
	return strings.Join(names, ", ")
}
