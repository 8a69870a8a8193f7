package artifact

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

// pending is a file that does not have its final name yet. On Linux it has no name at
// all (O_TMPFILE), so nothing is left of it if the program is killed.
type pending struct {
	*os.File
	path string
	temp *renameio.PendingFile // nil for a file without a name
}

// newPending creates a file in the directory of path. If path is a symbolic link, the
// file will replace the target of the link. The caller must call Cleanup.
func newPending(path string) (*pending, error) {
	path, err := hostfile.Target(path)
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return nil, errors.New("it is not a regular file; to write an image to a disk, build a file and use imgtool flash")
	}
	if f := openUnnamed(path); f != nil {
		return &pending{f, path, nil}, nil
	}
	temp, err := renameio.NewPendingFile(path, renameio.WithTempDir(filepath.Dir(path)), renameio.WithPermissions(0o644))
	if err != nil {
		return nil, err
	}
	return &pending{temp.File, path, temp}, nil
}

// Commit flushes the file to disk and gives it its name, replacing a file of that name.
// After a power failure the name refers to either file, complete.
func (p *pending) Commit() error {
	if p.temp != nil {
		return p.temp.CloseAtomicallyReplace()
	}
	if err := p.Sync(); err != nil {
		return err
	}
	// linkat does not replace a file, rename does.
	dir, base := filepath.Split(p.path)
	name := fmt.Sprintf("%s.%s%d", dir, base, rand.Uint64())
	err := link(p.File, name)
	if err == nil {
		if err = os.Rename(name, p.path); err != nil {
			os.Remove(name)
		}
	}
	return errors.Join(err, p.Close())
}

// Cleanup removes the file unless it was committed.
func (p *pending) Cleanup() {
	if p.temp != nil {
		p.temp.Cleanup()
		return
	}
	p.Close()
}

type access struct {
	mode     fs.FileMode
	uid, gid int
}

// accessOf returns the access of the file at path, or nil if path does not exist.
func accessOf(path string) (*access, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	a := &access{mode: info.Mode().Perm(), uid: -1, gid: -1}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		a.uid, a.gid = int(st.Uid), int(st.Gid)
	}
	return a, nil
}

// setAccess changes the permissions and the owner of the file.
func (p *pending) setAccess(a *access) error {
	// Group and others get no access before the owner is right.
	err := p.Chmod(a.mode & 0o700)
	if info, statErr := p.Stat(); statErr == nil && err == nil {
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok || int(st.Uid) != a.uid || int(st.Gid) != a.gid {
			if err = p.Chown(a.uid, a.gid); err != nil {
				return fmt.Errorf("keeping its owner, user %d and group %d: %w", a.uid, a.gid, err)
			}
		}
	}
	if err == nil {
		err = p.Chmod(a.mode)
	}
	return err
}
