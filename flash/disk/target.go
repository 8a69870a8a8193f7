package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"syscall"
	"unsafe"
)

// Target is an open disk. Where the system can, it bypasses the page cache in
// both directions, so what is read comes from the disk.
type Target struct {
	disk Disk
	f    *os.File

	// cached is a second descriptor of a regular file, for ends that O_DIRECT
	// does not take; without O_DIRECT it is f.
	cached *os.File

	opened fs.FileInfo // of a regular file

	align int64 // of offsets and lengths for f, 1 without O_DIRECT
	dirty int64 // bytes written since the last flush

	mu     sync.Mutex
	bounce []byte
}

const (
	bounceSize = 1 << 20
	memAlign   = 4096 // no disk asks for more

	// What is written is flushed this often: an error is found soon, and the last
	// flush does not take minutes.
	flushEvery = 64 << 20
)

// Path is the path the disk was found at.
func (t *Target) Path() string { return t.disk.Path }

// Size is the size of the disk in bytes.
func (t *Target) Size() int64 { return t.disk.Size }

// ReadAt reads at any offset.
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
	// Only a regular file has an end that is not aligned.
	direct := p[:max(0, min(int64(len(p)), t.disk.Size/t.align*t.align-off))]
	n, err := t.readDirect(direct, off)
	if err == nil && n < len(p) {
		var k int
		k, err = t.cached.ReadAt(p[n:], off+int64(n))
		n += k
	}
	if err != nil {
		return n, bare(err)
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

// WriteAt writes from the start of a sector on. Of a last sector that is written in part
// the rest stays as it is on the disk, or becomes zeros if the disk cannot read it. A
// regular file takes anything below its size. Nothing is written beyond the end of the
// disk: that is ENOSPC.
func (t *Target) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || int64(len(p)) > t.disk.Size-off {
		return 0, syscall.ENOSPC
	}
	if off%t.align != 0 || int64(len(p))%t.align != 0 {
		if t.cached == nil {
			return t.writePart(p, off)
		}
		n, err := t.cached.WriteAt(p, off)
		return n, bare(err)
	}
	n, err := t.writeDirect(p, off)
	if err != nil {
		return n, bare(err)
	}
	if t.dirty += int64(n); t.dirty >= flushEvery {
		err = t.Sync()
	}
	return n, err
}

// writePart writes whole sectors and a part of one more.
func (t *Target) writePart(p []byte, off int64) (int, error) {
	if off%t.align != 0 {
		return 0, fmt.Errorf("%d bytes at %d do not start with a sector of %d bytes", len(p), off, t.align)
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

// Sync returns when the disk says that all is on it. Its error is final: the
// kernel reports it once, and a second call would say that all is well.
func (t *Target) Sync() error {
	t.dirty = 0
	if err := t.flush(); err != nil {
		return bare(err)
	}
	if t.cached != nil {
		forget(t.cached)
	}
	return nil
}

// Named is nil for a disk, and for a regular file that still has the name it was opened
// by: what was written to another is a *MovedError.
func (t *Target) Named() error {
	if !t.disk.File || t.opened == nil {
		return nil
	}
	if now, err := os.Stat(t.disk.Path); err != nil || !os.SameFile(now, t.opened) {
		return &MovedError{t.disk.Path}
	}
	return nil
}

func idOfInfo(info fs.FileInfo) (fileID, bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fileID{}, false
	}
	return fileID{uint64(st.Dev), uint64(st.Ino)}, true
}

// sameFile refuses a regular file, opened as info says, that is not the one that was found.
func (d *Disk) sameFile(info fs.FileInfo) error {
	switch {
	case !info.Mode().IsRegular() || d.found != nil && !os.SameFile(info, d.found):
		return d.refuse("it is not the file that was found: another one has taken its name: start over")
	case info.Size() != d.Size:
		return d.refuse("the file had %d bytes when it was found and has %d now: start over", d.Size, info.Size())
	}
	return nil
}

// Close closes the disk. What was not flushed before may be lost.
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

// bare takes the path and the name of the call off an error: who calls names
// the disk.
func bare(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	return err
}
