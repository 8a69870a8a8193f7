package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Open opens the disk for writing, for itself alone. It refuses what Check
// refuses and what the kernel knows by now: a disk that was mounted, claimed or
// write-protected since it was found (*RefusedError), and one that is another
// by now (*GoneError). Without the right to write the error is fs.ErrPermission.
func Open(d *Disk) (*Target, error) {
	if err := d.Check(Need{}); err != nil {
		return nil, err
	}
	if err := d.lookAgain(); err != nil {
		return nil, err
	}
	if d.File {
		return openFile(d, os.O_RDWR)
	}
	var f *os.File
	err := patiently(unix.EBUSY, 300*time.Millisecond, func() (err error) {
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

// OpenRead opens a disk, mounted or not, to read what is on it and not what is
// cached of it.
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
	// Only root may, and O_DIRECT does without.
	unix.IoctlSetInt(int(f.Fd()), unix.BLKFLSBUF, 0)
	return t, nil
}

// lookAgain refuses a disk or file that is used by now, for longer than a moment.
func (d *Disk) lookAgain() error {
	end := time.Now().Add(300 * time.Millisecond)
	for {
		now, err := Find("/", d.Path)
		if errors.Is(err, fs.ErrNotExist) {
			return &GoneError{d.Path, bare(err)}
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

// settle makes sure that the open disk is the one that was found, can be
// written, and is left alone by udev.
func (t *Target) settle() error {
	if err := t.identify(); err != nil {
		if gone, ok := errors.AsType[*GoneError](err); ok {
			return t.disk.refuse("it is not the disk that was found (%v): start over", gone.Err)
		}
		return err
	}
	fd := int(t.f.Fd())
	if lockedInPart(t.f) {
		return t.disk.refuse("another program has locked a part of it, as a virtual machine does with its disk: end that first")
	}
	ro, err := unix.IoctlGetUint32(fd, unix.BLKROGET)
	if err != nil {
		return fmt.Errorf("%s: asking whether it is read-only: %w", t.disk.Path, err)
	}
	if ro != 0 {
		t.disk.ReadOnly = true
		return t.disk.Check(Need{})
	}
	// systemd.io/BLOCK_DEVICE_LOCKING: udev probes no disk that is locked.
	err = patiently(unix.EWOULDBLOCK, 2*time.Second, func() error { return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) })
	if err != nil {
		return t.disk.refuse("another program has locked it (%v)", err)
	}
	return nil
}

// identify compares the open disk with the one that was found: a name such as
// /dev/sdb is given to the next disk as soon as the one is pulled.
func (t *Target) identify() error {
	d := &t.disk
	changed := func(format string, args ...any) error {
		return &GoneError{d.Path, fmt.Errorf("another disk has its name: "+format, args...)}
	}
	info, err := t.f.Stat()
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeDevice == 0 || info.Mode()&fs.ModeCharDevice != 0 {
		return changed("it is no disk")
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
	// Kernels before 5.15 have no such number.
	seq, err := ioctl64(fd, unix.BLKGETDISKSEQ)
	if err == nil && d.Diskseq != 0 && seq != d.Diskseq {
		return changed("it was number %d of this machine, this is number %d", d.Diskseq, seq)
	}
	if loop, ok := askLoop(fd); ok && d.foundFile != (fileID{}) && loop.file != d.foundFile {
		return changed("its file was another one")
	}
	if int64(size) != d.Size {
		return changed("it had %d bytes, this one has %d", d.Size, size)
	}
	if int(sector) != d.SectorSize {
		return changed("it had sectors of %d bytes, this one of %d", d.SectorSize, sector)
	}
	return nil
}

// openFile opens a regular file as a disk of its size.
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
	case flags != os.O_RDONLY && lockedInPart(cached):
		err = d.refuse("another program has locked a part of it, as a virtual machine does with its disk: end that first")
	case flags != os.O_RDONLY && unix.Flock(int(cached.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil:
		err = d.refuse("another program has locked the file")
	}
	if err != nil {
		cached.Close()
		return nil, err
	}
	// Not every file system has it.
	if f, err := os.OpenFile(d.Path, flags|unix.O_DIRECT|unix.O_CLOEXEC, 0); err == nil {
		if other, err := f.Stat(); err == nil && os.SameFile(info, other) {
			t.f, t.align = f, memAlign
		} else {
			f.Close()
		}
	}
	forget(cached)
	return t, nil
}

// openError says what an errno means for a disk.
func (d *Disk) openError(err error) error {
	switch {
	case errors.Is(err, unix.EBUSY):
		return d.refuse("it is in use: a file system on it is mounted, or something holds it: unmount or release it first")
	case errors.Is(err, unix.EROFS):
		return d.refuse("it is read-only: look for a write-protect switch")
	case errors.Is(err, unix.ETXTBSY):
		return d.refuse("it is in use: a program or swap: release it first")
	case errors.Is(err, unix.ENOMEDIUM):
		return d.refuse("there is no medium in it: put one in")
	case errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV), errors.Is(err, fs.ErrNotExist):
		return &GoneError{d.Path, bare(err)}
	}
	return err
}

// Alive is nil as long as the disk is there and has the size it was opened
// with. A pulled disk first loses its capacity, then its name; one whose medium
// was taken out keeps both, and opens no more.
// A regular file is there as long as it has its name.
func (t *Target) Alive() error {
	if t.disk.File {
		return t.Named()
	}
	var err error
	for i := 0; i < 2 && err == nil; i++ {
		if i > 0 {
			// The write fails before the kernel has taken the disk away.
			time.Sleep(300 * time.Millisecond)
		}
		err = t.identify()
		if err == nil {
			var again *os.File
			if again, err = os.OpenFile(t.disk.Path, os.O_RDONLY|unix.O_CLOEXEC, 0); err == nil {
				again.Close()
			}
		}
	}
	return err
}

// Reread makes the kernel look at the partitions that were written. A disk
// that has no partitions, or whose new ones somebody has mounted already, is
// left as it is.
func (t *Target) Reread() error {
	if t.disk.File {
		return nil
	}
	err := unix.IoctlSetInt(int(t.f.Fd()), unix.BLKRRPART, 0)
	switch err {
	case nil, unix.EBUSY, unix.EINVAL, unix.ENOTTY, unix.EACCES, unix.EPERM:
		return nil
	}
	return fmt.Errorf("%s: reading its partitions: %w", t.disk.Path, err)
}

// patiently tries again for a moment: udev and the like look at a new disk
// and let go of it.
func patiently(busy error, long time.Duration, try func() error) error {
	end := time.Now().Add(long)
	err := try()
	for errors.Is(err, busy) && time.Now().Before(end) {
		time.Sleep(20 * time.Millisecond)
		err = try()
	}
	return err
}

func (t *Target) flush() error { return t.f.Sync() }

var errNoMedium error = unix.ENOMEDIUM

// forget drops what the page cache holds of a flushed file.
func forget(f *os.File) { unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) }

func ioctl64(fd int, request uint) (uint64, error) {
	var v uint64
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(unsafe.Pointer(&v)))
	if errno != 0 {
		return 0, errno
	}
	return v, nil
}
