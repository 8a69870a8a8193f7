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

// pending is a file on its way to its name. Where the system can, it has none before:
// of a program that is killed, nothing is left.
type pending struct {
	*os.File
	path  string
	named *renameio.PendingFile // nil if it has none
}

// access is who may do what with a file.
type access struct {
	mode     fs.FileMode
	uid, gid int
}

// accessOf is the access of a file, or nil if there is none of the name.
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

// give gives the file the access that another one has.
func (p *pending) give(a *access) error {
	// Before the owner changes, nobody else may read it.
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

// newPending is one in the folder of the file, not in TMPDIR. Where path is a symbolic
// link, the file is the one that it leads to. Cleanup is to be called.
func newPending(path string) (*pending, error) {
	path, err := hostfile.Target(path)
	if err != nil {
		return nil, err
	}
	if f := openUnnamed(path); f != nil {
		return &pending{f, path, nil}, nil
	}
	named, err := renameio.NewPendingFile(path, renameio.WithTempDir(filepath.Dir(path)), renameio.WithPermissions(0o644))
	if err != nil {
		return nil, err
	}
	return &pending{named.File, path, named}, nil
}

// Commit gives the file its name in the place of what had it. After a power cut the
// name has the one or the other, and all of it.
func (p *pending) Commit() error {
	if p.named != nil {
		return p.named.CloseAtomicallyReplace()
	}
	if err := handOver(p.File); err != nil {
		return err
	}
	// A link takes no name that another file has.
	dir, base := filepath.Split(p.path)
	for {
		name := fmt.Sprintf("%s.%s%d", dir, base, rand.Uint64())
		err := link(p.File, name)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err == nil {
			if err = os.Rename(name, p.path); err != nil {
				os.Remove(name)
			}
		}
		return errors.Join(err, p.Close())
	}
}

// Cleanup takes away what was not committed.
func (p *pending) Cleanup() {
	if p.named != nil {
		p.named.Cleanup()
		return
	}
	p.Close()
}
