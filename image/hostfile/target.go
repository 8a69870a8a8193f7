package hostfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Target is the path of the file that symbolic links lead to, which need not exist: what
// replaces a file by renaming another would else replace the link.
func Target(path string) (string, error) {
	for range 40 {
		to, err := os.Readlink(path)
		if errors.Is(err, fs.ErrNotExist) || err != nil && isNoLink(path) {
			return path, nil
		}
		if err != nil {
			return "", err
		}
		if !filepath.IsAbs(to) {
			// The directory may be a link itself.
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

func isNoLink(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode()&fs.ModeSymlink == 0
}
