package ext4_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"imgtool/image"
	"imgtool/image/ext4"
	"imgtool/image/imagetest"
	"imgtool/image/tree"
	"imgtool/image/tree/treetest"
)

const (
	kib = 1 << 10
	mib = 1 << 20
	gib = 1 << 30
	tib = 1 << 40

	modTime = 1_700_000_000
)

var options = ext4.Options{
	Label:    "system",
	UUID:     [16]byte{0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0x4d, 0xef, 0x81, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef},
	HashSeed: [16]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16},
	Time:     modTime,
}

func sized(size int64) ext4.Options {
	opt := options
	opt.Size = size
	return opt
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func build(t testing.TB, tr *tree.Tree, opt ext4.Options) *image.Image {
	t.Helper()
	m, err := ext4.New(tr, opt)
	must(t, err)
	return m
}

// write writes only the extents of an image to a sparse file.
func write(t testing.TB, m *image.Image) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	f, err := os.Create(path)
	must(t, err)
	must(t, f.Truncate(m.Size()))
	writeTo(t, f, m, true)
	must(t, f.Close())
	return path
}

func writeTo(t testing.TB, f *os.File, m *image.Image, isZeros bool) {
	t.Helper()
	buf, zeros := make([]byte, 64*kib), make([]byte, 64*kib)
	for e := range m.Extents() {
		for off := int64(0); off < e.Size(); off += int64(len(buf)) {
			part := buf[:min(int64(len(buf)), e.Size()-off)]
			if n, err := e.ReadAt(part, off); n < len(part) {
				t.Fatalf("%s: %v", e.Name, err)
			}
			if !isZeros || !bytes.Equal(part, zeros[:len(part)]) {
				_, err := f.WriteAt(part, e.Off+off)
				must(t, err)
			}
		}
	}
}

// writeDirty is write to a disk with former content.
func writeDirty(t testing.TB, m *image.Image) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "dirty")
	f, err := os.Create(path)
	must(t, err)
	dirt := []byte(strings.Repeat("\xaa", mib))
	for off := int64(0); off < m.Size(); off += mib {
		_, err := f.WriteAt(dirt[:min(mib, m.Size()-off)], off)
		must(t, err)
	}
	writeTo(t, f, m, false)
	must(t, f.Close())
	return path
}

// fsck checks a file system with e2fsck.
func fsck(t testing.TB, path string) {
	t.Helper()
	out, err := exec.Command(imagetest.Need(t, "e2fsck"), "-fn", path).CombinedOutput()
	if err != nil {
		t.Fatalf("e2fsck: %v\n%.4000s", err, out)
	}
}

// mount mounts a file system for writing, and returns the mount point and a function
// that unmounts it.
func mount(t testing.TB, path string) (string, func()) {
	t.Helper()
	dev, dir := imagetest.Loop(t, path), t.TempDir()
	imagetest.Run(t, "mount", "-t", "ext4", dev, dir)
	mounted := true
	unmount := func() {
		if !mounted {
			return
		}
		mounted = false
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	}
	t.Cleanup(unmount)
	return dir, unmount
}

func sortXattrs(x []tree.Xattr) {
	slices.SortFunc(x, func(a, b tree.Xattr) int { return strings.Compare(a.Name, b.Name) })
}

// describe returns a comparable description of each path. Further names of an inode
// refer to the first.
func describe(t testing.TB, tr *tree.Tree) map[string]string {
	t.Helper()
	words := map[string]string{}
	first := map[*tree.Inode]string{}
	buf := make([]byte, mib)
	for path, n := range tr.All() {
		if was, ok := first[n]; ok && n.Type() != tree.Dir {
			words[path] = "is " + was
			continue
		}
		first[n] = path
		var b strings.Builder
		fmt.Fprintf(&b, "%06o %d:%d %d %q %d:%d", n.Mode, n.UID, n.GID, n.ModTime, n.Target, n.Major, n.Minor)
		xattrs := slices.Clone(n.Xattrs)
		sortXattrs(xattrs)
		for _, x := range xattrs {
			fmt.Fprintf(&b, " %s=%.40q %x", x.Name, x.Value, sha256.Sum256([]byte(x.Value)))
		}
		if n.Size() > 0 {
			h := sha256.New()
			k, err := io.CopyBuffer(h, struct{ io.Reader }{io.NewSectionReader(n.Content, 0, n.Size())}, buf)
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			fmt.Fprintf(&b, " %d bytes %x", k, h.Sum(nil))
		}
		words[path] = b.String()
	}
	return words
}

// withLost returns a tree with lost+found.
func withLost(t testing.TB, tr *tree.Tree) *tree.Tree {
	t.Helper()
	all := tree.New(modTime)
	if tr != nil {
		for path, n := range tr.All() {
			must(t, all.Put(path, n))
		}
	}
	if all.Lookup("lost+found") == nil {
		must(t, all.Put("lost+found", &tree.Inode{Mode: tree.Dir | 0o700, ModTime: modTime}))
	}
	return all
}

