package hostfs

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// maxPath is somewhat less than PATH_MAX, the length of a path in a system call.
const maxPath = 4000

// openLongPath returns a path that is short enough for a system call and leads to path. It
// is valid until release is called.
func openLongPath(path string) (short string, release func(), err error) {
	if len(path) <= maxPath {
		return path, func() {}, nil
	}
	at, dir := unix.AT_FDCWD, filepath.Dir(path)
	for dir != "" {
		part := dir
		if len(dir) > maxPath {
			part = dir[:strings.LastIndexByte(dir[:maxPath], '/')]
		}
		next, err := unix.Openat(at, part, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if at != unix.AT_FDCWD {
			unix.Close(at)
		}
		if err != nil {
			return "", nil, &fs.PathError{Op: "open", Path: path, Err: err}
		}
		at, dir = next, strings.TrimPrefix(dir[len(part):], "/")
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", at, filepath.Base(path)), func() { unix.Close(at) }, nil
}
