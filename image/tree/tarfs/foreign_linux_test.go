package tarfs_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"imgtool/image"
	"imgtool/image/imagetest"
	"imgtool/image/tree"
	"imgtool/image/tree/hostfs"
	"imgtool/image/tree/tarfs"
	"imgtool/image/tree/treetest"
)

func record(name, key, value string) tar.Header {
	e := treetest.Header(tar.TypeReg, name)
	e.PAXRecords = map[string]string{key: value}
	return e
}

func TestGlobalHeaders(t *testing.T) {
	d := t.TempDir()
	treetest.WriteFile(t, d+"/a", "1")
	treetest.WriteFile(t, d+"/d/b", "2")
	for _, name := range []string{"/a", "/d/b", "/d"} { // a fraction of a second would be in the extended header of each entry
		treetest.Must(t, os.Chtimes(d+name, time.Unix(1e9, 0), time.Unix(1e9, 0)))
	}
	path := filepath.Join(t.TempDir(), "g.tar")
	imagetest.Run(t, "tar", "--format=pax", "--pax-option=mtime=86400,comment=x", "-cf", path, "-C", d, "a", "d")
	got, err := fromTar(readAll(t, path))
	treetest.Must(t, err)
	if n := got.Lookup("a"); n.ModTime != 86400 {
		t.Errorf("a is of %d", n.ModTime)
	}
	x := t.TempDir()
	imagetest.Run(t, "tar", "-xpf", path, "-C", x)
	want, err := hostfs.Read(x, true, modTime)
	treetest.Must(t, err)
	for _, name := range []string{"a", "d", "d/b"} {
		if got.Lookup(name).ModTime != want.Lookup(name).ModTime {
			t.Errorf("%s is of %d, GNU tar has %d", name, got.Lookup(name).ModTime, want.Lookup(name).ModTime)
		}
	}

	// A path in a global header is ignored and reported.
	got, err = fromTar(treetest.Tar(t, tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "g", PAXRecords: map[string]string{"path": "x"}}, file("a", "1")))
	treetest.Must(t, err)
	if d := cmp.Diff([]tree.Loss{{What: "values of a global header", N: 1, First: "a (path)"}}, got.Losses()); d != "" || got.Lookup("a") == nil {
		t.Error(d)
	}
}

func readAll(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	treetest.Must(t, err)
	return data
}

func TestSELinuxLabels(t *testing.T) {
	const label = "system_u:object_r:etc_t:s0"
	data := treetest.Tar(t, record("gnu", "RHT.security.selinux", label), record("star", "SCHILY.xattr.security.selinux", label+"\x00"),
		tar.Header{Typeflag: tar.TypeReg, Name: "both", ModTime: time.Unix(1, 0), PAXRecords: map[string]string{"RHT.security.selinux": "other", "SCHILY.xattr.security.selinux": label + "\x00"}})
	path := filepath.Join(t.TempDir(), "x.tar")
	treetest.Must(t, os.WriteFile(path, data, 0o644))
	if out := imagetest.Run(t, "tar", "--selinux", "-tvvf", path); !strings.Contains(out, label) {
		t.Fatalf("GNU tar sees no label: %s", out)
	}
	got, err := fromTar(data)
	treetest.Must(t, err)
	for _, name := range []string{"gnu", "star", "both"} {
		if d := cmp.Diff([]tree.Xattr{{Name: "security.selinux", Value: label + "\x00"}}, got.Lookup(name).Xattrs); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
	if lost := got.Losses(); lost != nil {
		t.Errorf("lost %v", lost)
	}
}

func TestLosses(t *testing.T) {
	got, err := fromTar(treetest.Tar(t, record("a", "SCHILY.fflags", "schg"), record("b", "SCHILY.fflags", "nodump"), record("c", "SCHILY.acl.ace", "owner@:rw:allow"),
		record("d", "LIBARCHIVE.xattr.system%2enfs4_acl", "AAA="), record("e", "SCHILY.xattr.user.kept", "1"), record("f", "SCHILY.acl.access", "user::rw-\ngroup::r--\nother::r--\n")))
	treetest.Must(t, err)
	want := []tree.Loss{
		{What: "file flags", N: 2, First: "a (schg)"},
		{What: "NFSv4 access control lists", N: 1, First: "c"},
		{What: "extended attributes other than user., trusted. and security.", N: 1, First: "d (system.nfs4_acl)"},
	}
	if d := cmp.Diff(want, got.Losses()); d != "" {
		t.Error(d)
	}
}

func TestTrailingBytes(t *testing.T) {
	first, second := treetest.Tar(t, file("a", "1")), treetest.Tar(t, file("b", "2"))
	for name, c := range map[string]struct {
		data   []byte
		behind int64
	}{
		"a second tar":    {append(bytes.Clone(first), second...), int64(len(second))},
		"padding":         {append(bytes.Clone(first), make([]byte, 100_000)...), 0},
		"padding, a byte": {append(append(bytes.Clone(first), make([]byte, 100_000)...), 'x'), 1},
		"one zero block":  {append(bytes.Clone(first[:len(first)-512]), second...), int64(len(second))},
		"nothing":         {first, 0},
	} {
		got, err := fromTar(c.data)
		if err != nil || got.Lookup("a") == nil || got.Lookup("b") != nil || got.Trailing() != c.behind {
			t.Errorf("%s: %v, %d bytes, want %d", name, err, got.Trailing(), c.behind)
		}
	}
	// Many file systems begin with zeros, as an empty tar does.
	zeros := make([]byte, 10240)
	if got, err := fromTar(zeros); err != nil || got.Len() != 1 {
		t.Errorf("an empty tar: %v", err)
	}
	if _, err := fromTar(append(zeros, first...)); !errors.Is(err, tarfs.ErrNotTar) {
		t.Errorf("a tar behind an empty one: %v", err)
	}
}

func TestSparseFilesWithManyRuns(t *testing.T) {
	const pieces = 100_000 // more than fit in a header of 1 MiB, in every format
	d := t.TempDir()
	data := make([]byte, pieces*1024)
	for i := range pieces {
		data[i*1024+i%512] = byte(i%255 + 1)
	}
	treetest.Must(t, os.WriteFile(d+"/f", data, 0o644))
	treetest.Must(t, os.Truncate(d+"/f", int64(len(data))+1<<20)) // otherwise GNU tar does not look for holes
	want, err := hostfs.Read(d, false, modTime)
	treetest.Must(t, err)
	path := filepath.Join(t.TempDir(), "x.tar")
	for _, format := range [][]string{{"--format=gnu"}, {"--format=pax", "--sparse-version=0.0"}, {"--format=pax", "--sparse-version=0.1"}, {"--format=pax", "--sparse-version=1.0"}} {
		imagetest.Run(t, "tar", append(format, "--sparse", "--hole-detection=raw", "--owner=0", "--group=0", "-cf", path, "-C", d, ".")...)
		got, err := fromTar(readAll(t, path))
		if err != nil {
			t.Errorf("%v: %v", format, err)
			continue
		}
		if n := got.Lookup("f"); n.Content == nil || image.Hole(n.Content, 512) != 512 {
			t.Errorf("%v: the tar is not sparse", format)
		}
		if a, b := treetest.Digest(t, got), treetest.Digest(t, want); a != b {
			t.Errorf("%v: another file", format)
		}
	}
}
