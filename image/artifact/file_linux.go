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

// handOver sees to it that after a power cut a name given next has all of the file, or is
// not there. On ext4 and XFS it is enough that the disk has taken the data: pages stop being
// under writeback after their extents are in the journal, which is written behind a flush of
// the disk's cache. To wait for a flush takes as long as the writing. On others, such as btrfs
// and overlayfs, nothing less than that will do.
func handOver(f *os.File) error {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil || fs.Type != unix.EXT4_SUPER_MAGIC && fs.Type != unix.XFS_SUPER_MAGIC {
		return f.Sync()
	}
	const all = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
	return os.NewSyscallError("sync_file_range", unix.SyncFileRange(int(f.Fd()), 0, 0, all))
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
