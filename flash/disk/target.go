package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"syscall"
	"time"

	"imgtool/flash/disk/direct"
)

// Target is an open disk. Where the system supports it, reads and writes bypass the page
// cache, so that data read back comes from the disk.
type Target struct {
	disk Disk
	f    *direct.File

	opened fs.FileInfo // of a regular file
	dirty  int64       // number of bytes written since the last flush
}

// flushEvery is the number of bytes between flushes, so that errors are found early and the
// last flush does not take minutes.
const flushEvery = 64 << 20

// target returns the open disk f, or closes it if check fails.
func (d *Disk) target(f *os.File, check func(*Target) error) (*Target, error) {
	t := &Target{disk: *d, f: &direct.File{File: f, Size: d.Size, Align: int64(d.SectorSize)}}
	if err := check(t); err != nil {
		f.Close()
		return nil, err
	}
	return t, nil
}

func openFile(d *Disk, flags int) (*Target, error) {
	// O_NONBLOCK: if a FIFO has the name now, do not wait for a writer.
	f, err := os.OpenFile(d.Path, flags|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, d.openError(err)
	}
	info, err := f.Stat()
	if err == nil {
		err = d.sameFile(info)
	}
	if err == nil && flags != os.O_RDONLY {
		err = lockFile(d, f)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	t := &Target{disk: *d, f: &direct.File{File: f, Size: d.Size, Align: 1, Cached: f}, opened: info}
	t.uncached(info, flags)
	return t, nil
}

func (d *Disk) openError(err error) error {
	switch {
	case errors.Is(err, syscall.EBUSY), errors.Is(err, syscall.EAGAIN):
		return d.refuse("it is in use: a file system on it is mounted, or another program has claimed it: unmount or release it first")
	case errors.Is(err, syscall.EROFS):
		return d.refuse("it is read-only: look for a write-protect switch")
	case errors.Is(err, syscall.ETXTBSY):
		return d.refuse("it is in use as a program or as swap: release it first")
	case errors.Is(err, errNoMedium):
		return d.refuse("it contains no medium: insert one")
	case runtime.GOOS == "darwin" && errors.Is(err, syscall.EPERM):
		return fmt.Errorf("%w: macOS does not let programs open disks: allow the terminal Full Disk Access in System Settings, Privacy & Security", err)
	}
	if Lost(d.Path, err) != nil {
		return &GoneError{d.Path, unwrapPath(err)}
	}
	return err
}

// Path returns the path at which the disk was found.
func (t *Target) Path() string { return t.disk.Path }

// Size returns the size of the disk in bytes.
func (t *Target) Size() int64 { return t.disk.Size }

// ReadAt implements [io.ReaderAt]. Neither p nor off need to be aligned.
func (t *Target) ReadAt(p []byte, off int64) (int, error) {
	n, err := t.f.ReadAt(p, off)
	return n, unwrapPath(err)
}

// WriteAt implements [io.WriterAt]. On a disk, off must be a multiple of the sector size; the
// rest of a last partial sector keeps its content, or becomes zeros if it cannot be read. A
// write beyond the end of the disk fails with ENOSPC and writes nothing.
func (t *Target) WriteAt(p []byte, off int64) (int, error) {
	n, err := t.f.WriteAt(p, off)
	if err != nil {
		return n, unwrapPath(err)
	}
	if t.dirty += int64(n); t.dirty >= flushEvery {
		err = t.Sync()
	}
	return n, err
}

// Sync flushes the disk's cache. An error is final: the kernel reports it once, and a second
// call would succeed.
func (t *Target) Sync() error {
	t.dirty = 0
	if err := t.flush(); err != nil {
		return unwrapPath(err)
	}
	if t.f.Cached != nil {
		dropCache(t.f.Cached)
	}
	return nil
}

// Named returns a [*MovedError] if a regular file no longer has the name at which it was
// opened. It returns nil for disks.
func (t *Target) Named() error {
	if !t.disk.File || t.opened == nil {
		return nil
	}
	if now, err := os.Stat(t.disk.Path); err != nil || !os.SameFile(now, t.opened) {
		return &MovedError{t.disk.Path}
	}
	return nil
}

// Alive returns nil while the disk is present and has the same size, and a regular file
// still has its name.
func (t *Target) Alive() error {
	if t.disk.File {
		return t.Named()
	}
	if err := t.present(); err != nil {
		return err
	}
	// A write to an unplugged disk fails before the kernel removes the disk.
	time.Sleep(300 * time.Millisecond)
	return t.present()
}

// Close closes the disk. Writes that were not flushed may be lost.
func (t *Target) Close() error {
	return t.f.Close()
}

// unwrapPath returns the cause of a path error, for errors that name the disk already.
func unwrapPath(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	return err
}

// retry calls try again while it fails with the error busy, for at most limit: programs
// such as udev open a new disk for a moment.
func retry(busy error, limit time.Duration, try func() error) error {
	end := time.Now().Add(limit)
	err := try()
	for errors.Is(err, busy) && time.Now().Before(end) {
		time.Sleep(20 * time.Millisecond)
		err = try()
	}
	return err
}
