package fat_test

import (
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"imgtool/image"
	"imgtool/image/fat"
)

// within fails on reads outside of a file system.
func within(t *testing.T, c *fat.Change, size int64) {
	t.Helper()
	m, err := image.New(size, c.Extents()...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, io.NewSectionReader(m, 0, size)); err != nil {
		t.Fatal(err)
	}
}

func FuzzEdit(f *testing.F) {
	for _, b := range heads(f) {
		if _, err := edited(endless(b), 4*MiB, put("config.toml", make([]byte, 3000))); err != nil {
			f.Fatal(err) // a seed of the corpus that cannot be edited is useless
		}
		f.Add(b, "config.toml", uint16(3000))
		f.Add(b, "D/E/another long name", uint16(0))
	}
	f.Fuzz(func(t *testing.T, b []byte, path string, size uint16) {
		// Room for the size in the boot sector, if that is small.
		if len(b) < 512 {
			return
		}
		sectors := int64(binary.LittleEndian.Uint16(b[19:]))
		if sectors == 0 {
			sectors = int64(binary.LittleEndian.Uint32(b[32:]))
		}
		room := max(int64(len(b)), min(sectors*512, 4*MiB))
		r := io.NewSectionReader(endless(b), 0, room)
		for _, edit := range []func(e *fat.Editor) error{put(path, make([]byte, size)), remove(path)} {
			c, err := edited(r, room, edit)
			if err != nil {
				continue
			}
			within(t, c, room)
			m, err := image.New(room, image.Extent{Content: r})
			if err != nil {
				t.Fatal(err)
			}
			over, err := m.Overlay(c.Extents()...)
			if err != nil {
				t.Fatal(err)
			}
			// The result can be edited again.
			if c, err = edited(over, room, put(path, make([]byte, size))); err == nil {
				within(t, c, room)
			} else if full := (*fat.FullError)(nil); !errors.As(err, &full) && !strings.Contains(err.Error(), "is full") {
				t.Errorf("after an edit of %q: %v", path, err)
			}
		}
	})
}
