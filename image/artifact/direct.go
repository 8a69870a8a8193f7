package artifact

import (
	"crypto/sha256"
	"os"
	"slices"
	"unsafe"

	"imgtool/image"
)

// direct is a file that is written past the page cache where the system can and there
// is much to write: to hold an image of 4 GB in memory takes as long again as to write
// it, while one of 400 MB is written while others are made.
type direct struct {
	f      *os.File
	direct *os.File // nil where there is no such thing

	room  *Room
	there []image.Span // what the file has already

	buf []byte // what Write was given, of the room there is
	off int64  // in the file
}

// directFrom is how many bytes are much to write: about as long with and without, as
// measured, take 1 GB.
const directFrom = 512 << 20

// newDirect is for an image that room, which may be nil, has some of.
func newDirect(f *os.File, img *image.Image, room *Room) *direct {
	d := &direct{f: f, room: room}
	left := img.ContentSize()
	for e := range img.Extents() {
		if room.has(e) {
			d.there = append(d.there, image.Span{Off: e.Off, Len: e.Size()})
			left -= e.Size()
		}
	}
	if left < directFrom {
		return d
	}
	if other, err := openDirect(f); err == nil {
		d.direct = other
	}
	return d
}

// has says whether the file has a part of the image already.
func (d *direct) has(part image.Span) bool {
	return slices.ContainsFunc(d.there, func(s image.Span) bool { return s.Off <= part.Off && part.End() <= s.End() })
}

// known is the hash of a piece that the file has already, if somebody has made it.
func (d *direct) known(piece image.Span) (sum [sha256.Size]byte, ok bool) {
	if !d.has(piece) {
		return sum, false
	}
	return d.room.sum(piece)
}

// WriteAt may be called at the same time.
func (d *direct) WriteAt(b []byte, off int64) (int, error) {
	if d.has(image.Span{Off: off, Len: int64(len(b))}) {
		return len(b), nil
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
