// Package tree has the root file system as a value: sorted paths, each with metadata
// and, if it is a regular file, an [image.Content].
//
// Packages below it make trees: [imgtool/image/tree/hostfs] from a directory of the host,
// [imgtool/image/tree/tarfs] from a tar or from the layers of a container image. Package
// [imgtool/image/edit] changes them, and the writers of file systems take them.
// [imgtool/image/tree/sums] computes checksums of their files.
//
// Hard links are paths that share one *[Inode].
package tree

import (
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"imgtool/image"
)

// File types, as in st_mode of inode(7).
const (
	TypeMask = 0o170000
	Socket   = 0o140000
	Symlink  = 0o120000
	Regular  = 0o100000
	BlockDev = 0o060000
	Dir      = 0o040000
	CharDev  = 0o020000
	Fifo     = 0o010000
)

// SymlinkMode is the mode that Linux gives to every symbolic link.
const SymlinkMode = Symlink | 0o777

// Inode is a file, directory or other node. It must not be changed once it is in a tree.
type Inode struct {
	Mode    uint32 // type and permission bits, as in st_mode
	UID     uint32
	GID     uint32
	ModTime int64         // seconds since 1970
	Target  string        // of a symbolic link
	Major   uint32        // of a device
	Minor   uint32        // of a device
	Xattrs  []Xattr       // sorted by name
	Content image.Content // of a regular file; nil if it is empty
}

// Type returns the file type in the mode.
func (n *Inode) Type() uint32 { return n.Mode & TypeMask }

// Size returns the length of a regular file in bytes.
func (n *Inode) Size() int64 {
	if n.Content == nil {
		return 0
	}
	return n.Content.Size()
}

// Tree is a set of paths. Paths have no leading slash and no "." or ".." elements; the
// root is "". The parent of every path is a directory in the tree.
type Tree struct {
	root    *directory
	len     int
	modTime int64 // of directories that Put makes

	losses   []Loss
	trailing int64
}

// directory is a directory and its entries by name. Separate maps take less memory, as
// most entries are not directories.
type directory struct {
	inode *Inode
	files map[string]*Inode // entries that are not directories
	dirs  map[string]*directory
}

// New returns a tree with only a root directory: mode 0755, owner 0:0. Directories that
// Put makes have the same time, in seconds since 1970.
func New(modTime int64) *Tree {
	return &Tree{root: &directory{inode: &Inode{Mode: Dir | 0o755, ModTime: modTime}}, len: 1, modTime: modTime}
}

// find returns the inode at path, or nil, and the directory if it is one.
func (t *Tree) find(path string) (*Inode, *directory) {
	d := t.root
	for path != "" {
		name, rest, below := strings.Cut(path, "/")
		if below && rest == "" {
			return nil, nil
		}
		sub := d.dirs[name]
		if sub == nil && !below {
			return d.files[name], nil
		}
		if sub == nil {
			return nil, nil
		}
		d, path = sub, rest
	}
	return d.inode, d
}

// count returns the number of paths in d, with d itself.
func (d *directory) count() int {
	n := 1 + len(d.files)
	for _, sub := range d.dirs {
		n += sub.count()
	}
	return n
}

// set makes n the entry with the given name in d, and returns its directory if it is
// one. A directory that replaces a directory keeps the entries.
func (t *Tree) set(d *directory, name string, n *Inode) *directory {
	sub := d.dirs[name]
	switch {
	case n.Type() == Dir && sub != nil:
		sub.inode = n
		return sub
	case sub != nil:
		t.len -= sub.count()
		delete(d.dirs, name)
	case d.files[name] != nil:
		t.len--
		if n.Type() == Dir {
			delete(d.files, name)
		}
	}
	t.len++
	if n.Type() != Dir {
		if d.files == nil {
			d.files = map[string]*Inode{}
		}
		d.files[name] = n
		return nil
	}
	if d.dirs == nil {
		d.dirs = map[string]*directory{}
	}
	sub = &directory{inode: n}
	d.dirs[name] = sub
	return sub
}

// clone returns a copy of d and the directories below it. Inodes are shared.
func (d *directory) clone() *directory {
	c := &directory{inode: d.inode, files: maps.Clone(d.files)}
	if len(d.dirs) > 0 {
		c.dirs = make(map[string]*directory, len(d.dirs))
	}
	for name, sub := range d.dirs {
		c.dirs[name] = sub.clone()
	}
	return c
}

