package direct_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"imgtool/flash/disk/direct"
	"imgtool/image/imagetest"
)

const (
	size  = 3<<20 + 1536
	align = 512
)

func open(t *testing.T, cached bool) *direct.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	d := &direct.File{File: f, Size: size, Align: align}
	if cached {
		if d.Cached, err = os.OpenFile(path, os.O_RDWR, 0); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// Reads and writes at any offset that is allowed are as those of memory, whatever the alignment
// of the buffer.
func TestAsMemory(t *testing.T) {
	for name, cached := range map[string]bool{"a disk": false, "a file": true} {
		t.Run(name, func(t *testing.T) {
			r, d, want := imagetest.Random(t), open(t, cached), make([]byte, size)
			buffer := make([]byte, size+direct.MemAlign)
			for range 300 {
				off := r.IntN(size)
				if !cached || r.IntN(2) == 0 {
					off = off / align * align
				}
				b := buffer[r.IntN(direct.MemAlign):][:r.IntN([]int{10, 5000, size - off}[r.IntN(3)])]
				b = b[:min(len(b), size-off)]
				for i := range b {
					b[i] = byte(r.Uint32())
				}
				if n, err := d.WriteAt(b, int64(off)); n != len(b) || err != nil {
					t.Fatalf("writing %d bytes at %d: %d, %v", len(b), off, n, err)
				}
				copy(want[off:], b)

				off = r.IntN(size)
				b = buffer[r.IntN(direct.MemAlign):][:r.IntN(size)]
				n, err := d.ReadAt(b, int64(off))
				if left := size - off; n != min(len(b), left) || (err == io.EOF) != (len(b) > left) || err != nil && err != io.EOF {
					t.Fatalf("reading %d bytes at %d: %d, %v", len(b), off, n, err)
				}
				if !bytes.Equal(b[:n], want[off:off+n]) {
					t.Fatalf("%d bytes at %d differ", n, off)
				}
			}
		})
	}
}

func TestBounds(t *testing.T) {
	d := open(t, false)
	if n, err := d.WriteAt(make([]byte, 2*align), size-align); n != 0 || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("beyond the end: %d, %v", n, err)
	}
	if _, err := d.WriteAt(make([]byte, align), 1); err == nil {
		t.Error("a disk is written at an offset within a sector")
	}
	if _, err := d.ReadAt(make([]byte, 1), -1); err == nil || err == io.EOF {
		t.Errorf("a negative offset: %v", err)
	}
	if n, err := d.ReadAt(make([]byte, 1), size); n != 0 || err != io.EOF {
		t.Errorf("at the end: %d, %v", n, err)
	}
}
