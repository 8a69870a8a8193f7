package main

import (
	"bytes"
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

	"imgtool/image/edit"
	"imgtool/image/tree"
)

// change is one path of a root file system that is to be another. It can be made
// again, whatever came of it before: where all is as it shall be, nothing is done.
type change struct {
	Path   string            `json:"path"` // without a slash before it, as trees have it
	Remove bool              `json:"remove,omitempty"`
	Mode   uint32            `json:"mode,omitempty"`
	UID    uint32            `json:"uid,omitempty"`
	GID    uint32            `json:"gid,omitempty"`
	Time   int64             `json:"time,omitempty"` // seconds since 1970
	Target string            `json:"target,omitempty"`
	Xattrs map[string][]byte `json:"xattrs,omitempty"`
	Data   []byte            `json:"data,omitempty"`
	Link   string            `json:"link,omitempty"` // another path, which is the same file
	Backup string            `json:"backup,omitempty"`
}

// changes are what makes one tree of another, in the order of paths: a folder before
// what is in it. Those of last come last. Files that are replaced are kept beside
// with suffix.
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
		c := change{Path: p, Mode: n.Mode, UID: n.UID, GID: n.GID, Time: n.ModTime, Target: n.Target}
		for _, x := range n.Xattrs {
			if c.Xattrs == nil {
				c.Xattrs = map[string][]byte{}
			}
			c.Xattrs[x.Name] = []byte(x.Value)
		}
		switch n.Type() {
		case tree.Dir, tree.Symlink:
			if old == n || old != nil && old.Mode == n.Mode && old.UID == n.UID && old.GID == n.GID && old.Target == n.Target && slices.Equal(old.Xattrs, n.Xattrs) {
				continue
			}
		case tree.Regular:
			if old == n {
				continue
			}
			if n.Size() > edit.MaxText {
				return nil, fmt.Errorf("/%s: %d bytes; files of up to %d are changed", p, n.Size(), edit.MaxText)
			}
			var err error
			if c.Data, err = contentOf(n); err != nil {
				return nil, fmt.Errorf("/%s: %w", p, err)
			}
			if old != nil && old.Type() == tree.Regular {
				if old.Size() == n.Size() && old.Mode == n.Mode && old.UID == n.UID && old.GID == n.GID && slices.Equal(old.Xattrs, n.Xattrs) {
					if was, err := contentOf(old); err == nil && bytes.Equal(was, c.Data) {
						continue
					}
				}
			}
		default:
			if old == n {
				continue
			}
			return nil, fmt.Errorf("/%s: only files, folders and links can be changed while a system runs", p)
		}
		if old != nil && old.Type() == tree.Regular {
			c.Backup = p + suffix
		}
		all = append(all, c)
	}
	for p := range from.All() {
		up, _ := path.Split(p)
		// What lies in a folder goes with it.
		if n := to.Lookup(strings.TrimSuffix(up, "/")); to.Lookup(p) == nil && n != nil && n.Type() == tree.Dir {
			all = append(all, change{Path: p, Remove: true})
		}
	}
	rank := func(c change) int { return slices.Index(last, "/"+c.Path) }
	slices.SortStableFunc(all, func(a, b change) int { return rank(a) - rank(b) })
	return all, nil
}

