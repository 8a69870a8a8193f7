package tarfs_test

import (
	"archive/tar"
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"imgtool/image"
	"imgtool/image/imagetest"
	"imgtool/image/tree"
	"imgtool/image/tree/hostfs"
	"imgtool/image/tree/tarfs"
	"imgtool/image/tree/treetest"
)

// counting counts the bytes read from it.
type counting struct {
	io.ReaderAt
	n atomic.Int64
}

func (c *counting) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.ReaderAt.ReadAt(p, off)
	c.n.Add(int64(n))
	return n, err
}

// Only the data of a sparse file of 100 GiB are read, from a directory and from every
// sparse format of tars.
func TestHolesOfLargeFilesAreNotRead(t *testing.T) {
	const size = 100 << 30
	d := t.TempDir()
	f, err := os.Create(d + "/disk")
	treetest.Must(t, err)
	pieces := map[int64]string{}
	for i := range int64(40) {
		at := i*i*63_000_000 + 4096*i
		pieces[at] = fmt.Sprintf("piece %d", i)
		_, err := f.WriteAt([]byte(pieces[at]), at)
		treetest.Must(t, err)
	}
	if err := f.Truncate(size); err != nil {
		imagetest.Skip(t, "no file of %d bytes can be here: %v", int64(size), err)
	}
	treetest.Must(t, f.Close())
	check := func(name string, tr *tree.Tree) string {
		t.Helper()
		n := tr.Lookup("disk")
		if n.Size() != size {
			t.Fatalf("%s: %d bytes", name, n.Size())
		}
		data := int64(0)
		for off := int64(0); off < size; {
			if hole := image.Hole(n.Content, off); hole > 0 {
				off += hole
				continue
			}
			off, data = off+4096, data+4096
		}
		if data > 1<<20 {
			t.Errorf("%s: %d bytes of data", name, data)
		}
		for at, want := range pieces {
			got := make([]byte, 100)
			if _, err := n.Content.ReadAt(got, at-10); err != nil && err != io.EOF && at > 10 {
				t.Fatal(err)
			}
			if at > 10 && string(bytes.Trim(got, "\x00")) != want {
				t.Errorf("%s: %q at %d, not %q", name, got, at, want)
			}
		}
		last := make([]byte, 100)
		if k, err := n.Content.ReadAt(last, size-50); k != 50 || err != io.EOF {
			t.Errorf("%s: %d bytes at the end, %v", name, k, err)
		}
		return treetest.Digest(t, tr)
	}
	directory, err := hostfs.Read(d, false, modTime)
	treetest.Must(t, err)
	want := check("directory", directory)
	for _, format := range [][]string{
		{"--format=gnu"}, {"--format=pax", "--sparse-version=0.0"}, {"--format=pax", "--sparse-version=0.1"}, {"--format=pax", "--sparse-version=1.0"},
	} {
		path := filepath.Join(t.TempDir(), "x.tar")
		imagetest.Run(t, "tar", append(format, "--sparse", "--owner=0", "--group=0", "-cf", path, "-C", d, ".")...)
		file, err := os.Open(path)
		treetest.Must(t, err)
		defer file.Close()
		info, err := file.Stat()
		treetest.Must(t, err)
		r := &counting{ReaderAt: file}
		tr, err := tarfs.Read(r, info.Size(), modTime)
		treetest.Must(t, err)
		if got := check(fmt.Sprint(format), tr); got != want {
			t.Errorf("%v: another digest than the directory's", format)
		}
		if n := r.n.Load(); n > 100<<20 {
			t.Errorf("%v: %d bytes were read", format, n)
		}
	}
}

