// Package disk finds the disks of this computer ([List], [Find]), returns why a disk must
// not be written ([Disk.Check]), opens one for exclusive use ([Open]), and recognizes the
// disk that a board in recovery mode shows over USB ([Match]).
//
// On Linux a root directory other than "/" describes another, recorded machine.
package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"imgtool/flash/disk/procs"
	"imgtool/flash/disk/usb"
	"imgtool/image/fault"
)

// Disk is a disk of this computer, or a regular file used as a disk, as it was when it was
// found. [Open] checks that it is still the same.
type Disk struct {
	Path       string // such as /dev/sdb, or the path of a file as it was given
	Name       string // such as sdb
	Size       int64  // in bytes, 0 for a card reader without a card
	SectorSize int    // logical, in bytes
	Model      string
	Vendor     string
	Rev        string      // revision, from a SCSI inquiry
	Serial     string      // of the USB device if the disk is on USB, else of the disk
	WWN        string      // world wide name, such as naa.5002538e40a12345
	Bus        string      // usb, nvme, mmc, virtio, ata, scsi, loop, nbd or ""
	Kind       string      // on bus mmc: MMC for an eMMC, SD for a card
	USB        *usb.Device // nil if the disk is not on USB
	Removable  bool        // has a removable medium, according to the kernel; false for many USB disks. On macOS: not Internal
	ReadOnly   bool
	File       bool   // a regular file
	Diskseq    uint64 // a number the kernel uses for no other disk until it reboots; 0 if unknown
	Parts      []Part
	InUse      []string // uses of the disk, one sentence each
	Mounts     []Mount  // of the disk and its partitions; they are in InUse as well. Not on macOS
	System     bool     // this computer runs from it

	dev       uint64       // device number as in stat(2), if known
	found     fs.FileInfo  // of a regular file
	foundFile procs.FileID // of the file of a loop device, if known

	// macOS only.
	Internal bool     // an internal disk without removable medium; no option allows to write it
	Mounted  []string // mount points of volumes that Open unmounts
}

// Part is a partition of a disk. Off and Size are in bytes.
type Part struct {
	Name      string // such as sdb1
	Off, Size int64
}

// Mount is a mounted file system.
type Mount struct {
	Device string   // such as /dev/sdb1
	At     []string // mount points
}

// Releasable reports whether nothing keeps the disk in use but mounts that [Disk.Unmount] can
// end: this computer does not run from it, and it is not swap or part of another device.
func (d *Disk) Releasable() bool {
	return len(d.Mounts) > 0 && len(d.Mounts) == len(d.InUse) && !d.System
}

// MountPoints returns where file systems of the disk are mounted that [Disk.Unmount] or [Open]
// can unmount.
func (d *Disk) MountPoints() []string {
	at := slices.Clone(d.Mounted)
	if d.Releasable() {
		for _, m := range d.Mounts {
			at = append(at, m.At...)
		}
	}
	return at
}

// Fixed reports whether a disk is part of the computer: it is not removable, on USB, an SD
// card or eMMC, a loop device, an nbd or a regular file.
func (d *Disk) Fixed() bool {
	return !d.Removable && !d.File && !slices.Contains([]string{"usb", "mmc", "loop", "nbd"}, d.Bus)
}

// RefusedError is why a disk or file must not be written.
type RefusedError struct{ Disk, Reason string }

func (e *RefusedError) Error() string { return e.Disk + ": " + e.Reason }
func (e *RefusedError) Kind() string  { return fault.Refused }

func (d *Disk) refuse(format string, args ...any) error {
	return &RefusedError{d.Path, fmt.Sprintf(format, args...)}
}

// PermissionError is a disk or file that this user may not open. It is an [fs.ErrPermission].
type PermissionError struct {
	Disk, Reason string
	Password     bool // an administrator's password would do
}

func (e *PermissionError) Error() string        { return e.Disk + ": " + e.Reason }
func (e *PermissionError) Kind() string         { return fault.Permission }
func (e *PermissionError) Is(target error) bool { return target == fs.ErrPermission }

// GoneError is a disk that was removed, or replaced by another one.
type GoneError struct {
	Disk string
	Err  error // the error that showed it
}

func (e *GoneError) Error() string {
	return fmt.Sprintf("%s: the disk is gone: plug it in and start over (%v)", e.Disk, e.Err)
}
func (e *GoneError) Unwrap() error { return e.Err }
func (e *GoneError) Kind() string  { return fault.Gone }

// MovedError is a regular file that was removed, renamed or replaced while it was written.
type MovedError struct{ File string }

func (e *MovedError) Error() string {
	return e.File + ": the file was removed, renamed or replaced while it was written, so what was written no longer has this name: start over"
}
func (e *MovedError) Kind() string { return fault.Gone }

// Lost returns the [*GoneError] or [*MovedError] in err, or a [*GoneError] for the disk at
// path if err means that a device does not exist, or nil.
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

// resolve returns the path of a file below root without symbolic links. The error for a
// directory is a [*RefusedError].
func resolve(root, path string) (at string, info fs.FileInfo, err error) {
	if at, err = filepath.Abs(path); err == nil {
		at = filepath.Join(root, at)
		info, err = os.Stat(at) // its error for links that form a circle is of the system
	}
	if err == nil {
		at, err = filepath.EvalSymlinks(at)
	}
	if err == nil && info.IsDir() {
		err = &RefusedError{path, "a directory is not a disk: name a disk such as /dev/sdb, or a regular file"}
	}
	return at, info, err
}

func regularFile(path string, info fs.FileInfo) *Disk {
	return &Disk{Path: path, Name: filepath.Base(path), Size: info.Size(), SectorSize: 512, File: true, found: info}
}

// list joins names, and shortens a long list.
func list(names []string) string {
	const few = 4
	if len(names) > few {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:few], ", "), len(names)-few)
	}
	return strings.Join(names, ", ")
}
