package squashfs_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"imgtool/image/imagetest"
	"imgtool/image/squashfs"
	"imgtool/image/tree"
	"imgtool/image/tree/sums"
	"imgtool/image/tree/tarfs"
)

// The reader, the kernel, unsquashfs and sqfs2tar agree on owners, times, attributes,
// links and content of random trees.
func TestWriteGeneratedTrees(t *testing.T) {
	imagetest.NeedRoot(t)
	seeds := uint64(6)
	if os.Getenv("SOAK") != "" {
		seeds = 1000
	}
	codecs := []string{"zstd", "gzip:1", "lz4", "xz", "zstd"}
	for seed := range seeds {
		rng := rand.New(rand.NewPCG(seed, 7))
		block := 4096 << rng.IntN(9)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			tr := randomTree(t, 1000+seed, block)
			codec := codecs[rng.IntN(len(codecs))]
			if codec == "zstd" {
				codec = fmt.Sprintf("zstd:%d", 1+rng.IntN(zstdMax()))
			}
			opt := squashfs.Options{Compression: codec, BlockSize: block, Packed: seed%5 == 4}
			path, _ := write(t, tr, opt)
			want := describe(t, tr)
			same(t, "reader", want, read(t, path))
			sameMounted(t, tr, want, path)
			unsquash(t, want, path)
			sqfs2tar(t, tr, opt)
		})
	}
}

// zstdMax is the highest level of zstd.
func zstdMax() int {
	for level := 22; ; level-- {
		if (squashfs.Options{Compression: fmt.Sprintf("zstd:%d", level)}).Check() == nil {
			return level
		}
	}
}

// sqfs2tar compares with the tar that sqfs2tar makes, without sockets: for a socket
// with a long name, sqfs2tar writes only the name, which the next file then gets.
func sqfs2tar(t testing.TB, tr *tree.Tree, opt squashfs.Options) {
	t.Helper()
	tr = tr.Without(func(p string) bool { return tr.Lookup(p).Type() == tree.Socket })
	path, _ := write(t, tr, opt)
	data := []byte(imagetest.Run(t, "sqfs2tar", path))
	got, err := tarfs.Read(bytes.NewReader(data), int64(len(data)), 0)
	if err != nil {
		t.Fatal(err)
	}
	// The tar has no entry for the root.
	if err := got.Put("", tr.Lookup("")); err != nil {
		t.Fatal(err)
	}
	same(t, "sqfs2tar", describe(t, tr), got)
}

// Some thousand files of /usr and /etc, or the tar that ROOTFS names, come back as the
// same tree, by its digest and by the listing of unsquashfs.
func TestWriteRootFileSystem(t *testing.T) {
	imagetest.NeedRoot(t)
	from := os.Getenv("ROOTFS")
	if from == "" {
		from = filepath.Join(t.TempDir(), "rootfs.tar")
		args := []string{"--format=pax", "--xattrs", "--xattrs-include=*", "-C", "/", "-cf", from}
		for _, dir := range []string{"etc", "usr/sbin", "usr/share/perl5", "usr/share/zoneinfo"} {
			if _, err := os.Stat("/" + dir); err == nil {
				args = append(args, dir)
			}
		}
		imagetest.Run(t, "tar", args...)
	}
	f, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	tr, err := tarfs.Read(f, info.Size(), 1_700_000_000)
	if err != nil {
		t.Fatal(err)
	}
	tr, _, _ = tr.WithoutXattrs(func(name string) bool { return strings.HasPrefix(name, "system.") })
	want, _, err := sums.Digest(t.Context(), tr, sums.Options{})
	if err != nil {
		t.Fatal(err)
	}
	path, _ := write(t, tr, squashfs.Options{Compression: "zstd:1"})
	back := read(t, path)
	if got, _, err := sums.Digest(context.Background(), back, sums.Options{}); err != nil || got != want {
		t.Errorf("the digest of the tree read back is %s, %v, want %s", got, err, want)
	}
	for c, err := range tree.Diff(t.Context(), tr, back, nil) {
		t.Errorf("%s: %v %v", c.Path, c.What, err)
		break
	}
	lines := strings.Split(strings.TrimSpace(imagetest.Run(t, "unsquashfs", "-lln", path)), "\n")
	listed := map[string]bool{}
	for _, l := range lines {
		if _, name, ok := strings.Cut(l, " squashfs-root"); ok {
			listed[l[:10]+" "+strings.Fields(l)[1]+name] = true
		}
	}
	missing := 0
	for p, n := range tr.All() {
		line := fmt.Sprintf("%s %d/%d", modeOf(n.Mode), n.UID, n.GID)
		if p != "" {
			line += "/" + p
		}
		if n.Type() == tree.Symlink {
			line += " -> " + n.Target
		}
		if !listed[line] {
			if missing++; missing < 4 {
				t.Errorf("unsquashfs does not list %q", line)
			}
		}
	}
	t.Logf("%d paths, %d lines of unsquashfs", tr.Len(), len(lines))
	if tr.Len() < 500 {
		t.Errorf("only %d paths", tr.Len())
	}
	sqfs2tarDigest(t, tr, path)
}

// sqfs2tarDigest is sqfs2tar for large trees.
func sqfs2tarDigest(t testing.TB, tr *tree.Tree, path string) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "out.tar")
	imagetest.Run(t, "sh", "-c", fmt.Sprintf("sqfs2tar %q > %q", path, out))
	f, err := os.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	size, _ := f.Seek(0, io.SeekEnd)
	got, err := tarfs.Read(f, size, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := got.Put("", tr.Lookup("")); err != nil {
		t.Fatal(err)
	}
	for c, err := range tree.Diff(t.Context(), tr, got, nil) {
		t.Errorf("sqfs2tar: %s: %v %v", c.Path, c.What, err)
		break
	}
}

// modeOf formats a mode like ls.
func modeOf(mode uint32) string {
	b := []byte("?rwxrwxrwx")
	b[0] = map[uint32]byte{tree.Regular: '-', tree.Dir: 'd', tree.Symlink: 'l', tree.CharDev: 'c', tree.BlockDev: 'b', tree.Fifo: 'p', tree.Socket: 's'}[mode&tree.TypeMask]
	for i := range 9 {
		if mode>>(8-i)&1 == 0 {
			b[i+1] = '-'
		}
	}
	for i, c := range []byte("sst") {
		if mode>>(11-i)&1 != 0 {
			if at := 3 * (i + 1); b[at] == 'x' {
				b[at] = c
			} else {
				b[at] = c - 'a' + 'A'
			}
		}
	}
	return string(b)
}
