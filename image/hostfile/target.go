package hostfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Target follows symbolic links and returns the path of the file, which need not exist. A
// program that replaces a file by renaming another needs it to keep the links.
func Target(path string) (string, error) {
	for range 40 {
		to, err := os.Readlink(path)
		if errors.Is(err, fs.ErrNotExist) || err != nil && !isLink(path) {
			return path, nil
		}
		if err != nil {
			return "", err
		}
		if !filepath.IsAbs(to) {
			// The directory may be a symbolic link.
			dir, err := filepath.EvalSymlinks(filepath.Dir(path))
			if err != nil {
				return "", err
			}
			to = filepath.Join(dir, to)
		}
		path = to
	}
	return "", fmt.Errorf("%s: too many symbolic links", path)
}

func isLink(path string) bool {
	info, err := os.Lstat(path)
	return err != nil || info.Mode()&fs.ModeSymlink != 0
}
