package source

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"strconv"
)

// sandboxUser is the user that apt downloads as where root runs it. apt itself goes
// back to root where that user cannot reach the folder, as in a home that only its
// owner can enter.
type sandboxUser struct{ uid int } // -1 is none

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

// own gives a folder to the user, to download into.
func (s sandboxUser) own(dir string) error {
	if s.uid < 0 {
		return nil
	}
	return os.Lchown(dir, s.uid, 0)
}

// disown takes files that were downloaded away from the user, before anybody looks at
// what is in them. They must be regular ones.
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
