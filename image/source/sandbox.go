package source

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"strconv"
)

// sandboxUser is the user that apt downloads as if root runs it. apt falls back to root if
// that user cannot access the directory, as in a home directory with mode 0700.
type sandboxUser struct{ uid int } // -1 for none

func sandbox() sandboxUser {
	if os.Geteuid() == 0 {
		if u, err := user.Lookup("_apt"); err == nil {
			if uid, err := strconv.Atoi(u.Uid); err == nil {
				return sandboxUser{uid}
			}
		}
	}
	return sandboxUser{-1}
}

// own makes the user the owner of a download directory.
func (s sandboxUser) own(dir string) error {
	if s.uid < 0 {
		return nil
	}
	return os.Lchown(dir, s.uid, 0)
}

// disown makes root the owner of downloaded files before they are read. They must be regular
// files.
func (s sandboxUser) disown(files []string) error {
	for _, file := range files {
		fi, err := os.Lstat(file)
		if err != nil {
			return err
		}
		if !fi.Mode().IsRegular() {
			return &fs.PathError{Op: "download", Path: file, Err: errors.New("not a regular file")}
		}
		if s.uid < 0 {
			continue
		}
		if err := errors.Join(os.Lchown(file, 0, 0), os.Chmod(file, 0o644)); err != nil {
			return fmt.Errorf("apt-get download: %w", err)
		}
	}
	return nil
}
