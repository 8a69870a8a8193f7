package factory

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"syscall"

	securejoin "github.com/cyphar/filepath-securejoin"

	"imgtool/flash/disk"
)

// rootDir is the root directory of a system that may not be the running one. Symbolic links
// are followed as that system follows them, absolute ones from its own root. Nothing outside
// of the directory is read or written, even through links.
type rootDir struct{ *os.Root }

// path returns a path of the system as a path of this one, for messages.
func (r *rootDir) path(p string) string { return filepath.Join(r.Name(), p) }

// resolve returns where a path of the system leads, relative to the root and without symbolic
// links. Components that do not exist stay as they are.
func (r *rootDir) resolve(p string) (string, error) {
	at, err := securejoin.SecureJoin(r.Name(), p)
	if err != nil {
		return "", r.wrap(p, err)
	}
	return filepath.Rel(r.Name(), at)
}

// wrap returns an error with the path as a path of this system.
func (r *rootDir) wrap(p string, err error) error {
	if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
		err = pathErr.Err
	}
	return fmt.Errorf("%s: %w", r.path(p), err)
}

// exists reports whether the system has something at a path, which may be a broken link.
func (r *rootDir) exists(p string) bool {
	dir, err := r.resolve(path.Dir(path.Clean("/" + p)))
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist)
	}
	_, err = r.Lstat(path.Join(dir, path.Base(p)))
	return err == nil
}

func (r *rootDir) readFile(p string) ([]byte, error) {
	at, err := r.resolve(p)
	if err != nil {
		return nil, err
	}
	f, err := r.openFile(at)
	if err != nil {
		return nil, r.wrap(p, err)
	}
	defer f.Close()
	return io.ReadAll(f)
}

// openFile opens a regular file by a path without links. It refuses everything else, as
// opening a pipe may block.
func (r *rootDir) openFile(at string) (*os.File, error) {
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

// checkParent refuses a path whose parent has become a symbolic link.
func (r *rootDir) checkParent(p string) error {
	dir := path.Dir(p)
	at, err := r.resolve(dir)
	if err == nil && at != dir {
		err = &disk.RefusedError{Disk: r.path(p), Reason: fmt.Sprintf("/%s leads to /%s by a symbolic link, and was a directory: nothing is changed through links", dir, at)}
	}
	return err
}

// replaceFile atomically replaces a file of the system, and syncs it.
func (r *rootDir) replaceFile(p string, text []byte, mode uint32) error {
	at, err := r.resolve(p)
	if err != nil {
		return err
	}
	return newFile(at, text, mode).make(r)
}

// removeFile removes a file of the system if it exists.
func (r *rootDir) removeFile(p string) error {
	at, err := r.resolve(p)
	if err != nil {
		return err
	}
	if err := r.Remove(at); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return r.wrap(p, err)
	}
	return nil
}

func (r *rootDir) syncDir(dir string) error {
	d, err := r.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
