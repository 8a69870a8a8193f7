package artifact

import (
	"errors"
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

// handOver has the disk take all that was written. Whether it is in its cache or beyond
// that, it has it before the name: a file system that has files without names writes its
// journal behind a flush. To wait for one takes as long as the writing.
func handOver(f *os.File) error {
	const all = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
	err := unix.SyncFileRange(int(f.Fd()), 0, 0, all)
	if errors.Is(err, errors.ErrUnsupported) {
		return f.Sync()
	}
	return err
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
