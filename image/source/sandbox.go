package source

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"strconv"
)

// sandboxUser returns the user that apt downloads as if root runs it, or -1. apt falls back to
// root if that user cannot access the directory, as in a home directory with mode 0700.
func sandboxUser() int {
	if os.Geteuid() == 0 {
		if u, err := user.Lookup("_apt"); err == nil {
			if uid, err := strconv.Atoi(u.Uid); err == nil {
				return uid
			}
		}
	}
	return -1
}

// takeOver makes root the owner of a file that the user uid downloaded, before it is read. It
// must be a regular file.
func takeOver(file string, uid int) error {
	fi, err := os.Lstat(file)
	if err != nil {
		return err
	}
	if !fi.Mode().IsRegular() {
		return &fs.PathError{Op: "download", Path: file, Err: errors.New("not a regular file")}
	}
	if uid < 0 {
		return nil
	}
	if err := errors.Join(os.Lchown(file, 0, 0), os.Chmod(file, 0o644)); err != nil {
		return fmt.Errorf("apt-get download: %w", err)
	}
	return nil
}
