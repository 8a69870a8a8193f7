package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"imgtool/flash/disk"
)

// rooted is the root directory of a system that may not be the one that runs. Nothing outside
// of it is read or written, whatever symbolic links there are: links are followed as that
// system follows them, absolute ones from its own root.
type rooted struct{ *os.Root }

func openRooted(dir string) (*rooted, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &rooted{root}, nil
}

// path is a path of the system as this one has it, for messages.
func (r *rooted) path(p string) string { return filepath.Join(r.Name(), p) }

// maxLinks is how many symbolic links Linux follows.
const maxLinks = 40

// resolve is where a path of the system leads to, relative to the root and without a symbolic
// link in it. What does not exist is taken for a name.
func (r *rooted) resolve(p string) (string, error) {
	parts := func(p string) []string { return strings.Split(p, "/") }
	at, todo := ".", parts(path.Clean("/"+p))
	for links := 0; len(todo) > 0; {
		next := todo[0]
		todo = todo[1:]
		switch next {
		case "", ".":
			continue
		case "..":
			at = path.Dir(at) // of the root, the root
			continue
		}
		to := path.Join(at, next)
		info, err := r.Lstat(to)
		if errors.Is(err, fs.ErrNotExist) {
			return path.Join(append([]string{"/", to}, todo...)...)[1:], nil
		}
		if err != nil {
			return "", r.named(p, err)
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			at = to
			continue
		}
		if links++; links > maxLinks {
			return "", fmt.Errorf("%s: %w", r.path(p), syscall.ELOOP)
		}
		target, err := r.Readlink(to)
		if err != nil {
			return "", r.named(p, err)
		}
		if path.IsAbs(target) {
			at = "."
		}
		todo = slices.Concat(parts(target), todo)
	}
	return at, nil
}

// named is an error with the path as this system has it.
func (r *rooted) named(p string, err error) error {
	if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
		err = pathErr.Err
	}
	return fmt.Errorf("%s: %w", r.path(p), err)
}

// stat says what a path of the system leads to.
func (r *rooted) stat(p string) (fs.FileInfo, error) {
	at, err := r.resolve(p)
	if err != nil {
		return nil, err
	}
	return r.Lstat(at)
}

// has says whether the system has something at a path, be it a link that leads nowhere.
func (r *rooted) has(p string) bool {
	dir, err := r.resolve(path.Dir(path.Clean("/" + p)))
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist)
	}
	_, err = r.Lstat(path.Join(dir, path.Base(p)))
	return err == nil
}

// readFile is what is in a file of the system.
func (r *rooted) readFile(p string) ([]byte, error) {
	at, err := r.resolve(p)
	if err != nil {
		return nil, err
	}
	f, err := r.openFile(at)
	if err != nil {
		return nil, r.named(p, err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		return nil, r.named(p, err)
	}
	return b, nil
}

// openFile opens a regular file by a path without links, and nothing else: to open a pipe may
// wait for ever.
func (r *rooted) openFile(at string) (*os.File, error) {
	info, err := r.Lstat(at)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("it is not a regular file")
	}
	f, err := r.OpenFile(at, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if now, err := f.Stat(); err != nil || !os.SameFile(info, now) {
		f.Close()
		return nil, errors.New("it changed while it was opened")
	}
	return f, nil
}

// straight refuses a path that has a symbolic link in place of a directory by now.
func (r *rooted) straight(p string) error {
	dir := path.Dir(p)
	at, err := r.resolve(dir)
	if err == nil && at != dir {
		err = &disk.RefusedError{Disk: r.path(p), Reason: fmt.Sprintf("/%s leads to /%s by a symbolic link, and was a directory: nothing is changed through links", dir, at)}
	}
	return err
}

// replaceFile puts a text in the place of a file of the system at once, and on the disk.
func (r *rooted) replaceFile(p string, text []byte, mode uint32) error {
	at, err := r.resolve(p)
	if err != nil {
		return err
	}
	return newFile(at, text, mode).make(r)
}

// remove removes a file of the system, if it is there.
func (r *rooted) remove(p string) error {
	at, err := r.resolve(p)
	if err != nil {
		return err
	}
	if err := r.Remove(at); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return r.named(p, err)
	}
	return nil
}
