//go:build unix

package tree

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// FromDir reads a folder. Everything belongs to 0:0 unless owners are kept.
// Files are opened when their content is needed, and only for as long as that
// takes; one that is no longer what it was is an error then. One that cannot be
// opened is an error now.
func FromDir(dir string, keepOwners bool, modTime int64) (*Tree, error) {
	return fromDir(&walk{dir: &folder{dir}, keepOwners: keepOwners, t: New(modTime), links: map[device]*Inode{}}, dir)
}

// FromRoot reads the root file system of a system that runs, with its owners and
// without what drop says yes to, and all below it. Folders that another file system
// is mounted on are empty, and are as that one has them.
//
// Somebody writes to some of its files all the time. One that changed reads as it is
// by then, cut or filled up with zeros to the size it had, and changed is told.
func FromRoot(dir string, modTime int64, drop func(path string) bool, changed func(path string)) (*Tree, error) {
	w := &walk{dir: &folder{dir}, keepOwners: true, t: New(modTime), links: map[device]*Inode{}, drop: drop, changed: changed}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: dir, Err: err}
	}
	w.only = new(uint64(st.Dev))
	return fromDir(w, dir)
}

func fromDir(w *walk, dir string) (*Tree, error) {
	// The folder itself may be reached by a link.
	if fi, err := os.Stat(dir); err != nil {
		return nil, err
	} else if !fi.IsDir() {
		return nil, fmt.Errorf("%s: not a folder", dir)
	}
	if err := w.walk("", dir); err != nil {
		return nil, err
	}
	return w.t, nil
}

type walk struct {
	dir        *folder
	keepOwners bool
	t          *Tree
	links      map[device]*Inode

	drop    func(path string) bool // nil: nothing
	changed func(path string)      // nil: what changed is an error
	only    *uint64                // the file system to stay on; nil: all
}

type device struct{ dev, ino uint64 }

func (w *walk) walk(path, host string) error {
	n, err := w.inode(path, host)
	if err != nil {
		return err
	}
	if err := w.t.Put(path, n); err != nil {
		return fmt.Errorf("%s: %w", host, err)
	}
	if n.Type() != Dir {
		return nil
	}
	if w.only != nil {
		var st unix.Stat_t
		if err := unix.Stat(host, &st); err != nil || uint64(st.Dev) != *w.only {
			return err
		}
	}
	entries, err := os.ReadDir(host)
	if err != nil {
		return err
	}
	for _, e := range entries {
		p := e.Name()
		if path != "" {
			p = path + "/" + p
		}
		if w.drop != nil && w.drop(p) {
			continue
		}
		if err := w.walk(p, filepath.Join(host, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) inode(path, host string) (*Inode, error) {
	var st unix.Stat_t
	stat := unix.Lstat
	if path == "" {
		stat = unix.Stat
	}
	if err := stat(host, &st); err != nil {
		return nil, &fs.PathError{Op: "lstat", Path: host, Err: err}
	}
	id := device{uint64(st.Dev), uint64(st.Ino)}
	linked := uint32(st.Mode)&TypeMask != Dir && uint64(st.Nlink) > 1
	if linked {
		if n := w.links[id]; n != nil {
			return n, nil
		}
	}
	mtime, _ := st.Mtim.Unix()
	n := &Inode{Mode: uint32(st.Mode), ModTime: mtime}
	if w.keepOwners {
		n.UID, n.GID = st.Uid, st.Gid
	}
	switch n.Type() {
	case Dir, Fifo, Socket:
	case BlockDev, CharDev:
		n.Major, n.Minor = unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))
	case Symlink:
		n.Mode = linkMode
		var err error
		if n.Target, err = os.Readlink(host); err != nil {
			return nil, err
		}
	case Regular:
		f, err := open(host)
		if err != nil {
			return nil, err
		}
		f.Close()
		if st.Size > 0 {
			n.Content = &hostFile{w.dir, path, st.Size, st.Mtim.Nano(), w.changed}
		}
	default:
		return nil, fmt.Errorf("%s: file type %o is not known", host, n.Type())
	}
	var err error
	if n.Xattrs, err = hostXattrs(host, path == ""); err != nil {
		return nil, fmt.Errorf("%s: %w", host, err)
	}
	if linked {
		w.links[id] = n
	}
	return n, nil
}

// open does not wait for what a fifo put in a file's place would wait for.
func open(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
}

type folder struct{ path string }

// hostFile is a file as it was when the folder was read.
type hostFile struct {
	dir   *folder
	path  string
	size  int64
	mtime int64 // in nanoseconds

	changed func(path string) // nil: what changed is an error
}

func (h *hostFile) Size() int64 { return h.size }

func (h *hostFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := h.read(p, off)
	switch {
	case err == nil || err == io.EOF:
		return n, err
	case h.changed == nil || !errors.Is(err, errChanged) && !errors.Is(err, fs.ErrNotExist):
		return 0, err
	}
	h.changed(h.path)
	if off >= h.size {
		return 0, io.EOF
	}
	whole := p[:min(int64(len(p)), h.size-off)]
	clear(whole[min(n, len(whole)):])
	if len(whole) < len(p) {
		return len(whole), io.EOF
	}
	return len(whole), nil
}

var errChanged = errors.New("changed while it was in use")

func (h *hostFile) read(p []byte, off int64) (int, error) {
	path := filepath.Join(h.dir.path, h.path)
	f, err := open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	// After the read, so that what was read is what is answered for.
	n, err := f.ReadAt(p, off)
	fi, serr := f.Stat()
	switch {
	case serr != nil:
		return 0, serr
	case fi.Size() != h.size:
		return n, fmt.Errorf("%s: %w: %d bytes, then %d", path, errChanged, h.size, fi.Size())
	case !fi.Mode().IsRegular() || fi.ModTime().UnixNano() != h.mtime:
		return n, fmt.Errorf("%s: %w", path, errChanged)
	}
	if err == io.EOF && off+int64(n) < h.size {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func hostXattrs(path string, follow bool) ([]Xattr, error) {
	list, get := unix.Llistxattr, unix.Lgetxattr
	if follow {
		list, get = unix.Listxattr, unix.Getxattr
	}
	names, err := grow(func(buf []byte) (int, error) { return list(path, buf) })
	if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("extended attributes: %w", err)
	}
	var all []Xattr
	for name := range strings.SplitSeq(string(names), "\x00") {
		if !keepXattr(name) {
			continue
		}
		value, err := grow(func(buf []byte) (int, error) { return get(path, name, buf) })
		if err != nil {
			return nil, fmt.Errorf("extended attribute %s: %w", name, err)
		}
		all = append(all, Xattr{name, string(value)})
	}
	slices.SortFunc(all, func(a, b Xattr) int { return strings.Compare(a.Name, b.Name) })
	return all, checkXattrs(all)
}

// grow asks for the size first, and again where it grew in between.
func grow(ask func(buf []byte) (int, error)) ([]byte, error) {
	for {
		n, err := ask(nil)
		if n <= 0 || err != nil {
			return nil, err
		}
		buf := make([]byte, n)
		n, err = ask(buf)
		if err == nil {
			return buf[:n], nil
		}
		if err != unix.ERANGE {
			return nil, err
		}
	}
}