func same(t testing.TB, what string, want map[string]string, got *tree.Tree) {
	t.Helper()
	differ(t, what, want, describe(t, got))
}

func differ[T any](t testing.TB, what string, want, got T) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("%s differs (-tree +%s):\n%.4000s", what, what, diff)
	}
}

// links returns the link counts that the paths must have.
func links(tr *tree.Tree) map[string]uint64 {
	inodes, dirs, out := map[*tree.Inode]uint64{}, map[string]uint64{}, map[string]uint64{}
	for path, n := range tr.All() {
		if n.Type() != tree.Dir {
			inodes[n]++
			continue
		}
		dirs[path] += 2
		if path != "" {
			dirs[path[:max(strings.LastIndexByte(path, '/'), 0)]]++
		}
	}
	for path, n := range tr.All() {
		if out[path] = inodes[n]; n.Type() == tree.Dir {
			if out[path] = dirs[path]; out[path] > 65000 {
				out[path] = 1
			}
		}
	}
	return out
}

// judge compares a file system with tr, by e2fsck, Read and the kernel, lets the kernel
// change it, and checks it with e2fsck again.
func judge(t testing.TB, tr *tree.Tree, path string) {
	t.Helper()
	fsck(t, path)
	tr = withLost(t, tr)
	want := describe(t, tr)
	got, _ := read(t, path)
	same(t, "Read", want, got)
	if os.Geteuid() != 0 {
		return
	}
	dir, unmount := mount(t, path)
	mounted, nlink := treetest.Walk(t, dir)
	same(t, "mount", want, mounted)
	differ(t, "link counts of mount", links(tr), nlink)
	use(t, dir)
	unmount()
	fsck(t, path)
}

func read(t testing.TB, path string) (*tree.Tree, *ext4.Options) {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	fi, err := f.Stat()
	must(t, err)
	tr, opt, err := ext4.Read(f, fi.Size())
	must(t, err)
	return tr, opt
}

// use makes and removes up to 300 files, as many as fit.
func use(t testing.TB, dir string) {
	t.Helper()
	full := func(err error) bool {
		if err != nil && !strings.Contains(err.Error(), "no space left") {
			t.Fatal(err)
		}
		return err != nil
	}
	top := filepath.Join(dir, "made later")
	if full(os.Mkdir(top, 0o755)) {
		return
	}
	for i := range 300 {
		if full(os.WriteFile(fmt.Sprintf("%s/a file with a long name %d", top, i), make([]byte, 100*i), 0o644)) {
			break
		}
	}
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		if !e.IsDir() {
			must(t, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	entries, err = os.ReadDir(top)
	must(t, err)
	for i, e := range entries {
		if i%3 == 0 {
			must(t, os.Remove(filepath.Join(top, e.Name())))
		}
	}
}

func put(t testing.TB, tr *tree.Tree, path string, n tree.Inode) *tree.Inode {
	t.Helper()
	must(t, tr.Put(path, &n))
	return &n
}

func file(s string) tree.Inode {
	n := tree.Inode{Mode: tree.Regular | 0o644, ModTime: modTime}
	if s != "" {
		n.Content = strings.NewReader(s)
	}
	return n
}

func noise(rng *rand.Rand, n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return string(b)
}

// pattern is content of any size that needs no memory and little disk space: the
// first 4 KiB of every MiB depend on the offset, the rest is zeros.
type pattern int64

func (p pattern) Size() int64 { return int64(p) }

func (p pattern) ReadAt(b []byte, off int64) (int, error) {
	n := int(max(0, min(int64(len(b)), int64(p)-off)))
	clear(b[:n])
	for i := 0; i < n; {
		at := uint64(off) + uint64(i)
		if in := at % mib; in >= 4096 {
			i += int(mib - in)
			continue
		}
		b[i] = byte((at/8 + 1) * 0x9e3779b97f4a7c15 >> (8 * (at % 8)))
		i++
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// minSize returns the size in bytes, a multiple of 1 MiB, of about the smallest file
// system for a tree.
func minSize(t testing.TB, tr *tree.Tree, opt ext4.Options) int64 {
	t.Helper()
	opt.Size = mib + max(0, opt.JournalSize)
	for range 100 {
		_, err := ext4.New(tr, opt)
		var full *ext4.FullError
		switch {
		case err == nil:
			return opt.Size
		case errors.As(err, &full):
			opt.Size += (full.Need - full.Free + mib - 1) / mib * mib
		default: // the groups are too few for the inodes
			opt.Size += 128 * mib
		}
	}
	t.Fatal("no file system is large enough")
	return 0
}
