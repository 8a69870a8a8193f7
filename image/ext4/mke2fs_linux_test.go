package ext4_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"imgtool/image/imagetest"
	"imgtool/image/tree"
	"imgtool/image/tree/hostfs"
)

// stage writes a tree to a temporary directory.
func stage(t testing.TB, tr *tree.Tree) string {
	dir := t.TempDir()
	for path, n := range tr.All() {
		full := filepath.Join(dir, path)
		switch n.Type() {
		case tree.Dir:
			must(t, os.MkdirAll(full, 0o755))
		case tree.Regular:
			data := make([]byte, n.Size())
			if n.Size() > 0 {
				_, err := n.Content.ReadAt(data, 0)
				must(t, err)
			}
			must(t, os.WriteFile(full, data, 0o644))
		case tree.Symlink:
			must(t, os.Symlink(n.Target, full))
		}
	}
	for path, n := range tr.All() {
		full := filepath.Join(dir, path)
		if n.Type() != tree.Symlink {
			must(t, os.Chmod(full, os.FileMode(n.Mode&0o777)))
		}
		ts := []unix.Timespec{{Sec: n.ModTime}, {Sec: n.ModTime}}
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, full, ts, unix.AT_SYMLINK_NOFOLLOW))
	}
	return dir
}

// common returns a tree similar to the tree of a distribution.
func common(t testing.TB, files int) *tree.Tree {
	rng := rand.New(rand.NewPCG(4, 4))
	tr := tree.New(modTime)
	for i := range files {
		path := fmt.Sprintf("usr/%d/%d/file %d", i%10, i%200, i)
		switch i % 20 {
		case 0:
			put(t, tr, path, tree.Inode{Mode: tree.Symlink | 0o777, Target: noiseText(rng, 1+rng.IntN(80)), ModTime: modTime})
		case 1:
			put(t, tr, path, file(noise(rng, rng.IntN(200_000))))
		default:
			put(t, tr, path, file(noise(rng, rng.IntN(10_000))))
		}
	}
	return tr
}

func noiseText(rng *rand.Rand, n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = 'a' + byte(rng.IntN(26))
	}
	return string(b)
}

func mke2fs(t testing.TB, dir, path string, size int64) {
	imagetest.Run(t, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-O", "^orphan_file,^metadata_csum_seed", "-E", "root_owner=0:0", "-d", dir, path, strconv.FormatInt(size/1024, 10)+"k")
}

func TestNewMatchesMke2fs(t *testing.T) {
	imagetest.Long(t)
	tr := common(t, 3000)
	dir := stage(t, tr)
	for _, size := range []int64{128 * mib, 600 * mib, 5 * gib} {
		theirs := filepath.Join(t.TempDir(), "mke2fs")
		mke2fs(t, dir, theirs, size)
		ours := write(t, build(t, tr, sized(size)))
		fsck(t, ours)
		a, _ := read(t, theirs)
		b, _ := read(t, ours)
		for _, path := range []string{"", "lost+found"} { // whose times are the clock's
			must(t, a.Put(path, b.Lookup(path)))
		}
		same(t, "mke2fs", describe(t, b), a)

		dump := map[string]string{}
		for _, path := range []string{ours, theirs} {
			dump[path] = imagetest.Run(t, "dumpe2fs", "-h", path)
		}
		for _, field := range []string{"Filesystem features", "Inode count", "Block count", "Reserved block count", "Overhead clusters", "Group descriptor size",
			"Reserved GDT blocks", "Inodes per group", "Flex block group size", "Free inodes", "Default mount options", "Total journal size", "Required extra isize"} {
			if o, m := dumped(dump[ours], field), dumped(dump[theirs], field); o != m {
				t.Errorf("%s is %s, and mke2fs has %s", field, o, m)
			}
		}
		used := func(path string) float64 {
			out := dump[path]
			all, _ := strconv.Atoi(dumped(out, "Block count"))
			free, _ := strconv.Atoi(dumped(out, "Free blocks"))
			return float64(all - free)
		}
		o, m := used(ours), used(theirs)
		t.Logf("%d MiB: %.0f blocks used, mke2fs %.0f: %.3f", size/mib, o, m, o/m)
		if o > 1.1*m {
			t.Error("that is more than 1.1")
		}
	}
}

func BenchmarkNew(b *testing.B) {
	tr := common(b, 20_000)
	for b.Loop() {
		build(b, tr, sized(4*gib))
	}
}

func BenchmarkWrite(b *testing.B) {
	tr, err := hostfs.Read(stage(b, common(b, 20_000)), true, 0)
	must(b, err)
	for b.Loop() {
		os.Remove(write(b, build(b, tr, sized(4*gib))))
	}
}

func BenchmarkMke2fs(b *testing.B) {
	dir := stage(b, common(b, 20_000))
	path := filepath.Join(b.TempDir(), "image")
	for b.Loop() {
		mke2fs(b, dir, path, 4*gib)
		os.Remove(path)
	}
}
