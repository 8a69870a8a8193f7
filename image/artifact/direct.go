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
}

func newDirect(f *os.File) *direct {
	d := &direct{f: f}
	if other, err := openDirect(f); err == nil {
		d.direct = other
	}
	return d
}

func (d *direct) WriteAt(b []byte, off int64) (int, error) {
	// What is mapped by pages is aligned to them; so are large allocations of Go.
	if d.direct != nil && off%image.Block == 0 && len(b)%image.Block == 0 && len(b) > 0 && uintptr(unsafe.Pointer(&b[0]))%image.Block == 0 {
		if n, err := d.direct.WriteAt(b, off); err == nil {
			return n, nil
		}
		// If it is not for the way it was written, it will be said again.
		d.Close()
	}
	return d.f.WriteAt(b, off)
}

// Close leaves the file itself open.
func (d *direct) Close() error {
	if d.direct == nil {
		return nil
	}
	f := d.direct
	d.direct = nil
	return f.Close()
}
