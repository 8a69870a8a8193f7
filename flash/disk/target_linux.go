package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"imgtool/flash/disk/direct"
	"imgtool/flash/disk/procs"
)

// Open opens a disk for writing and for exclusive use. The error is a [*RefusedError] if
// [Disk.Check] refuses the disk, if it was mounted, claimed or write-protected since it was
// found, or if another disk has its name now; a [*GoneError] if it was removed; and a
// [*PermissionError] without the rights to write. Users without these open it through UDisks2,
// which may ask for a password.
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
		f, err = d.open(os.O_RDWR|unix.O_EXCL|unix.O_DIRECT, true)
		return err
	})
	if err != nil {
		return nil, d.openError(err)
	}
	return d.target(f, (*Target).settle)
}

// OpenRead opens a disk for reading past the page cache. The disk may be in use. Like [Open],
// it may ask for a password.
func OpenRead(d *Disk) (*Target, error) { return openRead(d, true) }

// Peek is like [OpenRead], but asks for no password.
func Peek(d *Disk) (*Target, error) { return openRead(d, false) }

func openRead(d *Disk, ask bool) (*Target, error) {
	if d.File {
		return openFile(d, os.O_RDONLY)
	}
	f, err := d.open(os.O_RDONLY|unix.O_DIRECT, ask)
	if err != nil {
		return nil, d.openError(err)
	}
	t, err := d.target(f, (*Target).identify)
	if err == nil {
		// Drop the cache. It fails without root's rights, which O_DIRECT does not need.
		unix.IoctlSetInt(int(f.Fd()), unix.BLKFLSBUF, 0)
	}
	return t, err
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
	fd := int(t.f.File.Fd())
	if procs.LockedInPart(t.f.File) {
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
	info, err := t.f.File.Stat()
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeDevice == 0 || info.Mode()&fs.ModeCharDevice != 0 {
		return d.replaced("it is not a block device")
	}
	fd := int(t.f.File.Fd())
	size, err := ioctl64(fd, unix.BLKGETSIZE64)
	if err != nil {
		return fmt.Errorf("%s: asking for its size: %w", d.Path, err)
	}
	sector, err := unix.IoctlGetUint32(fd, unix.BLKSSZGET)
	if err != nil {
		return fmt.Errorf("%s: asking for its sector size: %w", d.Path, err)
	}
	now := *d
	now.Size, now.SectorSize, now.dev = int64(size), int(sector), uint64(info.Sys().(*syscall.Stat_t).Rdev)
	// Linux has this number since 5.15.
	if seq, err := ioctl64(fd, unix.BLKGETDISKSEQ); err == nil {
		now.Diskseq = seq
	}
	if loop := loopStatus(fd); loop != nil {
		now.foundFile = loop.file
	}
	return d.sameAs(&now)
}

func lockFile(d *Disk, f *os.File) error {
	switch {
	case procs.LockedInPart(f):
		return d.refuse("another program has locked a part of it, as a virtual machine does with its disk: end that program first")
	case unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil:
		return d.refuse("another program has locked the file")
	}
	return nil
}

// uncached opens a regular file with O_DIRECT, which some file systems do not support.
func (t *Target) uncached(info fs.FileInfo, flags int) {
	if f, err := os.OpenFile(t.disk.Path, flags|unix.O_DIRECT, 0); err == nil {
		if other, err := f.Stat(); err == nil && os.SameFile(info, other) {
			t.f.File, t.f.Align = f, direct.MemAlign
		} else {
			f.Close()
		}
	}
	dropCache(t.f.Cached)
}

// present checks that the open disk is the disk that was found, and can be opened: a disk
// that is unplugged first loses its size, then its name. A disk without its medium keeps both.
func (t *Target) present() error {
	if err := t.identify(); err != nil {
		return err
	}
	f, err := t.disk.open(os.O_RDONLY, false)
	if errors.Is(err, fs.ErrPermission) { // without the right to open it twice
		_, err = os.Stat(t.disk.Path)
		return err
	}
	if err != nil {
		return err
	}
	return f.Close()
}

// Reread makes the kernel read the new partition table, which takes root's rights. A disk that
// does not support partitions, or that has mounted partitions, is left as it is.
func (t *Target) Reread() error {
	if t.disk.File {
		return nil
	}
	err := unix.IoctlSetInt(int(t.f.File.Fd()), unix.BLKRRPART, 0)
	switch err {
	case nil, unix.EBUSY, unix.EINVAL, unix.ENOTTY:
		return nil
	}
	return fmt.Errorf("%s: rereading its partition table: %w", t.disk.Path, err)
}

// CloseReread makes the kernel read the new partition table and closes the disk. Without root's
// rights, udev or UDisks2 does it after the disk is closed. The error notRead is why the kernel
// may still have the old partition table.
func (t *Target) CloseReread() (notRead, err error) {
	notRead = t.Reread()
	err = t.Close()
	if errors.Is(notRead, fs.ErrPermission) {
		if notRead = t.disk.rescan(); notRead != nil {
			notRead = fmt.Errorf("%s: rereading its partition table: %w", t.disk.Path, notRead)
		}
	}
	return notRead, err
}

func (t *Target) flush() error { return t.f.File.Sync() }

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
