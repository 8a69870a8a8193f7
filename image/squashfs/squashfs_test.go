package squashfs_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"imgtool/image/imagetest"
	"imgtool/image/squashfs"
	"imgtool/image/tree"
	"imgtool/image/tree/treetest"
)

var blockSizes = []int{4096, 128 << 10, 1 << 20}

// The reader, the kernel and unsquashfs see the tree that was written, with every
// codec and block size.
func TestWriteCodecs(t *testing.T) {
	imagetest.Long(t)
	for _, codec := range []string{"zstd", "gzip", "xz", "lz4", "lz4:9", "gzip:1", "zstd:1", "zstd:4"} {
		for i, block := range blockSizes {
			if strings.Contains(codec, ":") && i != 1 {
				continue
			}
			t.Run(fmt.Sprintf("%s %d", codec, block), func(t *testing.T) {
				tr := randomTree(t, uint64(i)+7, block)
				path, _ := write(t, tr, squashfs.Options{Compression: codec, BlockSize: block, ModTime: 1_650_000_000})
				want := describe(t, tr)
				same(t, "reader", want, read(t, path))
				if os.Geteuid() == 0 || os.Getenv("CI") == "true" {
					sameMounted(t, tr, want, path)
				}
				unsquash(t, want, path)
			})
		}
	}
}

// unsquash extracts a file system with unsquashfs and compares.
func unsquash(t *testing.T, want map[string]string, path string) {
	t.Helper()
	imagetest.NeedRoot(t)
	to := filepath.Join(t.TempDir(), "root")
	imagetest.Run(t, "unsquashfs", "-strict-errors", "-no-progress", "-processors", "2", "-d", to, path)
	got, _ := treetest.Walk(t, to)
	same(t, "unsquashfs", want, got)
}

func TestWriteRandomTrees(t *testing.T) {
	for range 20 {
		seed, block := rand.Uint64(), blockSizes[rand.IntN(2)]
		tr := randomTree(t, seed, block)
		path, _ := write(t, tr, squashfs.Options{BlockSize: block, Compression: "zstd:1"})
		same(t, "reader", describe(t, tr), read(t, path))
	}
}

func TestWriteEmptyTree(t *testing.T) {
	tr := tree.New(1_600_000_000)
	path, _ := write(t, tr, squashfs.Options{})
	want := describe(t, tr)
	same(t, "reader", want, read(t, path))
	unsquash(t, want, path)
	sameMounted(t, tr, want, path)
}

func TestWriteFileSizes(t *testing.T) {
	const block = 8192
	rng := rand.New(rand.NewPCG(1, 1))
	tr := tree.New(0)
	for _, size := range []int{0, 1, block - 1, block, block + 1, 2*block - 1, 2 * block, 2*block + 1} {
		put(t, tr, fmt.Sprintf("text-%d", size), file(text(rng, size)))
		put(t, tr, fmt.Sprintf("noise-%d", size), file(noise(rng, size)))
		put(t, tr, fmt.Sprintf("zero-%d", size), file(strings.Repeat("\x00", size)))
	}
	path, _ := write(t, tr, squashfs.Options{BlockSize: block})
	want := describe(t, tr)
	same(t, "reader", want, read(t, path))
	sameMounted(t, tr, want, path)
	unsquash(t, want, path)
}

// Listings have many headers and many metadata blocks. (Another library that writes
// squashfs lost all but 235 of 3,000 files.)
func TestWriteLargeDirectories(t *testing.T) {
	imagetest.Long(t)
	for _, test := range []struct {
		name         string
		dirs, files  int
		prefix       string
		content      bool
		wantExtended bool
	}{
		{"3000 files in one directory", 1, 3000, "file-", true, true},
		{"70000 files in one directory", 1, 70000, "f", false, true},
		{"700 directories of 100 files", 700, 100, "some-file-", true, false},
		{"long names", 2, 1000, strings.Repeat("n", 245), false, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			tr := tree.New(1_600_000_000)
			for d := range test.dirs {
				for f := range test.files {
					n := file("")
					if test.content && f%8 == 0 {
						n = file(fmt.Sprint(d%10, f))
					}
					put(t, tr, fmt.Sprintf("dir%d/%s%d", d, test.prefix, f), n)
				}
			}
			path, _ := write(t, tr, squashfs.Options{})
			want := describe(t, tr)
			same(t, "reader", want, read(t, path))
			// The lookup of every name uses the directory index.
			sameMounted(t, tr, want, path)
			if lines := strings.Count(imagetest.Run(t, "unsquashfs", "-lln", path), "\n"); lines < tr.Len() {
				t.Errorf("unsquashfs lists %d lines for %d paths", lines, tr.Len())
			}
		})
	}
}

