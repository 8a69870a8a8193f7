//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"imgtool/image/seed/bundle"
)

// carry copies the bundle's files of the active configuration to the candidate. They belong to the
// user of the containers, who can create links and pipes among them at any time: these are
// skipped, and no path leads out of the directory files. The limits of a bundle apply.
func (s *store) carry(candidate *os.Root) (skipped []string, err error) {
	config, err := os.OpenRoot(s.config())
	if err != nil {
		return nil, err
	}
	defer config.Close()
	switch info, err := config.Lstat("files"); {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	case !info.IsDir():
		return []string{"files"}, nil
	}
	if err := errors.Join(candidate.Mkdir("files", 0o700), candidate.Lchown("files", s.service, s.service)); err != nil {
		return nil, err
	}
	from, err := config.OpenRoot("files")
	if err != nil {
		return nil, err
	}
	defer from.Close()
	to, err := candidate.OpenRoot("files")
	if err != nil {
		return nil, err
	}
	defer to.Close()
	c := &copying{from: from, to: to, owner: s.service, left: bundle.MaxTar}
	err = c.dir(".")
	return c.skipped, err
}

// copying copies the files and directories below a directory.
type copying struct {
	from, to *os.Root
	owner    int
	members  int
	left     int64 // bytes
	skipped  []string
}

func (c *copying) dir(dir string) error {
	f, err := c.from.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	names, err := f.Readdirnames(bundle.MaxMembers + 1)
	f.Close()
	if err != nil && err != io.EOF {
		return err
	}
	for _, name := range names {
		name = path.Join(dir, name)
		if c.members++; c.members > bundle.MaxMembers {
			return fmt.Errorf("there are more than %d files and directories, the most that a bundle has", bundle.MaxMembers)
		}
		info, err := c.from.Lstat(name)
		switch {
		case err != nil:
			return err
		case info.IsDir():
			if err = errors.Join(c.to.Mkdir(name, 0o700), c.to.Lchown(name, c.owner, c.owner)); err == nil {
				err = c.dir(name)
			}
		case info.Mode().IsRegular():
			err = c.file(name)
		default:
			c.skipped = append(c.skipped, "files/"+name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *copying) file(name string) error {
	f, err := c.from.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s changed while it was read", name)
	}
	r := &io.LimitedReader{R: f, N: c.left + 1}
	if err := writeOwned(c.to, name, r, c.owner); err != nil {
		return err
	}
	if c.left = r.N - 1; c.left < 0 {
		return fmt.Errorf("there are more than %d MiB of files, the most that a bundle has", bundle.MaxTar>>20)
	}
	return nil
}
