// Package pending writes files that get their names when they are complete.
package pending

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"

	"github.com/google/renameio/v2"

	"imgtool/image/hostfile"
)

// File is a file that does not have its final name yet. On Linux it has no name at
// all (O_TMPFILE), so nothing is left of it if the program is killed.
type File struct {
	*os.File
	Path string                // it gets this name
	temp *renameio.PendingFile // nil for a file without a name
	part string                // the name until then, of a file from [Continue]
}

// Create creates a file in the directory of path. If path is a symbolic link, the
// file will replace the target of the link. The caller must call Cleanup.
func Create(path string) (*File, error) {
	path, err := target(path)
	if err != nil {
		return nil, err
	}
	if f := openUnnamed(path); f != nil {
		return &File{File: f, Path: path}, nil
	}
	temp, err := renameio.NewPendingFile(path, renameio.WithTempDir(filepath.Dir(path)), renameio.WithPermissions(0o644))
	if err != nil {
		return nil, err
	}
	return &File{File: temp.File, Path: path, temp: temp}, nil
}

// target returns the path of the file that a file at path replaces.
func target(path string) (string, error) {
	path, err := hostfile.Target(path)
	if err != nil {
		return "", err
	}
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return "", errors.New("it is not a regular file; to write an image to a disk, build a file and use imgtool flash")
	}
	return path, nil
}

// Commit flushes the file to disk and gives it its name, replacing a file of that name.
// After a power failure the name refers to either file, complete.
func (p *File) Commit() error {
	if p.temp != nil {
		return p.temp.CloseAtomicallyReplace()
	}
	if err := p.Sync(); err != nil {
		return err
	}
	if p.part != "" {
		err := os.Rename(p.part, p.Path)
		return errors.Join(err, p.Close())
	}
	// linkat does not replace a file, rename does.
	dir, base := filepath.Split(p.Path)
	name := fmt.Sprintf("%s.%s%d", dir, base, rand.Uint64())
	err := link(p.File, name)
	if err == nil {
		if err = os.Rename(name, p.Path); err != nil {
			os.Remove(name)
		}
	}
	return errors.Join(err, p.Close())
}

// Cleanup removes the file unless it was committed. One from [Continue] is kept if it has content.
func (p *File) Cleanup() {
	if p.temp != nil {
		p.temp.Cleanup()
		return
	}
	if info, err := p.Stat(); p.part != "" && err == nil && info.Size() == 0 {
		os.Remove(p.part)
	}
	p.Close()
}

// Access is who may read and write a file.
type Access struct {
	Mode     fs.FileMode
	UID, GID int
}

// AccessOf returns the access of the file at path, or nil if path does not exist.
func AccessOf(path string) (*Access, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	a := &Access{Mode: info.Mode().Perm(), UID: -1, GID: -1}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		a.UID, a.GID = int(st.Uid), int(st.Gid)
	}
	return a, nil
}

// SetAccess gives the file an access.
func (p *File) SetAccess(a *Access) error {
	// Group and others get no access before the owner is right.
	err := p.Chmod(a.Mode & 0o700)
	if info, statErr := p.Stat(); statErr == nil && err == nil {
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok || int(st.Uid) != a.UID || int(st.Gid) != a.GID {
			if err = p.Chown(a.UID, a.GID); err != nil {
				return fmt.Errorf("keeping its owner, user %d and group %d: %w", a.UID, a.GID, err)
			}
		}
	}
	if err == nil {
		err = p.Chmod(a.Mode)
	}
	return err
}

// WritePrivate writes a file with mode 0600 completely or not at all. Only regular files are
// replaced.
func WritePrivate(path string, data []byte) error {
	if err := hostfile.CheckOutput(path); err != nil {
		return err
	}
	path, err := hostfile.Target(path)
	if err != nil {
		return err
	}
	return renameio.WriteFile(path, data, 0o600, renameio.WithTempDir(filepath.Dir(path)))
}