// The inode number of a hard link may be too far from its neighbours' numbers for
// the 16-bit difference in a listing.
func TestWriteDistantHardLinks(t *testing.T) {
	imagetest.Long(t)
	tr := tree.New(0)
	first := file("shared")
	in := put(t, tr, "a/first", first)
	for i := range 40000 {
		put(t, tr, fmt.Sprintf("m/%05d", i), tree.Inode{Mode: tree.Fifo | 0o600})
	}
	for _, path := range []string{"m/00001x", "m/20000x", "z/last", "z/middle"} {
		if err := tr.Put(path, in); err != nil {
			t.Fatal(err)
		}
	}
	put(t, tr, "z/other", file("other"))
	// Its number is next to the root's entries, its inode next to the entries of m.
	in = put(t, tr, "top", tree.Inode{Mode: tree.Fifo | 0o644})
	if err := tr.Put("m/zz", in); err != nil {
		t.Fatal(err)
	}
	path, _ := write(t, tr, squashfs.Options{})
	want := describe(t, tr)
	same(t, "reader", want, read(t, path))
	sameMounted(t, tr, want, path)
}

// sparse is zeros except for the text at some offsets.
type sparse struct {
	size int64
	text string
	at   []int64
}

func (s sparse) Size() int64 { return s.size }

