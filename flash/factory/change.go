package factory

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"imgtool/image"
	"imgtool/image/edit"
	"imgtool/image/tree"
)

// change is an idempotent change to one path of a root file system: it can be made again after
// it was interrupted at any point, and does nothing if the path is as it should be.
type change struct {
	Path   string            `json:"path"` // without a leading slash
	Remove bool              `json:"remove,omitempty"`
	Mode   uint32            `json:"mode,omitempty"`
	UID    uint32            `json:"uid,omitempty"`
	GID    uint32            `json:"gid,omitempty"`
	Time   int64             `json:"time,omitempty"` // seconds since 1970
	Target string            `json:"target,omitempty"`
	Xattrs map[string][]byte `json:"xattrs,omitempty"`
	Data   []byte            `json:"data,omitempty"`
	Link   string            `json:"link,omitempty"`   // another path of the same file
	Backup string            `json:"backup,omitempty"` // the old file stays under this path
}

// newFile returns the change that creates or replaces a file.
func newFile(at string, text []byte, mode uint32) *change {
	return &change{Path: at, Mode: tree.Regular | mode, Data: text, Time: time.Now().Unix()}
}

// changes returns what turns one tree into another, in the order of paths, but with the paths of last
// at the end. Files that are replaced are kept under their name with suffix.
func changes(from, to *tree.Tree, last []string, suffix string) ([]change, error) {
	var all []change
	first := map[*tree.Inode]string{}
	for p, n := range to.All() {
		old := from.Lookup(p)
		if n.Type() != tree.Dir {
			if same := first[n]; same != "" {
				if old != n {
					all = append(all, change{Path: p, Link: same})
				}
				continue
			}
			first[n] = p
		}
		c, err := changeOf(p, old, n)
		if err != nil {
			return nil, fmt.Errorf("/%s: %w", p, err)
		}
		if c == nil {
			continue
		}
		if old != nil && old.Type() == tree.Regular {
			c.Backup = p + suffix
		}
		all = append(all, *c)
	}
	for p := range from.All() {
		up, _ := path.Split(p)
		// The content of a directory is removed with it.
		if n := to.Lookup(strings.TrimSuffix(up, "/")); to.Lookup(p) == nil && n != nil && n.Type() == tree.Dir {
			all = append(all, change{Path: p, Remove: true})
		}
	}
	rank := func(c change) int { return slices.Index(last, "/"+c.Path) }
	slices.SortStableFunc(all, func(a, b change) int { return cmp.Compare(rank(a), rank(b)) })
	return all, nil
}

// changeOf returns what turns an inode or nil into another, or nil if they are alike.
func changeOf(p string, old, n *tree.Inode) (*change, error) {
	if old == n {
		return nil, nil
	}
	alike := old != nil && old.Size() == n.Size() && old.Mode == n.Mode && old.UID == n.UID && old.GID == n.GID && old.Target == n.Target && slices.Equal(old.Xattrs, n.Xattrs)
	c := &change{Path: p, Mode: n.Mode, UID: n.UID, GID: n.GID, Time: n.ModTime, Target: n.Target}
	for _, x := range n.Xattrs {
		if c.Xattrs == nil {
			c.Xattrs = map[string][]byte{}
		}
		c.Xattrs[x.Name] = []byte(x.Value)
	}
	switch n.Type() {
	case tree.Dir, tree.Symlink:
	case tree.Regular:
		if n.Size() > edit.MaxText {
			return nil, fmt.Errorf("it has %d bytes; a file that is changed may have %d", n.Size(), edit.MaxText)
		}
		var err error
		if c.Data, err = content(n); err != nil {
			return nil, err
		}
		if alike {
			was, err := content(old)
			alike = err == nil && bytes.Equal(was, c.Data)
		}
	default:
		return nil, errors.New("only files, directories and symbolic links of a running system can be changed")
	}
	if alike {
		return nil, nil
	}
	return c, nil
}

func content(n *tree.Inode) ([]byte, error) {
	b := make([]byte, n.Size())
	if n.Content == nil {
		return b, nil
	}
	_, err := image.ReadFull(n.Content, b, 0)
	return b, err
}

// Suffixes of what is beside a path while it is changed.
const (
	newSuffix = ".imgtool-new"
	oldSuffix = ".imgtool-old"
)

// make makes the change below a root. When it returns, the change is on the disk.
func (c *change) make(r *rootDir) error {
	if err := r.checkParent(c.Path); err != nil {
		return err
	}
	if err := c.apply(r); err != nil {
		return r.wrap(c.Path, err)
	}
	return nil
}

