package artifact

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// again is a path of an open file, also of one without a name.
func again(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

// openUnnamed makes a file in the folder of path that has no name yet, or is nil where
// it cannot be given one later.
func openUnnamed(path string) *os.File {
	fd, err := unix.Open(filepath.Dir(path), unix.O_RDWR|unix.O_TMPFILE|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil
	}
	f := os.NewFile(uintptr(fd), path)
	if _, err := os.Stat(again(f)); err != nil {
		f.Close()
		return nil
	}
	return f
}

// startWriting has the disk begin with what was written, so that in the end there is
// little to wait for.
func startWriting(f *os.File, off, n int64) {
	unix.SyncFileRange(int(f.Fd()), off, n, unix.SYNC_FILE_RANGE_WRITE)
}

func link(f *os.File, name string) error {
	if err := unix.Linkat(unix.AT_FDCWD, again(f), unix.AT_FDCWD, name, unix.AT_SYMLINK_FOLLOW); err != nil {
		return &os.LinkError{Op: "link", Old: f.Name(), New: name, Err: err}
	}
	return nil
}

// openDirect opens a file that is being written once more, without the page
// cache. Not every file system has it.
func openDirect(f *os.File) (*os.File, error) {
	return os.OpenFile(again(f), os.O_WRONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
}