// Without returns a copy of the tree without the paths for which drop returns true and
// all paths below them. With a nil drop it is a full copy. The inodes are shared; paths
// of one tree can change without effect on the other.
func (t *Tree) Without(drop func(path string) bool) *Tree {
	w := *t
	w.root = t.root.clone()
	if drop != nil {
		for p := range t.All() {
			if p != "" && w.Lookup(p) != nil && drop(p) {
				w.Remove(p)
			}
		}
	}
	return &w
}

// Sub returns a copy of the tree below the directory at path, which becomes the root,
// or nil if path is not a directory. The inodes are shared.
func (t *Tree) Sub(path string) *Tree {
	_, d := t.find(path)
	if d == nil {
		return nil
	}
	return &Tree{root: d.clone(), len: d.count(), modTime: t.modTime}
}

// Len returns the number of paths, with the root.
func (t *Tree) Len() int { return t.len }

// Lookup returns the inode at path, or nil. It does not follow symbolic links.
func (t *Tree) Lookup(path string) *Inode {
	n, _ := t.find(path)
	return n
}

// All yields every path in byte order of the whole path: a directory comes before its
// entries, and the entries of a directory come in byte order of their names.
func (t *Tree) All() iter.Seq2[string, *Inode] {
	return func(yield func(string, *Inode) bool) {
		if yield("", t.root.inode) {
			t.root.all("", yield)
		}
	}
}

// Below yields every path below the directory at path, in the order of [Tree.All]. It
// yields nothing if path is not a directory.
func (t *Tree) Below(path string) iter.Seq2[string, *Inode] {
	return func(yield func(string, *Inode) bool) {
		if _, d := t.find(path); d != nil {
			d.all(strings.TrimPrefix(path+"/", "/"), yield)
		}
	}
}

// item is a step of the walk through a directory: an entry, or everything below one.
type item struct {
	key   string
	inode *Inode
	below *directory
}

func (d *directory) all(prefix string, yield func(string, *Inode) bool) bool {
	items := make([]item, 0, len(d.files)+2*len(d.dirs))
	for name, n := range d.files {
		items = append(items, item{key: name, inode: n})
	}
	for name, sub := range d.dirs {
		// "a" comes before "a-b", which comes before "a/c".
		items = append(items, item{key: name, inode: sub.inode}, item{key: name + "/", below: sub})
	}
	slices.SortFunc(items, func(a, b item) int { return strings.Compare(a.key, b.key) })
	for _, it := range items {
		if it.below != nil {
			if !it.below.all(prefix+it.key, yield) {
				return false
			}
		} else if !yield(prefix+it.key, it.inode) {
			return false
		}
	}
	return true
}

// List yields the entries of the directory at path by name, in byte order of the names.
// It yields nothing if path is not a directory.
func (t *Tree) List(path string) iter.Seq2[string, *Inode] {
	return func(yield func(string, *Inode) bool) {
		_, d := t.find(path)
		if d == nil {
			return
		}
		names := slices.AppendSeq(slices.Collect(maps.Keys(d.files)), maps.Keys(d.dirs))
		slices.Sort(names)
		for _, name := range names {
			n := d.files[name]
			if n == nil {
				n = d.dirs[name].inode
			}
			if !yield(name, n) {
				return
			}
		}
	}
}

// Put sets the inode at path. It makes missing parents with mode 0755, owner 0:0 and the
// tree's time. If path exists, it is replaced: a directory loses its entries, unless
// another directory replaces it.
func (t *Tree) Put(path string, n *Inode) error {
	if err := CheckPath(path); err != nil {
		return err
	}
	if path == "" {
		if n.Type() != Dir {
			return fmt.Errorf("the root of a tree must be a directory")
		}
		t.root.inode = n
		return nil
	}
	up, err := t.makeParents(path)
	if err != nil {
		return err
	}
	// A substring would keep all of path in memory.
	t.set(up, strings.Clone(base(path)), n)
	return nil
}

// makeParents returns the directory that contains path.
func (t *Tree) makeParents(path string) (*directory, error) {
	up := Parent(path)
	n, d := t.find(up)
	switch {
	case n == nil:
		above, err := t.makeParents(up)
		if err != nil {
			return nil, err
		}
		return t.set(above, strings.Clone(base(up)), &Inode{Mode: Dir | 0o755, ModTime: t.modTime}), nil
	case d == nil:
		return nil, fmt.Errorf("%s: its parent %s is not a directory", path, up)
	}
	return d, nil
}

// Remove removes path and everything below it. The root cannot be removed.
func (t *Tree) Remove(path string) {
	n, d := t.find(path)
	if n == nil || path == "" {
		return
	}
	_, up := t.find(Parent(path))
	if d != nil {
		t.len -= d.count()
		delete(up.dirs, base(path))
	} else {
		t.len--
		delete(up.files, base(path))
	}
}
