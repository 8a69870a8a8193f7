package artifact

import (
	"os"
	"unsafe"

	"imgtool/image"
)

// direct is a file that is written past the page cache where the system can: an
// image is as large as what it is made from, and to hold it in memory as well
// takes longer than writing it.
type direct struct {
	f      *os.File
	direct *os.File // nil where there is no such thing

	there []image.Span // what the file has already

	buf []byte // what Write was given, of the room there is
	off int64  // in the file
}

func newDirect(f *os.File) *direct {
	d := &direct{f: f}
	if other, err := openDirect(f); err == nil {
		d.direct = other
	}
	return d
}

// WriteAt may be called at the same time.
func (d *direct) WriteAt(b []byte, off int64) (int, error) {
	for _, s := range d.there {
		if s.Off <= off && off+int64(len(b)) <= s.End() {
			return len(b), nil
		}
	}
	// Large allocations of Go begin with a page, as they must.
	if d.direct != nil && off%image.Block == 0 && len(b)%image.Block == 0 && len(b) > 0 && uintptr(unsafe.Pointer(&b[0]))%image.Block == 0 {
		if n, err := d.direct.WriteAt(b, off); err == nil {
			return n, nil
		}
		// If it is not for the way it was written, it will be said again.
	}
	return d.f.WriteAt(b, off)
}

// Write writes from the beginning of the file, some of it at Flush.
func (d *direct) Write(b []byte) (int, error) {
	if d.buf == nil {
		d.buf = make([]byte, 0, image.PieceSize)
	}
	n := 0
	for n < len(b) {
		k := copy(d.buf[len(d.buf):cap(d.buf)], b[n:])
		d.buf = d.buf[:len(d.buf)+k]
		if n += k; len(d.buf) == cap(d.buf) {
			if err := d.Flush(); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}

// Flush writes what Write was given.
func (d *direct) Flush() error {
	n, err := d.WriteAt(d.buf, d.off)
	d.off, d.buf = d.off+int64(n), d.buf[:0]
	return err
}

// Close leaves the file itself open.
func (d *direct) Close() {
	if d.direct != nil {
		d.direct.Close()
	}
}
