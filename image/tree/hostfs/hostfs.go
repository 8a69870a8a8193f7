//go:build unix

// Package hostfs reads trees from directories of the host.
package hostfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"imgtool/image"
	"imgtool/image/tree"
)

// Read reads a directory. Everything belongs to 0:0 unless keepOwners is set.
//
// Files are opened for each read of their contents, which fails if the file has changed
// since Read. A file that cannot be opened is an error of Read already.
func Read(dir string, keepOwners bool, modTime int64) (*tree.Tree, error) {
	return read(&walk{keepOwners: keepOwners, t: tree.New(modTime), links: map[device]*tree.Inode{}}, dir)
}

// ReadLive reads the root file system of a running system, with its owners, and without
// the paths for which drop returns true and everything below them. Mount points are empty
// directories with the metadata of the mounted file system.
//
// Files may change all the time. If one has changed, a read of its contents calls changed
// with its path, and returns the new contents, truncated or padded with zeros to the size
// that the file had.
func ReadLive(dir string, modTime int64, drop func(path string) bool, changed func(path string)) (*tree.Tree, error) {
	w := &walk{keepOwners: true, t: tree.New(modTime), links: map[device]*tree.Inode{}, drop: drop, changed: changed}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: dir, Err: err}
	}
	w.only = new(uint64(st.Dev))
	return read(w, dir)
}

func read(w *walk, dir string) (*tree.Tree, error) {
	if fi, err := os.Stat(dir); err != nil {
		return nil, err
	} else if !fi.IsDir() {
		return nil, fmt.Errorf("%s: not a directory", dir)
	}
	n, err := w.inode(nil, dir, dir)
	if err != nil {
		return nil, err
	}
	if err := w.t.Put("", n); err != nil {
		return nil, err
	}
	if err := w.list("", &directory{name: dir, changed: w.changed}, dir); err != nil {
		return nil, err
	}
	return w.t, nil
}

type walk struct {
	keepOwners bool
	t          *tree.Tree
	links      map[device]*tree.Inode

	drop    func(path string) bool // may be nil
	changed func(path string)      // nil: a changed file is an error
	only    *uint64                // device number of the file system to stay on; nil: all
}

type device struct{ dev, ino uint64 }

// list reads the entries of a directory of the host, which is dir in the tree.
func (w *walk) list(dir string, in *directory, host string) error {
	short, release, err := openLongPath(host)
	if err != nil {
		return err
	}
	defer release()
	if w.only != nil {
		var st unix.Stat_t
		if err := unix.Stat(short, &st); err != nil || uint64(st.Dev) != *w.only {
			return err
		}
	}
	entries, err := os.ReadDir(short)
	if err != nil {
		return unwrapPathError(host, err)
	}
	for _, e := range entries {
		name := e.Name()
		p, at := path.Join(dir, name), filepath.Join(host, name)
		if w.drop != nil && w.drop(p) {
			continue
		}
		if err := tree.CheckPath(p); err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
		n, err := w.inode(in, name, at)
		if err != nil {
			return err
		}
		if err := w.t.Put(p, n); err != nil {
			return err
		}
		if n.Type() == tree.Dir {
			if err := w.list(p, &directory{up: in, name: name, changed: w.changed}, at); err != nil {
				return err
			}
		}
	}
	return nil
}

