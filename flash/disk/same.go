package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"imgtool/flash/disk/procs"
)

// Same reports whether two disks found at the same time are one disk or one file.
func (d *Disk) Same(other *Disk) bool {
	if d.File || other.File {
		return d.found != nil && other.found != nil && os.SameFile(d.found, other.found)
	}
	return d.Name == other.Name
}

// Contains reports whether a file has content of the disk: it is the disk itself, a partition
// of it, or the file of a loop device.
func (d *Disk) Contains(file fs.FileInfo) bool {
	if info, err := os.Stat(d.Path); err == nil && os.SameFile(file, info) {
		return true
	}
	st, ok := file.Sys().(*syscall.Stat_t)
	if ok && file.Mode()&fs.ModeDevice != 0 {
		at, err := filepath.EvalSymlinks(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))))
		return err == nil && (filepath.Base(at) == d.Name || filepath.Base(filepath.Dir(at)) == d.Name)
	}
	if id, ok := procs.IDOf(file); ok && d.foundFile != (procs.FileID{}) {
		return id == d.foundFile
	}
	if d.File {
		return false
	}
	backing, err := os.ReadFile("/sys/block/" + d.Name + "/loop/backing_file")
	if err != nil {
		return false
	}
	info, err := os.Stat(strings.TrimSpace(string(backing)))
	return err == nil && os.SameFile(file, info)
}

// Again finds the disk again after it was unmounted, and checks that it is the same.
func (d *Disk) Again() (*Disk, error) {
	now, err := Find("/", d.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &GoneError{d.Path, unwrapPath(err)}
	}
	if err != nil {
		return nil, err
	}
	return now, d.sameAs(now)
}

// sameAs returns a [*GoneError] if now, which has the name of d, is another disk.
func (d *Disk) sameAs(now *Disk) error {
	switch {
	case d.dev != 0 && d.dev != now.dev:
		return d.replaced("it had the device number %d:%d, this one has %d:%d",
			unix.Major(d.dev), unix.Minor(d.dev), unix.Major(now.dev), unix.Minor(now.dev))
	case d.Diskseq != 0 && d.Diskseq != now.Diskseq:
		return d.replaced("it had the number %d, this one has %d", d.Diskseq, now.Diskseq)
	case d.foundFile != (procs.FileID{}) && d.foundFile != now.foundFile:
		return d.replaced("the file of this loop device is another one")
	case d.Size != now.Size:
		return d.replaced("it had %d bytes, this one has %d", d.Size, now.Size)
	case d.SectorSize != now.SectorSize:
		return d.replaced("its sectors had %d bytes, now they have %d", d.SectorSize, now.SectorSize)
	case d.Serial != now.Serial:
		return d.replaced("it had the serial number %q, this one has %q", d.Serial, now.Serial)
	}
	return nil
}

func (d *Disk) replaced(format string, args ...any) error {
	return &GoneError{d.Path, fmt.Errorf("another disk has its name: "+format, args...)}
}

// sameFile refuses an open file if it is not the regular file that was found.
func (d *Disk) sameFile(info fs.FileInfo) error {
	switch {
	case !info.Mode().IsRegular() || d.found != nil && !os.SameFile(info, d.found):
		return d.refuse("it is not the file that was found, another one has its name: start over")
	case info.Size() != d.Size:
		return d.refuse("the file had %d bytes when it was found and has %d now: start over", d.Size, info.Size())
	}
	return nil
}
