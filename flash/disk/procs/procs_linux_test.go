package procs_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imgtool/flash/disk/procs"
	"imgtool/image/imagetest"
)

// process creates the files of a process in a directory like /proc: its mount namespace,
// its root directory and its mounts.
func process(t *testing.T, proc string, pid int, namespace, root, mountinfo string) {
	t.Helper()
	dir := filepath.Join(proc, fmt.Sprint(pid))
	if err := errors.Join(os.MkdirAll(dir+"/ns", 0o755), os.MkdirAll(dir+"/fd", 0o755), os.Symlink("mnt:["+namespace+"]", dir+"/ns/mnt"),
		os.Symlink(root, dir+"/root"), os.WriteFile(dir+"/mountinfo", []byte(mountinfo), 0o644)); err != nil {
		t.Fatal(err)
	}
}

func openRead(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// The lines are of the form that Linux 6.12 shows for an EROFS image mounted from a file.
func TestMountedAt(t *testing.T) {
	dir := t.TempDir()
	file, other := filepath.Join(dir, "disk"), filepath.Join(dir, "other")
	for _, path := range []string{file, other} {
		if err := os.WriteFile(path, make([]byte, 4096), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	line := func(dev, source, fsType string) string {
		return fmt.Sprintf("22 1 253:0 / / rw - ext4 /dev/vda1 rw\n90 22 %s / /mnt/x ro,relatime - %s %s ro\n", dev, fsType, source)
	}
	for name, c := range map[string]struct {
		root, mounts string
		want         string
	}{
		"by its path":                    {"/", line("0:44", file, "erofs"), "/mnt/x"},
		"in another root directory":      {dir, line("0:44", "/disk", "erofs"), "/mnt/x"},
		"another file":                   {"/", line("0:44", other, "erofs"), ""},
		"a loop device":                  {"/", line("7:1", file, "erofs"), ""},
		"another file system":            {"/", line("0:44", file, "tmpfs"), ""},
		"a relative name, not in use":    {"/", line("0:44", "disk", "erofs"), ""},
		"a removed file, f not in use":   {"/", line("0:44", file+".gone", "erofs"), ""},
		"mountinfo that cannot be read ": {"/", "22 1\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			proc := t.TempDir()
			process(t, proc, 7, "1", t.TempDir(), "")
			process(t, proc, 8, "2", c.root, c.mounts)
			if got := procs.MountedIn(proc, openRead(t, file)); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}

	// A mount of a relative name is of the file if it is in use by no process.
	proc := t.TempDir()
	process(t, proc, 8, "1", "/", line("0:44", "disk", "erofs"))
	held := openRead(t, file)
	if got := procs.MountedIn(proc, openRead(t, file)); got != "/mnt/x" {
		t.Errorf("a relative name, and the file is in use: %q", got)
	}
	if err := os.Symlink(file, filepath.Join(proc, "8/fd/3")); err != nil {
		t.Fatal(err)
	}
	if got := procs.MountedIn(proc, openRead(t, file)); got != "" {
		t.Errorf("a relative name, and a process has the file open: %q", got)
	}
	held.Close()
}

func TestUsersOf(t *testing.T) {
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, make([]byte, 4096), 0o644); err != nil {
		t.Fatal(err)
	}
	if users := procs.UsersOf(openRead(t, file)); users != nil {
		t.Errorf("no users: %q", users)
	}
	// This process does not count as a user, but the kernel sees its descriptor.
	w, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if users := procs.UsersOf(openRead(t, file)); len(users) != 1 || !strings.Contains(users[0], "the kernel does not tell which") {
		t.Errorf("open for writing: %q", users)
	}
	w.Close()
	locked := openRead(t, file)
	if err := unix.FcntlFlock(locked.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_RDLCK, Start: 100, Len: 1}); err != nil {
		t.Fatal(err)
	}
	if users := procs.UsersOf(openRead(t, file)); len(users) != 1 || !strings.Contains(users[0], "has locked a part of it") {
		t.Errorf("locked: %q", users)
	}
}

func TestWriters(t *testing.T) {
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	id, known := procs.IDOf(info)
	if !known {
		t.Fatal("the identity of a file is unknown")
	}
	is := func(o procs.Open) bool { return o.File == id }
	if slices.ContainsFunc(procs.Writers(), is) {
		t.Error("a file that is not open has a writer")
	}
	writer, stop := imagetest.Hold(t, `import os,sys; f = os.open(sys.argv[1], os.O_WRONLY)`, file)
	all := procs.Writers()
	i := slices.IndexFunc(all, is)
	if i < 0 || all[i].PID != writer || all[i].Use != "has it open for writing" || all[i].Device != 0 {
		t.Errorf("%+v", all)
	}
	stop()
	if slices.ContainsFunc(procs.Writers(), is) {
		t.Error("a process that has ended is a writer")
	}
}