// inode reads one entry of a directory of the host; for the root, in is nil.
func (w *walk) inode(in *directory, name, host string) (*tree.Inode, error) {
	short, release, err := openLongPath(host)
	if err != nil {
		return nil, err
	}
	defer release()
	var st unix.Stat_t
	stat := unix.Lstat
	if in == nil {
		stat = unix.Stat
	}
	if err := stat(short, &st); err != nil {
		return nil, &fs.PathError{Op: "lstat", Path: host, Err: err}
	}
	id := device{uint64(st.Dev), uint64(st.Ino)}
	linked := uint32(st.Mode)&tree.TypeMask != tree.Dir && uint64(st.Nlink) > 1
	if linked {
		if n := w.links[id]; n != nil {
			return n, nil
		}
	}
	mtime, _ := st.Mtim.Unix()
	n := &tree.Inode{Mode: uint32(st.Mode), ModTime: mtime}
	if w.keepOwners {
		n.UID, n.GID = st.Uid, st.Gid
	}
	switch n.Type() {
	case tree.Dir, tree.Fifo, tree.Socket:
	case tree.BlockDev, tree.CharDev:
		n.Major, n.Minor = unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))
	case tree.Symlink:
		n.Mode = tree.SymlinkMode
		if n.Target, err = os.Readlink(short); err != nil {
			return nil, unwrapPathError(host, err)
		}
	case tree.Regular:
		fd, err := open(short)
		if err != nil {
			return nil, unwrapPathError(host, err)
		}
		unix.Close(fd)
		if st.Size > 0 {
			// In one allocation: a tree may have a million files.
			both := &struct {
				tree.Inode
				file
			}{*n, file{in, name, st.Size, st.Mtim.Nano()}}
			n = &both.Inode
			n.Content = &both.file
			if st.Blocks*512 < st.Size {
				n.Content = &sparse{&both.file}
			}
		}
	default:
		return nil, fmt.Errorf("%s: unknown file type %o", host, n.Type())
	}
	var lost string
	if n.Xattrs, lost, err = xattrs(short, in == nil); err != nil {
		return nil, fmt.Errorf("%s: %w", host, err)
	}
	if lost != "" {
		w.t.AddLoss(tree.UnsupportedXattrs, host, lost)
	}
	if linked {
		w.links[id] = n
	}
	return n, nil
}