func contentOf(n *tree.Inode) ([]byte, error) {
	if n.Content == nil {
		return nil, nil
	}
	b := make([]byte, n.Size())
	if k, err := n.Content.ReadAt(b, 0); k < len(b) {
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return b, nil
}

// What lies beside a path while it is changed.
const (
	newSuffix = ".imgtool-new"
	oldSuffix = ".imgtool-old"
)

// make makes the change below a root. When it returns, all of it is on the disk.
func (c *change) make(r *rooted) error {
	if err := r.straight(c.Path); err != nil {
		return err
	}
	if err := c.replace(r); err != nil {
		return r.named(c.Path, err)
	}
	return nil
}

func (c *change) replace(r *rooted) error {
	at := c.Path
	dir := path.Dir(at)
	info, err := r.Lstat(at)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	there := err == nil
	sweep := func() error {
		if err := errors.Join(r.RemoveAll(at+oldSuffix), r.RemoveAll(at+newSuffix)); err != nil {
			return err
		}
		return r.syncDir(dir)
	}
	if c.Remove {
		if there {
			if err := r.RemoveAll(at + oldSuffix); err != nil {
				return err
			}
			if err := r.Rename(at, at+oldSuffix); err != nil {
				return err
			}
		} else if _, err := r.Lstat(dir); err != nil {
			return nil
		}
		return sweep()
	}
	if there && c.is(r, info) {
		return sweep()
	}
	if c.Mode&tree.TypeMask == tree.Dir && there && info.IsDir() {
		return errors.Join(c.dressDir(r, at), sweep())
	}
	if c.Backup != "" && there && info.Mode().IsRegular() {
		// The name of the old file, which stays as it is.
		if err := r.Link(at, c.Backup); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	made := at + newSuffix
	if err := r.RemoveAll(made); err != nil {
		return err
	}
	if err := c.create(r, made); err != nil {
		return err
	}
	// Neither takes a folder's place at once, nor a folder that of anything.
	if there && (info.IsDir() || c.Mode&tree.TypeMask == tree.Dir) {
		if err := r.RemoveAll(at + oldSuffix); err != nil {
			return err
		}
		if err := r.Rename(at, at+oldSuffix); err != nil {
			return err
		}
	}
	if err := r.Rename(made, at); err != nil {
		return err
	}
	if err := r.syncDir(dir); err != nil {
		return err
	}
	return sweep()
}

// create makes what is to be, under another name.
func (c *change) create(r *rooted, made string) error {
	switch c.Mode & tree.TypeMask {
	case tree.Dir:
		if err := r.Mkdir(made, 0o700); err != nil {
			return err
		}
		return c.dressDir(r, made)
	case tree.Symlink:
		if err := r.Symlink(c.Target, made); err != nil {
			return err
		}
		if err := r.Lchown(made, int(c.UID), int(c.GID)); err != nil {
			return err
		}
		return c.setLinkTime(r, made)
	case tree.Regular:
		f, err := r.OpenFile(made, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		_, err = f.Write(c.Data)
		if err == nil {
			err = c.dress(f)
		}
		if err == nil {
			when := time.Unix(c.Time, 0)
			err = r.Chtimes(made, when, when)
		}
		if err == nil {
			err = f.Sync()
		}
		return errors.Join(err, f.Close())
	}
	if err := r.straight(c.Link); err != nil { // another name of a file
		return err
	}
	return r.Link(c.Link, made)
}

func (c *change) setLinkTime(r *rooted, made string) error {
	dir, err := r.Open(path.Dir(made))
	if err != nil {
		return err
	}
	defer dir.Close()
	when := unix.NsecToTimespec(c.Time * 1e9)
	if err := unix.UtimesNanoAt(int(dir.Fd()), path.Base(made), []unix.Timespec{when, when}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "utimes", Path: made, Err: err}
	}
	return nil
}

func (c *change) dressDir(r *rooted, at string) error {
	f, err := r.Open(at)
	if err != nil {
		return err
	}
	defer f.Close()
	return c.dress(f)
}

// dress gives an open file or folder its owner, mode and attributes.
func (c *change) dress(f *os.File) error {
	if err := f.Chown(int(c.UID), int(c.GID)); err != nil {
		return err
	}
	// Mode bits of the kernel, which a change of the owner takes some of.
	if err := unix.Fchmod(int(f.Fd()), c.Mode&0o7777); err != nil {
		return &fs.PathError{Op: "chmod", Path: f.Name(), Err: err}
	}
	for name, value := range c.Xattrs {
		if err := unix.Fsetxattr(int(f.Fd()), name, value, 0); err != nil {
			return &fs.PathError{Op: "setxattr " + name, Path: f.Name(), Err: err}
		}
	}
	return nil
}

// is says whether the path, of which info is known, is what it is to be.
func (c *change) is(r *rooted, info fs.FileInfo) bool {
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
	return false // of a folder: made once more
}

func (r *rooted) syncDir(dir string) error {
	d, err := r.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// newFile is the change that makes a file of a text.
func newFile(at string, text []byte, mode uint32) *change {
	return &change{Path: at, Mode: tree.Regular | mode, Data: text, Time: time.Now().Unix()}
}
