package squashfs_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/google/go-cmp/cmp"

	"imgtool/image"
	"imgtool/image/imagetest"
	"imgtool/image/squashfs"
	"imgtool/image/tree"
	"imgtool/image/tree/treetest"
)

// write writes tr to a file and returns the path and the size.
func write(t testing.TB, tr *tree.Tree, opt squashfs.Options) (string, int64) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n, err := squashfs.Write(context.Background(), f, tr, opt, nil)
	if err != nil {
		t.Fatal(err)
	}
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() != n || n%4096 != 0 {
		t.Fatalf("Write says %d bytes, the file has %d", n, info.Size())
	}
	return f.Name(), n
}

func open(t testing.TB, path string) *squashfs.Reader {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	r, err := squashfs.Open(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// read reads a whole image back.
func read(t testing.TB, path string) *tree.Tree {
	t.Helper()
	tr, err := open(t, path).Tree()
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// mount mounts a file system and returns the mount point.
func mount(t testing.TB, path string) string {
	t.Helper()
	dev, dir := imagetest.Loop(t, path), t.TempDir()
	imagetest.Run(t, "mount", "-t", "squashfs", "-o", "ro", dev, dir)
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return dir
}

// describe returns a comparable description of each path. Further names of an inode
// refer to the first.
func describe(t testing.TB, tr *tree.Tree) map[string]string {
	t.Helper()
	words := map[string]string{}
	first := map[*tree.Inode]string{}
	for path, n := range tr.All() {
		if was, ok := first[n]; ok {
			words[path] = "is " + was
			continue
		}
		first[n] = path
		var b strings.Builder
		fmt.Fprintf(&b, "%06o %d:%d %d %q %d:%d", n.Mode, n.UID, n.GID, min(max(n.ModTime, 0), 1<<32-1), n.Target, n.Major, n.Minor)
		for _, x := range n.Xattrs {
			fmt.Fprintf(&b, " %s=%.40q %x", x.Name, x.Value, sha256.Sum256([]byte(x.Value)))
		}
		if n.Size() > 0 {
			h := sha256.New()
			k, err := io.Copy(h, io.NewSectionReader(n.Content, 0, n.Size()))
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			fmt.Fprintf(&b, " %d bytes %x", k, h.Sum(nil))
		}
		words[path] = b.String()
	}
	return words
}

func same(t testing.TB, what string, want map[string]string, got *tree.Tree) {
	t.Helper()
	if diff := cmp.Diff(want, describe(t, got)); diff != "" {
		if len(diff) > 4000 {
			diff = diff[:4000]
		}
		t.Fatalf("%s differs (-tree +%s):\n%s", what, what, diff)
	}
}

// sameMounted compares with the mounted file system, and returns the mount point.
func sameMounted(t testing.TB, tr *tree.Tree, want map[string]string, path string) string {
	t.Helper()
	dir := mount(t, path)
	got, nlink := treetest.Walk(t, dir)
	same(t, "mount", want, got)
	if diff := cmp.Diff(links(tr), nlink); diff != "" {
		t.Fatalf("link counts differ (-tree +mount):\n%.4000s", diff)
	}
	return dir
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
		if path == "" {
			continue
		}
		dirs[path[:max(strings.LastIndexByte(path, '/'), 0)]]++
	}
	for path, n := range tr.All() {
		if out[path] = inodes[n]; n.Type() == tree.Dir {
			out[path] = dirs[path]
		}
	}
	return out
}

func put(t testing.TB, tr *tree.Tree, path string, n tree.Inode) *tree.Inode {
	t.Helper()
	if err := tr.Put(path, &n); err != nil {
		t.Fatal(err)
	}
	return &n
}

func file(s string) tree.Inode {
	n := tree.Inode{Mode: tree.Regular | 0o644, ModTime: 1_700_000_000}
	if s != "" {
		n.Content = strings.NewReader(s)
	}
	return n
}

// text returns n bytes that are partly compressible.
func text(rng *rand.Rand, n int) string {
	b := make([]byte, n)
	word := make([]byte, 7)
	for i := 0; i < n; {
		if rng.IntN(4) == 0 {
			for j := range word {
				word[j] = byte(rng.Uint32())
			}
		}
		i += copy(b[i:], word)
	}
	return string(b)
}

func noise(rng *rand.Rand, n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return string(b)
}

// randomTree returns a tree of up to some hundred inodes of all types, with files of
// up to three blocks.
func randomTree(t testing.TB, seed uint64, block int) *tree.Tree {
	t.Helper()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	tr := tree.New(1_600_000_000)
	dirs := []string{""}
	name := func() string {
		n := 1 + rng.IntN(12)
		if rng.IntN(20) == 0 {
			n = 255
		}
		b := make([]byte, n)
		for i := range b {
			for b[i] == 0 || b[i] == '/' || b[i] == '.' {
				b[i] = byte(rng.Uint32())
				if rng.IntN(3) > 0 {
					b[i] = 'a' + b[i]%26
				}
			}
		}
		return string(b)
	}
	var inodes []*tree.Inode
	sets := [][]tree.Xattr{
		nil, nil, nil,
		{{Name: "user.a", Value: ""}},
		{{Name: "trusted.b", Value: text(rng, 3000)}, {Name: "user.long" + strings.Repeat("x", 200), Value: "1"}},
		{{Name: "security.capability", Value: "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}},
	}
	sizes := []int{0, 1, 5, 100, 1000, 4095, 4096, block - 1, block, block + 1, 2 * block, 2*block + 77}
	paths := 150 + rng.IntN(150)
	if block > 256<<10 {
		paths /= 4
	}
	for range paths {
		dir := dirs[rng.IntN(len(dirs))]
		path := name()
		if dir != "" {
			path = dir + "/" + path
		}
		if len(path) > 2000 || tr.Lookup(path) != nil {
			continue
		}
		n := &tree.Inode{
			Mode:    rng.Uint32() & 0o7777,
			UID:     []uint32{0, 1000, 65534, 4294967294, rng.Uint32()}[rng.IntN(5)],
			GID:     []uint32{0, 100, rng.Uint32N(50)}[rng.IntN(3)],
			ModTime: []int64{0, 1_600_000_000, int64(rng.Uint32()), 4294967295}[rng.IntN(4)],
			Xattrs:  sets[rng.IntN(len(sets))],
		}
		switch k := rng.IntN(20); {
		case k < 5:
			n.Mode |= tree.Dir
			dirs = append(dirs, path)
		case k < 12:
			n.Mode |= tree.Regular
			size := sizes[rng.IntN(len(sizes))]
			switch rng.IntN(5) {
			case 0:
				n.Content = strings.NewReader(noise(rng, size))
			case 1:
				n.Content = image.Zeros(int64(size))
			case 2: // data, a hole, data
				n.Content = strings.NewReader(text(rng, size) + strings.Repeat("\x00", 2*block) + "end")
			default:
				n.Content = strings.NewReader(text(rng, size))
			}
			if size == 0 {
				n.Content = nil
			}
		case k < 14:
			n.Mode = n.Mode&^0o7777 | tree.Symlink | 0o777
			n.Target = text(rng, 1+rng.IntN(30))
			if rng.IntN(4) == 0 {
				n.Target = strings.Repeat("t/", 2047) + "x"
			}
			n.Target = strings.ReplaceAll(n.Target, "\x00", "0")
			// The kernel keeps user attributes off these.
			n.Xattrs = nil
		case k < 15:
			n.Mode |= tree.CharDev
			n.Major, n.Minor = rng.Uint32N(4096), rng.Uint32N(1<<20)
			n.Xattrs = nil
		case k < 16:
			n.Mode |= tree.BlockDev
			n.Major, n.Minor = 4095, 1<<20-1
			n.Xattrs = sets[5]
		case k < 17:
			n.Mode |= tree.Fifo
			n.Xattrs = nil
		case k < 18:
			n.Mode |= tree.Socket
			n.Xattrs = nil
		default:
			if len(inodes) == 0 {
				continue
			}
			n = inodes[rng.IntN(len(inodes))]
		}
		if err := tr.Put(path, n); err != nil {
			t.Fatal(err)
		}
		if n.Type() != tree.Dir {
			inodes = append(inodes, n)
		}
	}
	return tr
}

func setxattr(t testing.TB, path, name, value string) {
	t.Helper()
	if err := unix.Lsetxattr(path, name, []byte(value), 0); err != nil {
		t.Fatalf("%s: %s: %v", path, name, err)
	}
}
