package hostfs_test

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"imgtool/image/imagetest"
	"imgtool/image/tree/hostfs"
	"imgtool/image/tree/sums"
	"imgtool/image/tree/treetest"
)

const modTime = 1700000000

func TestReadDirectory(t *testing.T) {
	d := t.TempDir()
	stamp := func(names ...string) {
		for _, n := range names {
			ts := unix.Timespec{Sec: 100, Nsec: 999999999}
			treetest.Must(t, unix.UtimesNanoAt(unix.AT_FDCWD, d+"/"+n, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
		}
	}
	treetest.WriteFile(t, d+"/f", "data")
	treetest.WriteFile(t, d+"/d/e", "")
	treetest.Must(t, os.Link(d+"/f", d+"/d/f"))
	treetest.Must(t, os.Symlink("nowhere", d+"/l"))
	treetest.Must(t, os.Link(d+"/l", d+"/l2"))
	treetest.Must(t, unix.Mkfifo(d+"/p", 0o600))
	s, err := net.Listen("unix", d+"/s")
	treetest.Must(t, err)
	defer s.Close()
	treetest.Must(t, os.Chmod(d+"/s", 0o700))
	treetest.Must(t, unix.Chmod(d+"/f", 0o6711))
	treetest.Must(t, os.Chmod(d, 0o700))
	stamp("f", "d/e", "d", "l", "p", "s", "")
	want := "/ 40700 0:0 @100\nd 40755 0:0 @100\nd/e 100644 0:0 @100 \"\"\nd/f 106711 0:0 @100 \"data\"\nf = d/f\n" +
		"l 120777 0:0 @100 -> nowhere\nl2 = l\np 10600 0:0 @100\ns 140700 0:0 @100\n"
	link := t.TempDir() + "/link"
	treetest.Must(t, os.Symlink(d, link))
	for _, name := range []string{d, link} {
		tr, err := hostfs.Read(name, false, modTime)
		treetest.Must(t, err)
		if d := cmp.Diff(want, treetest.Dump(t, tr)); d != "" {
			t.Error(d)
		}
	}
}

func TestReadOwnersAndDevices(t *testing.T) {
	imagetest.NeedRoot(t)
	d := t.TempDir()
	treetest.Must(t, unix.Mknod(d+"/b", unix.S_IFBLK|0o660, int(unix.Mkdev(259, 70000))))
	treetest.Must(t, os.Chmod(d+"/b", 0o660))
	treetest.Must(t, os.Chown(d+"/b", 1, 4000000000))
	treetest.Must(t, unix.Lsetxattr(d+"/b", "trusted.x", []byte("v"), 0))
	treetest.Must(t, unix.Lsetxattr(d+"/b", "security.y", []byte("\x00w"), 0))
	treetest.Must(t, os.Chtimes(d+"/b", time.Unix(1, 0), time.Unix(1, 0)))
	for keep, want := range map[bool]string{true: "1:4000000000", false: "0:0"} {
		tr, err := hostfs.Read(d, keep, modTime)
		treetest.Must(t, err)
		_, got, _ := strings.Cut(treetest.Dump(t, tr), "\n")
		if d := cmp.Diff("b 60660 "+want+" @1 259,70000 security.y=\"\\x00w\" trusted.x=\"v\"\n", got); d != "" {
			t.Error(d)
		}
	}
}

func TestChangedFilesAreDetected(t *testing.T) {
	d := t.TempDir()
	for name, change := range map[string]func(path string) error{
		"shorter":    func(p string) error { return os.Truncate(p, 10) },
		"longer":     func(p string) error { return os.Truncate(p, 5000) },
		"other":      func(p string) error { return os.WriteFile(p, []byte(strings.Repeat("y", 4000)), 0o644) },
		"gone":       os.Remove,
		"not a file": func(p string) error { os.Remove(p); return os.Mkdir(p, 0o755) },
		"a fifo":     func(p string) error { os.Remove(p); return unix.Mkfifo(p, 0o644) },
		"a link":     func(p string) error { os.Rename(p, p+".old"); return os.Symlink(p+".old", p) },
	} {
		path := d + "/file"
		os.RemoveAll(path)
		treetest.WriteFile(t, path, strings.Repeat("x", 4000))
		treetest.Must(t, os.Chtimes(path, time.Unix(1, 0), time.Unix(1, 0)))
		tr, err := hostfs.Read(d, false, modTime)
		treetest.Must(t, err)
		treetest.Digest(t, tr)
		treetest.Must(t, change(path))
		_, _, err = sums.Digest(t.Context(), tr, sums.Options{})
		if err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
		if name == "shorter" && !strings.Contains(err.Error(), "4000 bytes, then 10") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestReadKeepsNoDescriptors(t *testing.T) {
	d := t.TempDir()
	for _, n := range strings.Fields("a b c d e f") {
		treetest.WriteFile(t, d+"/"+n, n)
	}
	open := func() int { e, _ := os.ReadDir("/dev/fd"); return len(e) }
	before := open()
	tr, err := hostfs.Read(d, false, modTime)
	treetest.Must(t, err)
	treetest.Digest(t, tr)
	if n := open(); n != before {
		t.Errorf("%d descriptors, %d before", n, before)
	}
	if _, err := hostfs.Read(d+"/a", false, modTime); err == nil || !strings.Contains(err.Error(), "not a directory") {
		t.Error(err)
	}
	if _, err := hostfs.Read(d+"/nope", false, modTime); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}
