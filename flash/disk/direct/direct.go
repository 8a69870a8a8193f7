// Package direct reads and writes disks past the page cache, at any offset and with any buffer.
// The system does so only for whole sectors and aligned memory (O_DIRECT of Linux).
package direct

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"unsafe"
)

// File is an open disk or regular file.
type File struct {
	File *os.File
	Size int64 // in bytes

	// Align is what offsets and lengths must be multiples of, in bytes; 1 if the page cache is
	// used.
	Align int64

	// Cached is a second descriptor of a regular file, for its end, which may not be aligned; File
	// if the page cache is used, and nil for a disk.
	Cached *os.File

	mu     sync.Mutex
	bounce []byte
}

const (
	bounceSize = 1 << 20

	// MemAlign is the alignment of memory; no disk requires more. It is enough for regular files
	// too.
	MemAlign = 4096
)

// ReadAt implements [io.ReaderAt]. Neither p nor off need to be aligned.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("reading at %d: negative offset", off)
	}
	if off >= f.Size {
		return 0, io.EOF
	}
	var short error
	if int64(len(p)) > f.Size-off {
		p, short = p[:f.Size-off], io.EOF
	}
	// Only a regular file may have an end that is not aligned.
	direct := p[:max(0, min(int64(len(p)), f.Size/f.Align*f.Align-off))]
	n, err := f.readDirect(direct, off)
	if err == nil && n < len(p) {
		var k int
		k, err = f.Cached.ReadAt(p[n:], off+int64(n))
		n += k
	}
	if err != nil {
		return n, err
	}
	return n, short
}

func (f *File) readDirect(p []byte, off int64) (int, error) {
	if f.aligned(p, off) {
		return f.File.ReadAt(p, off)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	buf := f.buffer()
	n := 0
	for n < len(p) {
		start := (off + int64(n)) / f.Align * f.Align
		end := (off + int64(len(p)) + f.Align - 1) / f.Align * f.Align
		part := buf[:min(int64(len(buf)), end-start)]
		k, err := f.File.ReadAt(part, start)
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
func (f *File) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || int64(len(p)) > f.Size-off {
		return 0, syscall.ENOSPC
	}
	if off%f.Align != 0 || int64(len(p))%f.Align != 0 {
		if f.Cached == nil {
			return f.writePart(p, off)
		}
		return f.Cached.WriteAt(p, off)
	}
	return f.writeDirect(p, off)
}

// writePart writes whole sectors and a part of another one.
func (f *File) writePart(p []byte, off int64) (int, error) {
	if off%f.Align != 0 {
		return 0, fmt.Errorf("writing %d bytes at %d: the offset is not a multiple of %d", len(p), off, f.Align)
	}
	whole := int64(len(p)) / f.Align * f.Align
	if whole > 0 {
		if n, err := f.WriteAt(p[:whole], off); err != nil {
			return n, err
		}
	}
	last := make([]byte, f.Align)
	if n, err := f.ReadAt(last, off+whole); err != nil {
		clear(last[n:])
	}
	copy(last, p[whole:])
	if _, err := f.WriteAt(last, off+whole); err != nil {
		return int(whole), err
	}
	return len(p), nil
}

func (f *File) writeDirect(p []byte, off int64) (int, error) {
	if f.aligned(p, off) {
		return f.File.WriteAt(p, off)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	buf := f.buffer()
	n := 0
	for n < len(p) {
		part := buf[:copy(buf, p[n:])]
		k, err := f.File.WriteAt(part, off+int64(n))
		n += k
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// Close closes the file.
func (f *File) Close() error {
	err := f.File.Close()
	if f.Cached != nil && f.Cached != f.File {
		err = errors.Join(err, f.Cached.Close())
	}
	return err
}

func (f *File) aligned(p []byte, off int64) bool {
	if f.Align == 1 || len(p) == 0 {
		return true
	}
	return off%f.Align == 0 && int64(len(p))%f.Align == 0 && uintptr(unsafe.Pointer(&p[0]))%MemAlign == 0
}

func (f *File) buffer() []byte {
	if f.bounce == nil {
		b := make([]byte, bounceSize+MemAlign)
		skip := -uintptr(unsafe.Pointer(&b[0])) % MemAlign
		f.bounce = b[skip : skip+bounceSize]
	}
	return f.bounce
}
