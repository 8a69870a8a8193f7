package tree_test

import (
	"errors"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imgtool/image/tree"
)

func TestUnreadableFileIsFoundAtOnce(t *testing.T) {
	d := t.TempDir()
	must(t, os.Chmod(d, 0o755))
	write(t, d+"/etc/shadow", "x")
	must(t, os.Chmod(d+"/etc/shadow", 0))
	if os.Geteuid() == 0 {
		must(t, os.Chmod(d+"/..", 0o755))
		// One thread of ours is somebody else when it comes to files.
		runtime.LockOSThread()
		must(t, unix.Setfsuid(65534))
		defer func() { unix.Setfsuid(0); runtime.UnlockOSThread() }()
	}
	_, err := tree.FromDir(d, false, modTime)
	if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "etc/shadow") {
		t.Error(err)
	}
	if os.Geteuid() == 0 {
		unix.Setfsuid(0)
	}
	must(t, os.Chmod(d+"/etc/shadow", 0o600))
	must(t, os.Chmod(d+"/etc", 0o300))
	if os.Geteuid() == 0 {
		unix.Setfsuid(65534)
	}
	_, err = tree.FromDir(d, false, modTime)
	if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), d+"/etc") {
		t.Error(err)
	}
	os.Chmod(d+"/etc", 0o700)
}
