package build_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"imgtool/image/build"
	"imgtool/layouts"
)

// noise writes files that cannot be compressed, so that gaps are most of what a squashfs adds.
func noise(t *testing.T, dir string, seed uint64) {
	t.Helper()
	rng := rand.NewChaCha8([32]byte{byte(seed)})
	for i := range 40 {
		b := make([]byte, 270_000+i*1000)
		rng.Read(b)
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// The error of a root file system that is too large says how it may fit.
func TestTooLargeRoot(t *testing.T) {
	dir := t.TempDir()
	noise(t, dir, 1)
	slot := func(size int64, packed bool) func(o *build.Options) {
		return func(o *build.Options) {
			o.Inputs["rootfs"], o.BlockSize, o.Packed = dir, 128<<10, packed
			for i, p := range o.Board.Media[0].Layout.Partitions {
				if p.Content == "rootfs" {
					o.Board.Media[0].Layout.Partitions[i].Size = layouts.Bytes(size)
				}
			}
		}
	}
	aligned := find(t, made(t, slot(1<<30, false)).Image, "rootfs-a").Size()
	packed := find(t, made(t, slot(1<<30, true)).Image, "rootfs-a").Size()
	for _, test := range []struct {
		size   int64
		packed bool
		hint   bool
	}{{aligned - 4096, false, true}, {packed, false, true}, {packed * 9 / 10 &^ 4095, false, false}, {packed - 4096, true, false}} {
		_, err := tried(t, slot(test.size, test.packed))
		if err == nil || !strings.HasPrefix(err.Error(), "rootfs-a: ") || !strings.Contains(err.Error(), fmt.Sprintf("in %d): remove files", test.size)) {
			t.Errorf("%+v: %v", test, err)
		} else if strings.Contains(err.Error(), "--align=false") != test.hint {
			t.Errorf("%+v: %v", test, err)
		}
	}
	made(t, slot(packed, true))
}

// The root file system of an earlier image is found under other names of partitions, too.
func TestLikeOtherBoard(t *testing.T) {
	dir := t.TempDir()
	noise(t, dir, 2)
	old := made(t, func(o *build.Options) {
		o.Inputs["rootfs"] = dir
		for i, p := range o.Board.Media[0].Layout.Partitions {
			if p.Name == "rootfs-a" {
				o.Board.Media[0].Layout.Partitions[i].Name = "system"
			}
		}
	})
	path := filepath.Join(t.TempDir(), "old.img")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(old.Size()); err != nil {
		t.Fatal(err)
	}
	for e := range old.Extents() {
		if _, err := io.Copy(io.NewOffsetWriter(f, e.Off), io.NewSectionReader(e, 0, e.Size())); err != nil {
			t.Fatal(err)
		}
	}
	var said []string
	made(t, func(o *build.Options) {
		o.Inputs["rootfs"], o.Like = dir, path
		o.Info = func(text string) { said = append(said, text) }
	})
	if all := strings.Join(said, "\n"); !strings.Contains(all, "stay where they are in "+path+":system, 0 bytes are new") {
		t.Errorf("it said %q", all)
	}
}