func (c *change) apply(r *rootDir) error {
	info, err := r.Lstat(c.Path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	exists, isDir := err == nil, c.Mode&tree.TypeMask == tree.Dir
	switch err = nil; {
	case c.Remove && exists:
		err = moveAside(r, c.Path)
	case c.Remove:
		if _, err := r.Lstat(path.Dir(c.Path)); err != nil {
			return nil
		}
	case exists && c.isDone(r, info):
	case isDir && exists && info.IsDir():
		err = c.setDirMetadata(r, c.Path)
	default:
		err = c.replace(r, info)
	}
	if err == nil {
		err = errors.Join(r.RemoveAll(c.Path+oldSuffix), r.RemoveAll(c.Path+newSuffix))
	}
	if err != nil {
		return err
	}
	return r.syncDir(path.Dir(c.Path))
}

func moveAside(r *rootDir, at string) error {
	if err := r.RemoveAll(at + oldSuffix); err != nil {
		return err
	}
	return r.Rename(at, at+oldSuffix)
}

// replace puts a new file, directory or link at the path. old is nil if there was nothing.
func (c *change) replace(r *rootDir, old fs.FileInfo) error {
	if c.Backup != "" && old != nil && old.Mode().IsRegular() {
		// A second name of the old file, which stays as it is.
		if err := r.Link(c.Path, c.Backup); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	made := c.Path + newSuffix
	if err := r.RemoveAll(made); err != nil {
		return err
	}
	if err := c.create(r, made); err != nil {
		return err
	}
	// A rename replaces neither a directory nor anything by a directory.
	if old != nil && (old.IsDir() || c.Mode&tree.TypeMask == tree.Dir) {
		if err := moveAside(r, c.Path); err != nil {
			return err
		}
	}
	if err := r.Rename(made, c.Path); err != nil {
		return err
	}
	return r.syncDir(path.Dir(c.Path))
}

// create creates the new file, directory or link under another name.
func (c *change) create(r *rootDir, made string) error {
	switch c.Mode & tree.TypeMask {
	case tree.Dir:
		if err := r.Mkdir(made, 0o700); err != nil {
			return err
		}
		return c.setDirMetadata(r, made)
	case tree.Symlink:
		if err := r.Symlink(c.Target, made); err != nil {
			return err
		}
		if err := r.Lchown(made, int(c.UID), int(c.GID)); err != nil {
			return err
		}
		return c.setTime(r, made)
	case tree.Regular:
		f, err := r.OpenFile(made, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		_, err = f.Write(c.Data)
		if err == nil {
			err = c.setMetadata(f)
		}
		if err == nil {
			err = c.setTime(r, made)
		}
		if err == nil {
			err = f.Sync()
		}
		return errors.Join(err, f.Close())
	}
	if err := r.checkParent(c.Link); err != nil {
		return err
	}
	return r.Link(c.Link, made)
}

func (c *change) setTime(r *rootDir, made string) error {
	dir, err := r.Open(path.Dir(made))
	if err != nil {
		return err
	}
	defer dir.Close()
	when := unix.NsecToTimespec(c.Time * 1e9)
	return unix.UtimesNanoAt(int(dir.Fd()), path.Base(made), []unix.Timespec{when, when}, unix.AT_SYMLINK_NOFOLLOW)
}

func (c *change) setDirMetadata(r *rootDir, at string) error {
	f, err := r.Open(at)
	if err != nil {
		return err
	}
	defer f.Close()
	return c.setMetadata(f)
}

// setMetadata sets the owner, mode and extended attributes of an open file or directory.
func (c *change) setMetadata(f *os.File) error {
	if err := f.Chown(int(c.UID), int(c.GID)); err != nil {
		return err
	}
	// After the owner, as changing that clears the setuid and setgid bits.
	if err := unix.Fchmod(int(f.Fd()), c.Mode&0o7777); err != nil {
		return err
	}
	for name, value := range c.Xattrs {
		if err := unix.Fsetxattr(int(f.Fd()), name, value, 0); err != nil {
			return err
		}
	}
	return nil
}

// isDone reports whether the path is as it should be. It is false for directories.
func (c *change) isDone(r *rootDir, info fs.FileInfo) bool {
	if c.Link != "" {
		other, err := r.Lstat(c.Link)
		return err == nil && os.SameFile(info, other)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || uint32(st.Mode)&tree.TypeMask != c.Mode&tree.TypeMask || st.Uid != c.UID || st.Gid != c.GID {
		return false
	}
	switch c.Mode & tree.TypeMask {
	case tree.Symlink:
		target, err := r.Readlink(c.Path)
		return err == nil && target == c.Target
	case tree.Regular:
		f, err := r.openFile(c.Path)
		if err != nil {
			return false
		}
		defer f.Close()
		data, err := io.ReadAll(f)
		return err == nil && bytes.Equal(data, c.Data) && uint32(st.Mode) == c.Mode
	}
	return false
}
