package squashfs_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"imgtool/image"
	"imgtool/image/imagetest"
	"imgtool/image/squashfs"
	"imgtool/image/tree"
)

// The cost of a hole does not depend on its size: a tar of 1.5 KiB may have a hole of
// 16 TiB.
func TestWriteLargeHoles(t *testing.T) {
	imagetest.Need(t, "unsquashfs")
	root := tree.New(0)
	add := func(name string, c image.Content) {
		if err := root.Put(name, &tree.Inode{Mode: tree.Regular | 0o644, Content: c}); err != nil {
			t.Fatal(err)
		}
	}
	add("hole", image.Zeros(16<<40))
	add("hole and end", image.Zeros(1<<40+5000))
	path := filepath.Join(t.TempDir(), "x")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	opt := squashfs.Options{Compression: "zstd", BlockSize: 1 << 20}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	size, err := squashfs.Write(ctx, f, root, opt, nil)
	if err != nil {
		t.Fatal(err)
	}
	if size > 4<<20 {
		t.Errorf("it has %d bytes", size)
	}
	listed := imagetest.Run(t, "unsquashfs", "-lln", path)
	for _, want := range []string{"17592186044416", "1099511632776"} {
		if !strings.Contains(listed, want) {
			t.Errorf("no file of %s bytes: %s", want, listed)
		}
	}

	for _, name := range []string{"b", "c", "d", "e", "largest"} {
		add(name, image.Zeros(map[bool]int64{true: 15 << 40, false: 14 << 40}[name == "largest"]))
	}
	_, err = squashfs.Write(t.Context(), f, root, opt, nil)
	if err == nil || !strings.Contains(err.Error(), "the limit is 67108864: leave out large sparse files, the largest is hole with 17592186044416 bytes") {
		t.Error(err)
	}
}
