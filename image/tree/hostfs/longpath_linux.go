package hostfs

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// maxPath is what the kernel takes as one path, with some room.
const maxPath = 4000

// openLongPath is a path that the kernel takes in the place of one that may be too long for
// it, until it is released.
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
