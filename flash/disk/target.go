package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// Target is an open disk. Where the system supports it, reads and writes bypass the page
// cache, so that data read back comes from the disk.
type Target struct {
	disk Disk
	f    *os.File

	// cached is a second descriptor of a regular file, for the end of the file, which
	// O_DIRECT does not support; without O_DIRECT it is f.
	cached *os.File

	opened fs.FileInfo // of a regular file

	align int64 // of offsets and lengths for f, in bytes; 1 without O_DIRECT
	dirty int64 // number of bytes written since the last flush

	mu     sync.Mutex
	bounce []byte
}

const (
	bounceSize = 1 << 20
	memAlign   = 4096 // alignment of buffers for O_DIRECT; no disk requires more

	// flushEvery is the number of bytes between flushes, so that errors are found early
	// and the last flush does not take minutes.
	flushEvery = 64 << 20
)

// target returns the open disk f, or closes it if check fails.
func (d *Disk) target(f *os.File, check func(*Target) error) (*Target, error) {
	t := &Target{disk: *d, f: f, align: int64(d.SectorSize)}
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
	t := &Target{disk: *d, f: f, cached: f, opened: info, align: 1}
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
	if off < 0 {
		return 0, fmt.Errorf("reading at %d: negative offset", off)
	}
	if off >= t.disk.Size {
		return 0, io.EOF
	}
	var short error
	if int64(len(p)) > t.disk.Size-off {
		p, short = p[:t.disk.Size-off], io.EOF
	}
	// Only a regular file may have an end that is not aligned.
	direct := p[:max(0, min(int64(len(p)), t.disk.Size/t.align*t.align-off))]
	n, err := t.readDirect(direct, off)
	if err == nil && n < len(p) {
		var k int
		k, err = t.cached.ReadAt(p[n:], off+int64(n))
		n += k
	}
	if err != nil {
		return n, unwrapPath(err)
	}
	return n, short
}

func (t *Target) readDirect(p []byte, off int64) (int, error) {
	if t.aligned(p, off) {
		return t.f.ReadAt(p, off)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	buf := t.buffer()
	n := 0
	for n < len(p) {
		start := (off + int64(n)) / t.align * t.align
		end := (off + int64(len(p)) + t.align - 1) / t.align * t.align
		part := buf[:min(int64(len(buf)), end-start)]
		k, err := t.f.ReadAt(part, start)
		n += copy(p[n:], part[min(int64(k), off+int64(n)-start):k])
		if k < len(part) {
			return n, err
		}
	}
	return n, nil
}

// WriteAt implements [io.WriterAt]. On a disk, off must be a multiple of the sector size; the
// rest of a last partial sector keeps its content, or becomes zeros if it cannot be read. A
// write beyond the end of the disk fails with ENOSPC and writes nothing.
func (t *Target) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || int64(len(p)) > t.disk.Size-off {
		return 0, syscall.ENOSPC
	}
	if off%t.align != 0 || int64(len(p))%t.align != 0 {
		if t.cached == nil {
			return t.writePart(p, off)
		}
		n, err := t.cached.WriteAt(p, off)
		return n, unwrapPath(err)
	}
	n, err := t.writeDirect(p, off)
	if err != nil {
		return n, unwrapPath(err)
	}
	if t.dirty += int64(n); t.dirty >= flushEvery {
		err = t.Sync()
	}
	return n, err
}

// writePart writes whole sectors and a part of another one.
func (t *Target) writePart(p []byte, off int64) (int, error) {
	if off%t.align != 0 {
		return 0, fmt.Errorf("writing %d bytes at %d: the offset is not a multiple of %d", len(p), off, t.align)
	}
	whole := int64(len(p)) / t.align * t.align
	if whole > 0 {
		if n, err := t.WriteAt(p[:whole], off); err != nil {
			return n, err
		}
	}
	last := make([]byte, t.align)
	if n, err := t.ReadAt(last, off+whole); err != nil {
		clear(last[n:])
	}
	copy(last, p[whole:])
	if _, err := t.WriteAt(last, off+whole); err != nil {
		return int(whole), err
	}
	return len(p), nil
}

func (t *Target) writeDirect(p []byte, off int64) (int, error) {
	if t.aligned(p, off) {
		return t.f.WriteAt(p, off)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	buf := t.buffer()
	n := 0
	for n < len(p) {
		part := buf[:copy(buf, p[n:])]
		k, err := t.f.WriteAt(part, off+int64(n))
		n += k
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// Sync flushes the disk's cache. An error is final: the kernel reports it once, and a second
// call would succeed.
func (t *Target) Sync() error {
	t.dirty = 0
	if err := t.flush(); err != nil {
		return unwrapPath(err)
	}
	if t.cached != nil {
		dropCache(t.cached)
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
	err := t.f.Close()
	if t.cached != nil && t.cached != t.f {
		err = errors.Join(err, t.cached.Close())
	}
	return err
}

func (t *Target) aligned(p []byte, off int64) bool {
	if t.align == 1 || len(p) == 0 {
		return true
	}
	return off%t.align == 0 && int64(len(p))%t.align == 0 && uintptr(unsafe.Pointer(&p[0]))%memAlign == 0
}

func (t *Target) buffer() []byte {
	if t.bounce == nil {
		b := make([]byte, bounceSize+memAlign)
		skip := -uintptr(unsafe.Pointer(&b[0])) % memAlign
		t.bounce = b[skip : skip+bounceSize]
	}
	return t.bounce
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