// deep makes nested directories, with a file in each, until paths have length bytes.
func deep(t testing.TB, dir string, length int) {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	treetest.Must(t, err)
	for at := 0; ; {
		file, err := unix.Openat(fd, "f", unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
		treetest.Must(t, err)
		unix.Write(file, fmt.Append(nil, at))
		unix.Close(file)
		treetest.Must(t, unix.Symlinkat("f", fd, "l"))
		n := min(255, length-at-2)
		if n < 1 {
			break
		}
		name := strings.Repeat("d", n)
		treetest.Must(t, unix.Mkdirat(fd, name, 0o755))
		next, err := unix.Openat(fd, name, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		treetest.Must(t, err)
		unix.Close(fd)
		fd, at = next, at+n+1
	}
	unix.Close(fd)
}

// Paths in a tree have up to 4096 bytes, even if the path on the host is too long for a
// system call.
func TestLongPaths(t *testing.T) {
	d := t.TempDir()
	deep(t, d, 4096)
	directory, err := hostfs.Read(d, false, modTime)
	treetest.Must(t, err)
	longest := 0
	for p := range directory.All() {
		longest = max(longest, len(p))
	}
	if longest != 4096 {
		t.Errorf("the longest path has %d bytes", longest)
	}
	for _, format := range []string{"gnu", "pax"} {
		path := filepath.Join(t.TempDir(), "x.tar")
		imagetest.Run(t, "tar", "--format="+format, "--owner=0", "--group=0", "-cf", path, "-C", d, ".")
		data, err := os.ReadFile(path)
		treetest.Must(t, err)
		tr, err := fromTar(data)
		treetest.Must(t, err)
		if a, b := treetest.Digest(t, tr), treetest.Digest(t, directory); a != b {
			t.Errorf("%s: %.3000s", format, cmp.Diff(treetest.Dump(t, directory), treetest.Dump(t, tr)))
		}
	}
	read := 0
	for p, n := range directory.All() {
		if strings.HasSuffix(p, "/f") && len(p) > 4000 {
			read++
			if got := treetest.Contents(t, n); got == "" {
				t.Errorf("a file at %d bytes of path is empty", len(p))
			}
		}
	}
	if read == 0 {
		t.Error("no file has a long path")
	}
	over := t.TempDir()
	deep(t, over, 4400)
	if _, err := hostfs.Read(over, false, modTime); err == nil || !strings.Contains(err.Error(), "is longer than 4096") {
		t.Errorf("%.300v", err)
	}
}

// A name can have 255 bytes, of all values but slash and zero.
func TestNamesWithAllBytes(t *testing.T) {
	d := t.TempDir()
	rng := rand.New(rand.NewPCG(1, 2))
	for b := 1; b < 256; b++ {
		if b == '/' {
			continue
		}
		name := string([]byte{byte(b)})
		if b == '.' {
			name = ".." + name
		}
		treetest.Must(t, os.WriteFile(filepath.Join(d, "x"+name), []byte(name), 0o644))
	}
	for i := range 20 {
		name := make([]byte, 255)
		for j := range name {
			for name[j] == 0 || name[j] == '/' {
				name[j] = byte(rng.Uint32())
			}
		}
		treetest.Must(t, os.Mkdir(d+"/"+string(name), 0o755))
		treetest.Must(t, os.WriteFile(d+"/"+string(name)+"/"+string(name), fmt.Append(nil, i), 0o644))
		treetest.Must(t, os.Link(d+"/"+string(name)+"/"+string(name), d+"/"+string(name)+"/hard"))
		treetest.Must(t, os.Symlink(string(name), d+"/"+string(name)+"/soft"))
	}
	directory, err := hostfs.Read(d, false, modTime)
	treetest.Must(t, err)
	for _, args := range [][]string{
		{"tar", "--format=gnu"}, {"tar", "--format=pax"}, {"bsdtar", "--format=pax"}, {"bsdtar", "--format=gnutar"},
	} {
		path := filepath.Join(t.TempDir(), "x.tar")
		more := []string{"--owner=0", "--group=0"}
		if args[0] == "bsdtar" {
			more = []string{"--uid=0", "--gid=0"}
			// It converts names from the locale.
			t.Setenv("LC_ALL", "C")
		}
		imagetest.Run(t, args[0], append(append(args[1:], more...), "-cf", path, "-C", d, ".")...)
		data, err := os.ReadFile(path)
		treetest.Must(t, err)
		tr, err := fromTar(data)
		treetest.Must(t, err)
		if a, b := treetest.Digest(t, tr), treetest.Digest(t, directory); a != b {
			t.Errorf("%v: %.3000s", args, cmp.Diff(treetest.Dump(t, directory), treetest.Dump(t, tr)))
		}
	}
}

// Tars written by bsdtar are read correctly, and tars written by GNU tar are read as bsdtar
// extracts them.
func TestBsdtar(t *testing.T) {
	imagetest.NeedRoot(t)
	d := everything(t)
	treetest.Must(t, unix.Lsetxattr(d+"/etc/passwd", "user.a=b%c", []byte("a=b\x00c"), 0))
	treetest.Must(t, unix.Setxattr(d+"/bin/su", "security.capability", []byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0))
	hole, err := os.Create(d + "/hole")
	treetest.Must(t, err)
	_, err = hole.WriteAt([]byte("end"), 1<<20)
	treetest.Must(t, err)
	treetest.Must(t, hole.Close())
	treetest.Must(t, os.Chtimes(d+"/hole", time.Unix(5, 0), time.Unix(5, 0)))
	// bsdtar writes a time before 1970 with a fraction a second too early.
	treetest.Must(t, os.Chtimes(d+"/tmp", time.Unix(-2, 0), time.Unix(-2, 0)))
	want, err := hostfs.Read(d, true, modTime)
	treetest.Must(t, err)
	path := filepath.Join(t.TempDir(), "x.tar")
	imagetest.Run(t, "bsdtar", "--format=pax", "--xattrs", "-cf", path, "-C", d, ".")
	data, err := os.ReadFile(path)
	treetest.Must(t, err)
	got, err := fromTar(data)
	treetest.Must(t, err)
	if d := cmp.Diff(treetest.Dump(t, want), treetest.Dump(t, got)); d != "" {
		t.Error(d)
	}
	// bsdtar does not know how GNU tar escapes these characters.
	treetest.Must(t, unix.Lremovexattr(d+"/etc/passwd", "user.a=b%c"))
	imagetest.Run(t, "tar", "--format=pax", "--sparse", "--xattrs", "--xattrs-include=*", "-cf", path, "-C", d, ".")
	data, err = os.ReadFile(path)
	treetest.Must(t, err)
	got, err = fromTar(data)
	treetest.Must(t, err)
	x := t.TempDir()
	imagetest.Run(t, "bsdtar", "--xattrs", "-xpf", path, "-C", x)
	// bsdtar does not set the time of the directory it extracts into.
	root := time.Unix(got.Lookup("").ModTime, 0)
	treetest.Must(t, os.Chtimes(x, root, root))
	if want, err = hostfs.Read(x, true, modTime); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(treetest.Dump(t, want), treetest.Dump(t, got)); d != "" {
		t.Error("bsdtar extracts another tree:", d)
	}
}

// Access control lists in text form become the extended attributes of the kernel.
func TestAccessControlLists(t *testing.T) {
	imagetest.NeedRoot(t)
	d := t.TempDir()
	treetest.WriteFile(t, d+"/plain", "")
	treetest.WriteFile(t, d+"/f", "")
	treetest.Must(t, os.Mkdir(d+"/dir", 0o750))
	imagetest.Run(t, "setfacl", "-m", "u:54321:r,u:54320:rw,g:4000000:x,m:rx", d+"/f")
	imagetest.Run(t, "setfacl", "-m", "g:54320:rx,d:g:54320:rwx,d:u:54321:-", d+"/dir")
	want, err := hostfs.Read(d, true, modTime)
	treetest.Must(t, err)
	if !strings.Contains(treetest.Dump(t, want), tree.ACL) || !strings.Contains(treetest.Dump(t, want), tree.DefaultACL) {
		t.Fatal("the file system does not keep access control lists")
	}
	for _, args := range [][]string{{"tar", "--acls", "--numeric-owner", "--format=pax"}, {"bsdtar", "--acls", "--format=pax"}, {"bsdtar", "--acls", "--numeric-owner", "--format=pax"}} {
		path := filepath.Join(t.TempDir(), "x.tar")
		imagetest.Run(t, args[0], append(args[1:], "-cf", path, "-C", d, ".")...)
		data, err := os.ReadFile(path)
		treetest.Must(t, err)
		got, err := fromTar(data)
		treetest.Must(t, err)
		if d := cmp.Diff(treetest.Dump(t, want), treetest.Dump(t, got)); d != "" {
			t.Errorf("%v: %s", args, d)
		}
		if lost := got.Losses(); len(lost) != 0 {
			t.Errorf("%v: lost %v", args, lost)
		}
	}
	// GNU tar writes numeric IDs only of users that have no name on this machine. A list with
	// names alone is lost and reported.
	path := filepath.Join(t.TempDir(), "x.tar")
	treetest.Must(t, os.WriteFile(path, treetest.Tar(t, tar.Header{Typeflag: tar.TypeReg, Name: "a", PAXRecords: map[string]string{"SCHILY.acl.access": "user::rw-\nuser:alice:r--\ngroup::r--\nmask::r--\nother::---\n"}}), 0o644))
	data, err := os.ReadFile(path)
	treetest.Must(t, err)
	got, err := fromTar(data)
	treetest.Must(t, err)
	if lost := got.Losses(); len(lost) != 1 || lost[0] != (tree.Loss{What: "access control lists", N: 1, First: "a (an access control list with names and no numbers)"}) {
		t.Errorf("lost %v", lost)
	}
}

// A tree takes at most 200 bytes of memory for each file.
func TestMemoryPerFile(t *testing.T) {
	const files = 100_000
	path := filepath.Join(t.TempDir(), "x.tar")
	f, err := os.Create(path)
	treetest.Must(t, err)
	defer f.Close()
	b := bufio.NewWriter(f)
	w := tar.NewWriter(b)
	for i := range files {
		h := file(fmt.Sprintf("usr/share/package-%03d/part%02d/file-%06d.txt", i/1000, i/50%20, i), "x")
		h.Uname = ""
		treetest.Must(t, w.WriteHeader(&h))
		w.Write([]byte("x"))
	}
	treetest.Must(t, w.Close())
	treetest.Must(t, b.Flush())
	info, err := f.Stat()
	treetest.Must(t, err)
	live := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := live()
	tr, err := tarfs.Read(f, info.Size(), modTime)
	treetest.Must(t, err)
	if each := (live() - before) / int64(tr.Len()); each > 200 {
		t.Errorf("%d bytes for each file of a tar", each)
	} else {
		t.Logf("%d bytes for each file of a tar", each)
	}
	runtime.KeepAlive(tr)
}
