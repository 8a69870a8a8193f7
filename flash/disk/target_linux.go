package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"imgtool/flash/disk/procs"
)

// Open opens a disk for writing and for exclusive use. The error is a [*RefusedError] if
// [Disk.Check] refuses the disk, if it was mounted, claimed or write-protected since it was
// found, or if another disk has its name now; a [*GoneError] if it was removed; and
// [fs.ErrPermission] without the rights to write.
func Open(d *Disk) (*Target, error) {
	if err := d.Check(Need{}); err != nil {
		return nil, err
	}
	if err := d.recheck(); err != nil {
		return nil, err
	}
	if d.File {
		return openFile(d, os.O_RDWR)
	}
	var f *os.File
	err := retry(unix.EBUSY, 300*time.Millisecond, func() (err error) {
		f, err = os.OpenFile(d.Path, os.O_RDWR|unix.O_EXCL|unix.O_DIRECT|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, d.openError(err)
	}
	t := &Target{disk: *d, f: f, align: int64(d.SectorSize)}
	if err := t.settle(); err != nil {
		f.Close()
		return nil, err
	}
	return t, nil
}

// OpenRead opens a disk for reading past the page cache. The disk may be in use.
func OpenRead(d *Disk) (*Target, error) {
	if d.File {
		return openFile(d, os.O_RDONLY)
	}
	f, err := os.OpenFile(d.Path, os.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, d.openError(err)
	}
	t := &Target{disk: *d, f: f, align: int64(d.SectorSize)}
	if err := t.identify(); err != nil {
		f.Close()
		return nil, err
	}
	// Drop the cache. It fails without root's rights, which O_DIRECT does not need.
	unix.IoctlSetInt(int(f.Fd()), unix.BLKFLSBUF, 0)
	return t, nil
}

// recheck refuses a disk or file that is in use now, for longer than a moment.
func (d *Disk) recheck() error {
	end := time.Now().Add(300 * time.Millisecond)
	for {
		now, err := Find("/", d.Path)
		if errors.Is(err, fs.ErrNotExist) {
			return &GoneError{d.Path, unwrapPath(err)}
		}
		if err == nil {
			err = now.Check(Need{})
		}
		if err == nil || time.Now().After(end) {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// settle checks that the open disk is the disk that was found and is writable, and locks it
// so that udev does not open it.
func (t *Target) settle() error {
	if err := t.identify(); err != nil {
		if gone, ok := errors.AsType[*GoneError](err); ok {
			return t.disk.refuse("it is not the disk that was found (%v): start over", gone.Err)
		}
		return err
	}
	fd := int(t.f.Fd())
	if procs.LockedInPart(t.f) {
		return t.disk.refuse("another program has locked a part of it, as a virtual machine does with its disk: end that program first")
	}
	ro, err := unix.IoctlGetUint32(fd, unix.BLKROGET)
	if err != nil {
		return fmt.Errorf("%s: asking whether it is read-only: %w", t.disk.Path, err)
	}
	if ro != 0 {
		t.disk.ReadOnly = true
		return t.disk.Check(Need{})
	}
	// udev does not probe a locked disk: https://systemd.io/BLOCK_DEVICE_LOCKING
	err = retry(unix.EWOULDBLOCK, 2*time.Second, func() error { return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) })
	if err != nil {
		return t.disk.refuse("another program has locked it (%v)", err)
	}
	return nil
}

// identify checks that the open disk is the disk that was found: after a disk is unplugged,
// the next one may get its name, such as /dev/sdb.
func (t *Target) identify() error {
	d := &t.disk
	info, err := t.f.Stat()
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeDevice == 0 || info.Mode()&fs.ModeCharDevice != 0 {
		return d.replaced("it is not a block device")
	}
	fd := int(t.f.Fd())
	size, err := ioctl64(fd, unix.BLKGETSIZE64)
	if err != nil {
		return fmt.Errorf("%s: asking for its size: %w", d.Path, err)
	}
	sector, err := unix.IoctlGetUint32(fd, unix.BLKSSZGET)
	if err != nil {
		return fmt.Errorf("%s: asking for its sector size: %w", d.Path, err)
	}
	now := *d
	now.Size, now.SectorSize = int64(size), int(sector)
	// Linux has this number since 5.15.
	if seq, err := ioctl64(fd, unix.BLKGETDISKSEQ); err == nil {
		now.Diskseq = seq
	}
	if loop, ok := loopStatus(fd); ok {
		now.foundFile = loop.file
	}
	return d.sameAs(&now)
}

// openFile opens a regular file as a disk.
func openFile(d *Disk, flags int) (*Target, error) {
	cached, err := os.OpenFile(d.Path, flags|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, d.openError(err)
	}
	t := &Target{disk: *d, f: cached, cached: cached, align: 1}
	info, err := cached.Stat()
	if err == nil {
		t.opened = info
		err = d.sameFile(info)
	}
	switch {
	case err != nil:
	case flags != os.O_RDONLY && procs.LockedInPart(cached):
		err = d.refuse("another program has locked a part of it, as a virtual machine does with its disk: end that program first")
	case flags != os.O_RDONLY && unix.Flock(int(cached.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil:
		err = d.refuse("another program has locked the file")
	}
	if err != nil {
		cached.Close()
		return nil, err
	}
	// Some file systems do not support O_DIRECT.
	if f, err := os.OpenFile(d.Path, flags|unix.O_DIRECT|unix.O_CLOEXEC, 0); err == nil {
		if other, err := f.Stat(); err == nil && os.SameFile(info, other) {
			t.f, t.align = f, memAlign
		} else {
			f.Close()
		}
	}
	dropCache(cached)
	return t, nil
}

// openError returns the meaning of an error of opening a disk.
func (d *Disk) openError(err error) error {
	switch {
	case errors.Is(err, unix.EBUSY):
		return d.refuse("it is in use: a file system on it is mounted, or another program has claimed it: unmount or release it first")
	case errors.Is(err, unix.EROFS):
		return d.refuse("it is read-only: look for a write-protect switch")
	case errors.Is(err, unix.ETXTBSY):
		return d.refuse("it is in use as a program or as swap: release it first")
	case errors.Is(err, unix.ENOMEDIUM):
		return d.refuse("it contains no medium: insert one")
	case errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV), errors.Is(err, fs.ErrNotExist):
		return &GoneError{d.Path, unwrapPath(err)}
	}
	return err
}

// present checks that the open disk is the disk that was found, and can be opened: a disk
// that is unplugged first loses its size, then its name. One without its medium keeps both.
func (t *Target) present() error {
	if err := t.identify(); err != nil {
		return err
	}
	f, err := os.OpenFile(t.disk.Path, os.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

// Reread makes the kernel read the new partition table. A disk that does not support
// partitions, or that has mounted partitions, is left as it is.
func (t *Target) Reread() error {
	if t.disk.File {
		return nil
	}
	err := unix.IoctlSetInt(int(t.f.Fd()), unix.BLKRRPART, 0)
	switch err {
	case nil, unix.EBUSY, unix.EINVAL, unix.ENOTTY, unix.EACCES, unix.EPERM:
		return nil
	}
	return fmt.Errorf("%s: rereading its partition table: %w", t.disk.Path, err)
}

func (t *Target) flush() error { return t.f.Sync() }

var errNoMedium error = unix.ENOMEDIUM

// dropCache removes the content of a flushed file from the page cache.
func dropCache(f *os.File) { unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) }

func ioctl64(fd int, request uint) (uint64, error) {
	var v uint64
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(unsafe.Pointer(&v)))
	if errno != 0 {
		return 0, errno
	}
	return v, nil
}
