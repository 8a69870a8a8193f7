package pending

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxName is the number of bytes of a file's name that are in the name of its part, so that the
// whole name is within the limit of file systems, 255.
const maxName = 200

// PartPath returns the name of the part of a file that will replace the one at path.
func PartPath(path, id string) string {
	dir, base := filepath.Split(path)
	return dir + strings.ToValidUTF8(base[:min(len(base), maxName)], "") + "." + id + ".part"
}

// Continue is Create for a file that is kept when its content is not complete, so that a later
// process can continue it: as [PartPath] with an id of the content. It may have content already,
// of which nothing is known. It is locked until Cleanup. The error says why there can be no such
// file, or that it cannot be used.
func Continue(path, id string) (*File, error) {
	path, err := target(path)
	if err != nil {
		return nil, err
	}
	part := PartPath(path, id)
	for {
		f, err := os.OpenFile(part, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o644)
		if err != nil {
			return nil, err
		}
		if err := lock(f); err != nil {
			f.Close()
			return nil, fmt.Errorf("%s: %w", part, err)
		}
		// Another process may have completed it before it was locked.
		has, errHas := f.Stat()
		named, errNamed := os.Lstat(part)
		if errHas != nil || errNamed != nil || !os.SameFile(has, named) {
			f.Close()
			if errNamed != nil && !errors.Is(errNamed, fs.ErrNotExist) {
				return nil, errNamed
			}
			continue
		}
		return &File{File: f, Path: path, part: part}, nil
	}
}

// Part returns the name of a file from [Continue], or "".
func (p *File) Part() string { return p.part }

// lock locks a file that no other user can write.
func lock(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.Mode().IsRegular():
		return errors.New("it is not a regular file")
	case !ok || int(st.Uid) != os.Geteuid():
		return errors.New("it belongs to another user")
	case st.Nlink > 1:
		return errors.New("it has other names")
	case info.Mode().Perm()&0o022 != 0:
		return errors.New("other users may write it")
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return errors.New("another process is writing it")
	}
	return err
}
