package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// From sys/disk.h.
const (
	dkiocSynchronizeCache = 0x20006416 // _IO('d', 22)
	dkiocGetBlockSize     = 0x40046418 // _IOR('d', 24, uint32_t)
	dkiocGetBlockCount    = 0x40086419 // _IOR('d', 25, uint64_t)
	dkiocIsWritable       = 0x4004641d // _IOR('d', 29, uint32_t)
)

// Open opens the disk for writing, for itself alone, after unmounting its
// volumes, which macOS mounts as soon as a disk is plugged in. It refuses what
// Check refuses, what by now is used otherwise, and volumes that somebody has
// files open on (*RefusedError); a disk that is another by now is a *GoneError.
// Without the right to write the error is fs.ErrPermission, and nothing is
// unmounted.
func Open(d *Disk) (*Target, error) {
	if err := d.Check(Need{}); err != nil {
		return nil, err
	}
	if d.File {
		return openFile(d, os.O_RDWR)
	}
	if err := unix.Access(d.raw(), unix.W_OK); err != nil {
		return nil, d.openError(&fs.PathError{Op: "open", Path: d.raw(), Err: err})
	}
	m, err := d.again()
	if err != nil {
		return nil, err
	}
	if err := m.unmount(d); err != nil {
		return nil, err
	}
	var f *os.File
	// What looks at a disk after its volumes went lets go of it in a moment.
	err = patiently(unix.EBUSY, 2*time.Second, func() (err error) {
		f, err = openRaw(d.raw(), unix.O_RDWR|unix.O_EXLOCK)
		return err
	})
	if errors.Is(err, unix.ENOTSUP) {
		f, err = openRaw(d.raw(), unix.O_RDWR)
	}
	if err != nil {
		return nil, d.openError(err)
	}
	t := &Target{disk: *d, f: f, align: int64(d.SectorSize)}
	if err := t.settle(m); err != nil {
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
	f, err := openRaw(d.raw(), unix.O_RDONLY)
	if err != nil {
		return nil, d.openError(err)
	}
	t := &Target{disk: *d, f: f, align: int64(d.SectorSize)}
	if err := t.identify(); err != nil {
		f.Close()
		return nil, err
	}
	if err := d.sameMedium(); err != nil {
		f.Close()
		return nil, err
	}
	return t, nil
}

// raw is the character device of the disk: it has no cache.
func (d *Disk) raw() string { return "/dev/r" + d.Name }

// openRaw never waits for who has the disk.
func openRaw(path string, flags int) (*os.File, error) {
	fd, err := unix.Open(path, flags|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
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

// again looks at the disk once more, and refuses one that is another or was
// put to use since it was found.
func (d *Disk) again() (*mac, error) {
	m, err := lookHere()
	if err != nil {
		return nil, err
	}
	if m.whole[d.Name] == nil {
		return nil, &GoneError{d.Path, errors.New("diskutil lists it no more")}
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

// settle makes sure that the open disk is the one that was found, can be
// written, and has nothing mounted again. diskutil is not asked: it may want to
// open the disk.
func (t *Target) settle(m *mac) error {
	if err := t.identify(); err != nil {
		return err
	}
	writable, err := unix.IoctlGetInt(int(t.f.Fd()), dkiocIsWritable)
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
		return fmt.Errorf("reading what is mounted: %w", err)
	}
	for _, o := range mounts {
		if on := wholeOf(o.from); on == t.disk.Name || slices.Contains(m.containers(t.disk.Name), on) {
			return t.disk.refuse("%s was mounted again at %s: close what does that", o.from, o.at)
		}
	}
	return nil
}

// sameMedium compares the number of what has the disk's name with that of the
// disk found. Nobody else gets the name of a disk that is open.
func (d *Disk) sameMedium() error {
	media, err := macMedia(runHere)
	if err != nil {
		return err
	}
	now := *d
	now.Diskseq = media[d.Name].id
	return d.sameAs(&now)
}

// identify compares the size of the open disk with that of the one found.
func (t *Target) identify() error {
	d := &t.disk
	changed := func(format string, args ...any) error {
		return &GoneError{d.Path, fmt.Errorf("another disk has its name: "+format, args...)}
	}
	info, err := t.f.Stat()
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeCharDevice == 0 {
		return changed("it is no disk")
	}
	fd := int(t.f.Fd())
	// The kernel fills in four bytes of the eight, the lower ones.
	sector, err := unix.IoctlGetInt(fd, dkiocGetBlockSize)
	if err != nil {
		return fmt.Errorf("%s: asking for its sector size: %w", d.Path, err)
	}
	count, err := unix.IoctlGetInt(fd, dkiocGetBlockCount)
	if err != nil {
		return fmt.Errorf("%s: asking for its size: %w", d.Path, err)
	}
	if sector != d.SectorSize {
		return changed("it had sectors of %d bytes, this one of %d", d.SectorSize, sector)
	}
	if size := int64(count) * int64(sector); size != d.Size {
		return changed("it had %d bytes, this one has %d", d.Size, size)
	}
	return nil
}

// openFile opens a regular file as a disk of its size.
func openFile(d *Disk, flags int) (*Target, error) {
	f, err := os.OpenFile(d.Path, flags, 0)
	if err != nil {
		return nil, d.openError(err)
	}
	info, err := f.Stat()
	if err == nil {
		err = d.sameFile(info)
	}
	switch {
	case err != nil:
	case flags != os.O_RDONLY && unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil:
		err = d.refuse("another program has locked the file")
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	// What is written is not kept, so what is read comes from the disk.
	unix.FcntlInt(f.Fd(), unix.F_NOCACHE, 1)
	return &Target{disk: *d, f: f, cached: f, opened: info, align: 1}, nil
}

// openError says what an errno means for a disk.
func (d *Disk) openError(err error) error {
	switch {
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EAGAIN):
		return d.refuse("it is in use: another program has it open, or a volume on it is mounted: close or eject it first")
	case errors.Is(err, unix.EROFS):
		return d.refuse("it is read-only: look for a write-protect switch")
	case errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV), errors.Is(err, fs.ErrNotExist):
		return &GoneError{d.Path, bare(err)}
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: macOS keeps programs off disks: allow the terminal Full Disk Access in System Settings, Privacy & Security", err)
	}
	return err
}

// Alive is nil as long as the disk is there and has the size it was opened
// with.
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
			_, err = os.Stat(t.disk.Path)
		}
	}
	return err
}

// Reread does nothing: macOS looks at a disk again when it is closed.
func (t *Target) Reread() error { return nil }

// flush has the disk write what it holds. A disk that knows no such command
// holds nothing, and fsync knows nothing of character devices.
func (t *Target) flush() error {
	if t.disk.File {
		return t.f.Sync()
	}
	fd := int(t.f.Fd())
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

// patiently tries again for a moment.
func patiently(busy error, long time.Duration, try func() error) error {
	end := time.Now().Add(long)
	err := try()
	for errors.Is(err, busy) && time.Now().Before(end) {
		time.Sleep(50 * time.Millisecond)
		err = try()
	}
	return err
}

// errNoMedium is no error of macOS.
var errNoMedium = errors.New("no medium")

// forget does nothing: a file is opened such that nothing of it is cached.
func forget(*os.File) {}