func (s sparse) ReadAt(p []byte, off int64) (int, error) {
	n := int(min(int64(len(p)), s.size-off))
	clear(p[:n])
	for _, at := range s.at {
		if from := max(at, off); from < min(at+int64(len(s.text)), off+int64(n)) {
			copy(p[from-off:n], s.text[from-at:])
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func TestWriteFileLargerThan4GiB(t *testing.T) {
	content := sparse{5<<30 + 12345, strings.Repeat("data ", 1000), []int64{0, 1<<20 - 7, 3 << 30, 5<<30 - 100, 5<<30 + 7000}}
	tr := tree.New(0)
	put(t, tr, "large", tree.Inode{Mode: tree.Regular | 0o644, Content: content})
	put(t, tr, "after", file("small"))
	path, size := write(t, tr, squashfs.Options{})
	if size > 64<<10 {
		t.Errorf("%d bytes for a file of almost only zeros", size)
	}
	check := func(r io.ReaderAt) {
		t.Helper()
		for _, at := range append(content.at, 2<<30, 5<<30+12000) {
			want, got := make([]byte, 6000), make([]byte, 6000)
			content.ReadAt(want, at)
			k, err := r.ReadAt(got, at)
			if err != nil && err != io.EOF {
				t.Fatal(err)
			}
			if k != int(min(6000, content.size-at)) || !bytes.Equal(want, got) {
				t.Errorf("the content differs at %d", at)
			}
		}
	}
	n := read(t, path).Lookup("large")
	if n.Size() != content.size {
		t.Fatalf("size %d, not %d", n.Size(), content.size)
	}
	check(n.Content)
	f, err := os.Open(filepath.Join(mount(t, path), "large"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.Size() != content.size {
		t.Fatal(info.Size(), err)
	}
	check(f)
}

// constant is one byte, repeated.
type constant int64

func (c constant) Size() int64 { return int64(c) }

func (c constant) ReadAt(p []byte, off int64) (int, error) {
	n := int(min(int64(len(p)), int64(c)-off))
	for i := 0; i < n; {
		if i == 0 {
			p[0], i = 'c', 1
		}
		i += copy(p[i:n], p[:i])
	}
	return n, nil
}

// dropping does not write the blocks of constant.
type dropping struct{ *os.File }

func (d dropping) WriteAt(p []byte, off int64) (int, error) {
	if len(p) == 1<<20 && p[0] == 'c' && bytes.Equal(p[1:], p[:len(p)-1]) {
		return len(p), nil
	}
	return d.File.WriteAt(p, off)
}

// Blocks can begin after 4 GiB. The blocks before are not written and not compared.
func TestWriteLargerThan4GiB(t *testing.T) {
	tr := tree.New(0)
	put(t, tr, "large", tree.Inode{Mode: tree.Regular | 0o644, Content: constant(4200 << 20)})
	rng := rand.New(rand.NewPCG(6, 6))
	put(t, tr, "next", file(text(rng, 3<<20)))
	put(t, tr, "small", file("small"))
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := squashfs.Write(context.Background(), dropping{f}, tr, squashfs.Uncompressed(squashfs.Options{Compression: "lz4"}), nil); err != nil {
		t.Fatal(err)
	}
	back := read(t, f.Name())
	mounted, _ := treetest.Walk(t, mount(t, f.Name()))
	tr.Remove("large")
	want := describe(t, tr)
	for what, got := range map[string]*tree.Tree{"reader": back, "mount": mounted} {
		if got.Lookup("large").Size() != 4200<<20 {
			t.Error(what, got.Lookup("large").Size())
		}
		got.Remove("large")
		same(t, what, want, got)
	}
}

func TestWriteIsIndependentOfWorkers(t *testing.T) {
	for _, codec := range []string{"zstd", "gzip", "xz", "lz4", "lz4:3"} {
		tr := randomTree(t, 3, 32<<10)
		var first []byte
		for _, workers := range []int{1, 2, 7} {
			path, _ := write(t, tr, squashfs.Options{Compression: codec, BlockSize: 8 << 10, Workers: workers})
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if first == nil {
				first = b
			}
			if !bytes.Equal(first, b) {
				t.Errorf("%s: the bytes with %d workers differ from those with one", codec, workers)
			}
		}
	}
}

func TestWriteCapabilities(t *testing.T) {
	getcap := imagetest.Need(t, "getcap")
	tr := tree.New(0)
	n := file("ping")
	n.Mode |= 0o111
	n.Xattrs = []tree.Xattr{{Name: "security.capability", Value: "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}}
	put(t, tr, "bin/ping", n)
	path, _ := write(t, tr, squashfs.Options{})
	out, err := exec.Command(getcap, filepath.Join(mount(t, path), "bin/ping")).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "cap_net_raw=ep") {
		t.Errorf("getcap: %v %q", err, out)
	}
}

func TestWriteStoresEqualFilesOnce(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 5))
	one, other := noise(rng, 300_000), noise(rng, 300_000)
	tr := tree.New(0)
	put(t, tr, "a", file(one))
	_, before := write(t, tr, squashfs.Options{BlockSize: 128 << 10})
	for _, name := range []string{"b", "c", "d/e"} {
		put(t, tr, name, file(one))
	}
	_, after := write(t, tr, squashfs.Options{BlockSize: 128 << 10})
	if after != before {
		t.Errorf("%d bytes, but %d with three copies", before, after)
	}
	put(t, tr, "f", file(other))
	path, _ := write(t, tr, squashfs.Options{BlockSize: 128 << 10})
	want := describe(t, tr)
	same(t, "reader", want, read(t, path))
	sameMounted(t, tr, want, path)
}

func TestWriteProgress(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 2))
	tr := tree.New(0)
	total := int64(0)
	for i := range 20 {
		put(t, tr, fmt.Sprint(i), file(text(rng, 10_000*i)))
		total += int64(10_000 * i)
	}
	got := int64(0)
	if _, err := squashfs.Write(context.Background(), discard{}, tr, squashfs.Options{BlockSize: 4096}, func(n int64) { got += n }); err != nil {
		t.Fatal(err)
	}
	if got != total {
		t.Errorf("progress of %d bytes, want %d", got, total)
	}
}

type discard struct{}

func (discard) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }

// unsquashfs and Summary agree on the superblock.
func TestSummary(t *testing.T) {
	tr := randomTree(t, 9, 64<<10)
	for codec, want := range map[string]string{
		"zstd:3": "compression-level 3", "gzip:5": "compression-level 5", "lz4:2": "High Compression", "xz": "Compression xz",
	} {
		path, _ := write(t, tr, squashfs.Options{Compression: codec, BlockSize: 64 << 10, ModTime: 1_650_000_000})
		out := imagetest.Run(t, "unsquashfs", "-s", path)
		s := open(t, path).Summary()
		for _, want := range []string{want, "Block size 65536", fmt.Sprintf("Number of inodes %d\n", s.Inodes), fmt.Sprintf("Number of fragments %d\n", s.Fragments),
			fmt.Sprintf("Number of ids %d\n", s.IDs), "Filesystem is exportable via NFS", "Apr 15"} {
			if !strings.Contains(out, want) {
				t.Errorf("%s: unsquashfs does not print %q:\n%s", codec, want, out)
			}
		}
		if name, _, _ := strings.Cut(codec, ":"); s.Codec != name || s.BlockSize != 64<<10 || s.ModTime != 1_650_000_000 || s.BytesUsed == 0 {
			t.Errorf("%+v", s)
		}
	}
}

// mksquashfs stores equal values of xattrs out of line, which this writer does not.
func TestReadMksquashfs(t *testing.T) {
	imagetest.Long(t)
	imagetest.NeedRoot(t)
	mksquashfs := imagetest.Need(t, "mksquashfs")
	tr := randomTree(t, 11, 64<<10)
	path, _ := write(t, tr, squashfs.Options{})
	dir := filepath.Join(t.TempDir(), "root")
	imagetest.Run(t, "unsquashfs", "-no-progress", "-d", dir, path)
	shared := strings.Repeat("a value worth sharing ", 20)
	for i, name := range []string{"x1", "x2", "x3"} {
		at := filepath.Join(dir, name)
		if err := os.WriteFile(at, []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
		setxattr(t, at, "user.shared", shared)
		setxattr(t, at, fmt.Sprintf("user.own%d", i), name)
	}
	for _, codec := range []string{"gzip", "xz", "lz4", "zstd"} {
		for _, block := range []string{"4096", "1048576"} {
			out := filepath.Join(t.TempDir(), "theirs")
			imagetest.Run(t, mksquashfs, dir, out, "-comp", codec, "-b", block, "-no-progress", "-quiet")
			// mksquashfs makes an inode for each name of a symbolic link, so the mounted
			// file system is compared and not the directory.
			want, _ := treetest.Walk(t, mount(t, out))
			same(t, "reader", describe(t, want), read(t, out))
		}
	}
}
