package build_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"imgtool/image/build"
	"imgtool/image/verity"
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
	path := stored(t, old)
	var said []string
	made(t, func(o *build.Options) {
		o.Inputs["rootfs"], o.Like = dir, path
		o.Info = func(text string) { said = append(said, text) }
	})
	if all := strings.Join(said, "\n"); !strings.Contains(all, "stay where they are in "+path+":system, 0 bytes are new") {
		t.Errorf("it said %q", all)
	}
}

// stored returns the path of a raw image file.
func stored(t *testing.T, img *build.Image) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "old.img")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(img.Size()); err != nil {
		t.Fatal(err)
	}
	for e := range img.Extents() {
		if _, err := io.Copy(io.NewOffsetWriter(f, e.Off), io.NewSectionReader(e, 0, e.Size())); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// An update of a root file system with a hash tree changes only those blocks of the tree that have
// hashes of new blocks.
func TestLikeWithVerity(t *testing.T) {
	dir := t.TempDir()
	noise(t, dir, 3)
	root := func(change func(*build.Options)) (*build.Image, []string) {
		img := made(t, func(o *build.Options) {
			protect(o)
			o.Inputs["rootfs"] = dir
			if change != nil {
				change(o)
			}
		})
		p := img.Manifest.Partitions[1]
		var tree []string
		b := make([]byte, 4096)
		for at := p.Verity.HashOffset; at < p.Verity.HashOffset+4096+verity.TreeSize(p.Verity.HashOffset); at += 4096 {
			if _, err := img.ReadAt(b, p.Off+at); err != nil {
				t.Fatal(err)
			}
			tree = append(tree, string(b))
		}
		return img, tree
	}
	old, before := root(nil)
	if err := os.WriteFile(dir+"/7", []byte("changed"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, now := root(func(o *build.Options) { o.Like = stored(t, old) })
	same := 0
	for _, block := range now {
		if slices.Contains(before, block) {
			same++
		}
	}
	// The superblock, the root and the hashes of the superblock and tables of the squashfs are others.
	t.Logf("%d of %d blocks of the hash tree are the same", same, len(now))
	if same < len(now)-8 || len(now) < 16 {
		t.Errorf("%d of %d blocks of the hash tree are the same", same, len(now))
	}
}