// open opens a file. It does not block if a FIFO has replaced the file. It calls open(2)
// directly, as os.Open costs more and a tree may have a million files.
func open(path string) (fd int, err error) {
	err = again(func() (err error) {
		fd, err = unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return fd, nil
}

// again repeats a system call that a signal interrupts.
func again(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

// pread fills p, or reads up to the end of the file.
func pread(fd int, p []byte, off int64) (n int, err error) {
	for n < len(p) {
		k := 0
		err := again(func() (err error) {
			k, err = unix.Pread(fd, p[n:], off+int64(n))
			return err
		})
		if err != nil {
			return n, err
		}
		if k <= 0 {
			return n, io.EOF
		}
		n += k
	}
	return n, nil
}

func unwrapPathError(path string, err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return &fs.PathError{Op: pe.Op, Path: path, Err: pe.Err}
	}
	return err
}

// directory is a directory of the host. Files refer to theirs, which takes less memory
// than their paths.
type directory struct {
	up      *directory // nil: name is the path of the root
	name    string
	changed func(path string) // nil: a changed file is an error
}

func (d *directory) at(name string) string {
	for ; d.up != nil; d = d.up {
		name = d.name + "/" + name
	}
	return name
}

// host returns the path on the host of an entry.
func (d *directory) host(name string) string {
	for ; d != nil; d = d.up {
		name = filepath.Join(d.name, name)
	}
	return name
}

// file is a regular file as it was when its directory was read.
type file struct {
	dir   *directory
	name  string
	size  int64
	mtime int64 // in nanoseconds
}

func (h *file) Size() int64 { return h.size }

func (h *file) ReadAt(p []byte, off int64) (int, error) {
	n, err := h.read(p, off)
	switch {
	case err == nil || err == io.EOF:
		return n, err
	case h.dir.changed == nil || !errors.Is(err, errChanged) && !errors.Is(err, fs.ErrNotExist):
		return 0, err
	}
	h.dir.changed(h.dir.at(h.name))
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

// open opens the file. Its path on the host is for messages.
func (h *file) open() (fd int, path string, err error) {
	path = h.dir.host(h.name)
	short, release, err := openLongPath(path)
	if err != nil {
		return -1, path, err
	}
	defer release()
	fd, err = open(short)
	return fd, path, unwrapPathError(path, err)
}

func (h *file) read(p []byte, off int64) (int, error) {
	fd, path, err := h.open()
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	// Check after the read, to detect changes up to then.
	n, err := pread(fd, p, off)
	if err != nil && err != io.EOF {
		err = &fs.PathError{Op: "read", Path: path, Err: err}
	}
	var st unix.Stat_t
	serr := again(func() error { return unix.Fstat(fd, &st) })
	switch {
	case serr != nil:
		return 0, &fs.PathError{Op: "stat", Path: path, Err: serr}
	case st.Size != h.size:
		return n, fmt.Errorf("%s: %w: %d bytes, then %d", path, errChanged, h.size, st.Size)
	case uint32(st.Mode)&tree.TypeMask != tree.Regular || st.Mtim.Nano() != h.mtime:
		return n, fmt.Errorf("%s: %w", path, errChanged)
	}
	if err == io.EOF && off+int64(n) < h.size {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

type sparse struct{ *file }

// Hole implements [image.Sparse], if the file system reports holes.
func (h *sparse) Hole(off int64) int64 {
	fd, _, err := h.open()
	if err != nil {
		return 0
	}
	defer unix.Close(fd)
	switch at, err := unix.Seek(fd, off, unix.SEEK_DATA); {
	case errors.Is(err, unix.ENXIO):
		// A file that became shorter ends there; it does not have zeros.
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil || st.Size != h.size {
			return 0
		}
		return max(0, h.size-off)
	case err != nil:
		return 0
	default:
		return max(0, min(at, h.size)-off)
	}
}

// Runs lists the runs of data for [image.Runs]. It opens the file once.
func (h *sparse) Runs() iter.Seq[image.Span] {
	return func(yield func(image.Span) bool) {
		fd, _, err := h.open()
		if err != nil {
			yield(image.Span{Off: 0, Len: h.size})
			return
		}
		defer unix.Close(fd)
		for off := int64(0); off < h.size; {
			from, err := unix.Seek(fd, off, unix.SEEK_DATA)
			if errors.Is(err, unix.ENXIO) {
				var st unix.Stat_t
				if err := unix.Fstat(fd, &st); err == nil && st.Size == h.size {
					return
				}
			}
			if err != nil {
				from = off
			}
			to, err := unix.Seek(fd, from, unix.SEEK_HOLE)
			if err != nil {
				to = h.size
			}
			from, to = min(from, h.size), min(to, h.size)
			if from < to && !yield(image.Span{Off: from, Len: to - from}) {
				return
			}
			off = max(to, from)
			if to <= from && from < h.size { // the file changed: the rest counts as data
				yield(image.Span{Off: from, Len: h.size - from})
				return
			}
		}
	}
}

// xattrs returns the extended attributes of a file, and the name of the first that is left
// out, if any.
func xattrs(path string, follow bool) (all []tree.Xattr, lost string, err error) {
	list, get := unix.Llistxattr, unix.Lgetxattr
	if follow {
		list, get = unix.Listxattr, unix.Getxattr
	}
	names, err := grow(func(buf []byte) (int, error) { return list(path, buf) })
	if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", fmt.Errorf("extended attributes: %w", err)
	}
	for name := range strings.SplitSeq(string(names), "\x00") {
		if !tree.KeepXattr(name) {
			if lost == "" {
				lost = name
			}
			continue
		}
		value, err := grow(func(buf []byte) (int, error) { return get(path, name, buf) })
		if err != nil {
			return nil, "", fmt.Errorf("extended attribute %s: %w", name, err)
		}
		all = append(all, tree.Xattr{Name: name, Value: string(value)})
	}
	slices.SortFunc(all, func(a, b tree.Xattr) int { return strings.Compare(a.Name, b.Name) })
	return all, lost, tree.CheckXattrs(all)
}

// grow calls ask for the size and then for the value, again if it grew in between.
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
