package main

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// reserve sees to it that there is room for n bytes behind the end of a file, where the
// file system can do that.
func reserve(f *os.File, end, n int64) error {
	err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, end, n)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return nil
	}
	return err
}

// release gives back what was reserved and not used.
func release(f *os.File) {
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
		f.Truncate(info.Size())
	}
}
