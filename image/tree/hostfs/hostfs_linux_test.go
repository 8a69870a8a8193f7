package hostfs_test

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imgtool/image/tree/hostfs"
	"imgtool/image/tree/treetest"
)

func TestReadRefusesUnreadableFiles(t *testing.T) {
	d := t.TempDir()
	treetest.Must(t, os.Chmod(d, 0o755))
	treetest.WriteFile(t, d+"/etc/shadow", "x")
	treetest.Must(t, os.Chmod(d+"/etc/shadow", 0))
	if os.Geteuid() == 0 {
		treetest.Must(t, os.Chmod(d+"/..", 0o755))
		// This thread accesses files as another user.
		runtime.LockOSThread()
		treetest.Must(t, unix.Setfsuid(65534))
		defer func() { unix.Setfsuid(0); runtime.UnlockOSThread() }()
	}
	_, err := hostfs.Read(d, false, modTime)
	if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "etc/shadow") {
		t.Error(err)
	}
	if os.Geteuid() == 0 {
		unix.Setfsuid(0)
	}
	treetest.Must(t, os.Chmod(d+"/etc/shadow", 0o600))
	treetest.Must(t, os.Chmod(d+"/etc", 0o300))
	if os.Geteuid() == 0 {
		unix.Setfsuid(65534)
	}
	_, err = hostfs.Read(d, false, modTime)
	if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), d+"/etc") {
		t.Error(err)
	}
	os.Chmod(d+"/etc", 0o700)
}

// ReadLive leaves out mounted file systems, and files that change keep their size.
func TestReadLive(t *testing.T) {
	dir := t.TempDir()
	for _, p := range []string{"proc", "var/log", "mnt"} {
		if err := os.MkdirAll(filepath.Join(dir, p), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	put := func(p, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, p), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put("proc/1", "x")
	put("var/log/a", "one two")
	put("var/log/b", "one two")
	put("var/log/c", "one two")
	put("var/log/d", "one two")
	if os.Geteuid() == 0 && unix.Mount("none", filepath.Join(dir, "mnt"), "tmpfs", 0, "") == nil {
		defer unix.Unmount(filepath.Join(dir, "mnt"), 0)
		put("mnt/x", "elsewhere")
	}
	var changed []string
	all, err := hostfs.ReadLive(dir, 0, func(p string) bool { return strings.HasPrefix(p, "proc/") }, func(p string) { changed = append(changed, p) })
	if err != nil {
		t.Fatal(err)
	}
	if all.Lookup("proc") == nil || all.Lookup("proc/1") != nil || all.Lookup("mnt") == nil || all.Lookup("mnt/x") != nil {
		t.Error("dropped paths or a mounted file system are in the tree, or their directories are missing")
	}
	put("var/log/b", "one two three")
	put("var/log/c", "one")
	os.Remove(filepath.Join(dir, "var/log/d"))
	for p, want := range map[string]string{"a": "one two", "b": "one two", "c": "one\x00\x00\x00\x00", "d": "\x00\x00\x00\x00\x00\x00\x00"} {
		got, err := io.ReadAll(io.NewSectionReader(all.Lookup("var/log/"+p).Content, 0, 7))
		if err != nil || string(got) != want {
			t.Errorf("%s is %q, %v, want %q", p, got, err, want)
		}
	}
	slices.Sort(changed)
	if got := strings.Join(slices.Compact(changed), " "); got != "var/log/b var/log/c var/log/d" {
		t.Errorf("changed are %s", got)
	}
}
