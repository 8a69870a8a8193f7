package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// ioctls of <sys/disk.h>.
const (
	dkiocSynchronizeCache = 0x20006416 // _IO('d', 22)
	dkiocGetBlockSize     = 0x40046418 // _IOR('d', 24, uint32_t)
	dkiocGetBlockCount    = 0x40086419 // _IOR('d', 25, uint64_t)
	dkiocIsWritable       = 0x4004641d // _IOR('d', 29, uint32_t)
)

// Open opens a disk for writing and for exclusive use. It first unmounts the disk's volumes,
// which macOS mounts when a disk is connected. The error is a [*RefusedError] if [Disk.Check]
// refuses the disk, if it is in use now, or if a volume has open files; a [*GoneError] if it
// was removed or replaced; and a [*PermissionError] without the rights to write. If it takes
// a password to open the disk, it is asked for after the volumes are unmounted.
func Open(d *Disk) (*Target, error) {
	if err := d.Check(Need{}); err != nil {
		return nil, err
	}
	if d.File {
		return openFile(d, os.O_RDWR)
	}
	if err := d.Permit(context.Background(), true, true); err != nil {
		return nil, err
	}
	m, err := d.recheck()
	if err != nil {
		return nil, err
	}
	if err := m.unmount(d); err != nil {
		return nil, err
	}
	var f *os.File
	// After the volumes are unmounted, system services open the disk for a moment.
	err = retry(unix.EBUSY, 2*time.Second, func() (err error) {
		f, err = d.open(unix.O_RDWR | unix.O_EXLOCK)
		return err
	})
	if errors.Is(err, unix.ENOTSUP) {
		f, err = d.open(unix.O_RDWR)
	}
	if err != nil {
		return nil, d.openError(err)
	}
	return d.target(f, func(t *Target) error { return t.settle(m) })
}

// OpenRead opens a disk for reading past the cache. The disk may be in use.
func OpenRead(d *Disk) (*Target, error) {
	if d.File {
		return openFile(d, os.O_RDONLY)
	}
	f, err := d.open(unix.O_RDONLY)
	if err != nil {
		return nil, d.openError(err)
	}
	return d.target(f, func(t *Target) error {
		if err := t.identify(); err != nil {
			return err
		}
		return d.sameMedium()
	})
}

// raw returns the character device of the disk, which is not cached.
func (d *Disk) raw() string { return "/dev/r" + d.Name }

// openRaw opens a device without waiting for another program to close it.
func openRaw(path string, flags int) (*os.File, error) {
	fd, err := -1, error(unix.EINTR)
	for err == unix.EINTR {
		fd, err = unix.Open(path, flags|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		unix.Close(fd)
		return nil, err
	}
	unix.FcntlInt(uintptr(fd), unix.F_NOCACHE, 1)
	return os.NewFile(uintptr(fd), path), nil
}

// recheck refuses a disk that was replaced or is in use since it was found.
func (d *Disk) recheck() (*mac, error) {
	m, err := lookHere()
	if err != nil {
		return nil, err
	}
	if m.whole[d.Name] == nil {
		return nil, &GoneError{d.Path, errors.New("diskutil no longer lists it")}
	}
	now, err := m.find(d.Path, d.Name)
	if err == nil {
		err = d.sameAs(now)
	}
	if err == nil {
		err = now.Check(Need{})
	}
	return m, err
}

// settle checks that the open disk is the disk that was found, is writable, and has no
// volumes mounted again. It does not use diskutil, which may open the disk itself.
func (t *Target) settle(m *mac) error {
	if err := t.identify(); err != nil {
		return err
	}
	writable, err := unix.IoctlGetInt(int(t.f.File.Fd()), dkiocIsWritable)
	if err != nil {
		return fmt.Errorf("%s: asking whether it is read-only: %w", t.disk.Path, err)
	}
	if writable == 0 {
		t.disk.ReadOnly = true
		return t.disk.Check(Need{})
	}
	if err := t.disk.sameMedium(); err != nil {
		return err
	}
	mounts, err := kernelMounts()
	if err != nil {
		return fmt.Errorf("listing mounts: %w", err)
	}
	for _, o := range mounts {
		if on := wholeOf(o.from); on == t.disk.Name || slices.Contains(m.containers(t.disk.Name), on) {
			return t.disk.refuse("%s was mounted again at %s: end the program that mounts it", o.from, o.at)
		}
	}
	return nil
}

// sameMedium checks that the disk has the registry number it was found with. The name of an
// open disk is not given to another one.
func (d *Disk) sameMedium() error {
	media, err := macMedia(runHere)
	if err != nil {
		return err
	}
	now := *d
	now.Diskseq = media[d.Name].id
	return d.sameAs(&now)
}

// identify checks that the open disk has the size it was found with.
func (t *Target) identify() error {
	d := &t.disk
	info, err := t.f.File.Stat()
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeCharDevice == 0 {
		return d.replaced("it is not a character device")
	}
	fd := int(t.f.File.Fd())
	// The kernel sets only the lower four of the eight bytes.
	sector, err := unix.IoctlGetInt(fd, dkiocGetBlockSize)
	if err != nil {
		return fmt.Errorf("%s: asking for its sector size: %w", d.Path, err)
	}
	count, err := unix.IoctlGetInt(fd, dkiocGetBlockCount)
	if err != nil {
		return fmt.Errorf("%s: asking for its size: %w", d.Path, err)
	}
	now := *d
	now.Size, now.SectorSize = int64(count)*int64(sector), sector
	return d.sameAs(&now)
}

func lockFile(d *Disk, f *os.File) error {
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return d.refuse("another program has locked the file")
	}
	return nil
}

// uncached disables the cache of a regular file, so that data read back come from the disk.
func (t *Target) uncached(fs.FileInfo, int) { unix.FcntlInt(t.f.File.Fd(), unix.F_NOCACHE, 1) }

// present checks that the open disk has the size it was found with, and still has its name.
func (t *Target) present() error {
	if err := t.identify(); err != nil {
		return err
	}
	_, err := os.Stat(t.disk.Path)
	return err
}

// CloseReread closes the disk. macOS reads the partition table then.
func (t *Target) CloseReread() (notRead, err error) { return nil, t.Close() }

// flush flushes the disk's cache. A disk without the command has no cache, and fsync does
// not support character devices.
func (t *Target) flush() error {
	if t.disk.File {
		return t.f.File.Sync()
	}
	fd := int(t.f.File.Fd())
	switch err := unix.IoctlSetInt(fd, dkiocSynchronizeCache, 0); err {
	case nil, unix.ENOTTY, unix.ENOTSUP:
	default:
		return err
	}
	switch err := unix.Fsync(fd); err {
	case nil, unix.ENOTTY, unix.ENOTSUP, unix.EINVAL:
		return nil
	default:
		return err
	}
}

// errNoMedium is an error that macOS does not have.
var errNoMedium = errors.New("no medium")

// dropCache does nothing: files are opened with F_NOCACHE.
func dropCache(*os.File) {}
