package receipt

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// reserve allocates n bytes after the end of a file if the file system supports that.
func reserve(f *os.File, end, n int64) error {
	err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, end, n)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return nil
	}
	return err
}
