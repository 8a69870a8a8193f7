// Package tree is a root file system as a value: sorted paths, each with its
// metadata and something to read from. It comes from a folder, a tar or the
// layers of a container image, can be edited, and is what the file system
// writers take.
//
// Hard links are paths that share one *Inode.
package tree

import (
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"imgtool/image"
)

// File types, as in st_mode.
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

// Inode is one file, folder or other node, whatever its names are. It is not
// changed once it is in a tree.
type Inode struct {
	Mode    uint32 // type and permission bits, as Linux has them in st_mode
	UID     uint32
	GID     uint32
	ModTime int64         // seconds since 1970
	Target  string        // of a symbolic link
	Major   uint32        // of a device
	Minor   uint32        // of a device
	Xattrs  []Xattr       // sorted by name
	Content image.Content // of a regular file; nil is empty
}

// Type is the file type part of the mode.
func (n *Inode) Type() uint32 { return n.Mode & TypeMask }

// Size is the length of a regular file in bytes.
func (n *Inode) Size() int64 {
	if n.Content == nil {
		return 0
	}
	return n.Content.Size()
}

// Tree is a set of paths. Paths have no leading slash and no "." or ".."
// elements; the root is "". Every path's parent is a folder in the tree.
type Tree struct {
	root    *folder
	len     int
	modTime int64 // of folders nobody described

	losses   []Loss
	trailing int64
}

// folder is a folder and what is in it by name. Most of what is in a tree is no
// folder, and takes less memory apart from them.
type folder struct {
	node    *Inode
	leaves  map[string]*Inode
	folders map[string]*folder
}

// New returns a tree of just a root folder: mode 0755, owner 0:0, the given
// time.
func New(modTime int64) *Tree {
	return &Tree{root: &folder{node: &Inode{Mode: Dir | 0o755, ModTime: modTime}}, len: 1, modTime: modTime}
}

// find returns what is at path, and as what folder if it is one.
func (t *Tree) find(path string) (*Inode, *folder) {
	f := t.root
	for path != "" {
		name, rest, below := strings.Cut(path, "/")
		if below && rest == "" {
			return nil, nil
		}
		sub := f.folders[name]
		if sub == nil && !below {
			return f.leaves[name], nil
		}
		if sub == nil {
			return nil, nil
		}
		f, path = sub, rest
	}
	return f.node, f
}

// count is the number of paths in f, itself included.
func (f *folder) count() int {
	n := 1 + len(f.leaves)
	for _, sub := range f.folders {
		n += sub.count()
	}
	return n
}

// set puts n under a name that is the map's to keep, and returns its folder if it
// is one. A folder in the place of a folder keeps what is in it.
func (t *Tree) set(f *folder, name string, n *Inode) *folder {
	sub := f.folders[name]
	switch {
	case n.Type() == Dir && sub != nil:
		sub.node = n
		return sub
	case sub != nil:
		t.len -= sub.count()
		delete(f.folders, name)
	case f.leaves[name] != nil:
		t.len--
		if n.Type() == Dir {
			delete(f.leaves, name)
		}
	}
	t.len++
	if n.Type() != Dir {
		if f.leaves == nil {
			f.leaves = map[string]*Inode{}
		}
		f.leaves[name] = n
		return nil
	}
	if f.folders == nil {
		f.folders = map[string]*folder{}
	}
	sub = &folder{node: n}
	f.folders[name] = sub
	return sub
}

// clone is a copy of f and all folders below. The nodes are shared.
func (f *folder) clone() *folder {
	c := &folder{node: f.node, leaves: maps.Clone(f.leaves)}
	if len(f.folders) > 0 {
		c.folders = make(map[string]*folder, len(f.folders))
	}
	for name, sub := range f.folders {
		c.folders[name] = sub.clone()
	}
	return c
}

// Without is a tree of the same nodes but for the paths that drop says yes to, and
// all below them. A nil drop drops nothing. The two trees share nodes; what is
// done to the paths of one is not seen in the other.
func (t *Tree) Without(drop func(path string) bool) *Tree {
	w := &Tree{root: t.root.clone(), len: t.len, modTime: t.modTime, losses: t.losses, trailing: t.trailing}
	if drop != nil {
		for p := range t.All() {
			if p != "" && w.Lookup(p) != nil && drop(p) {
				w.Remove(p)
			}
		}
	}
	return w
}

// Sub is the part of the tree that is below the folder at path, which becomes the
// root, or nil if there is no folder.
func (t *Tree) Sub(path string) *Tree {
	_, f := t.find(path)
	if f == nil {
		return nil
	}
	return &Tree{root: f.clone(), len: f.count(), modTime: t.modTime}
}

// Len is the number of paths, the root included.
func (t *Tree) Len() int { return t.len }

// Lookup returns what is at path, or nil. It follows no links.
func (t *Tree) Lookup(path string) *Inode {
	n, _ := t.find(path)
	return n
}

// All gives every path in byte order of the whole path: a folder comes before
// what is in it, and the entries of one folder come in byte order of their
// names. The root "" is first.
func (t *Tree) All() iter.Seq2[string, *Inode] {
	return func(yield func(string, *Inode) bool) {
		if yield("", t.root.node) {
			t.root.all("", yield)
		}
	}
}

// item is a step on the way through a folder: a path, or all below one.
type item struct {
	key   string
	node  *Inode
	below *folder
}

func (f *folder) all(prefix string, yield func(string, *Inode) bool) bool {
	items := make([]item, 0, len(f.leaves)+2*len(f.folders))
	for name, n := range f.leaves {
		items = append(items, item{key: name, node: n})
	}
	for name, sub := range f.folders {
		// What is below "a" comes after "a-b", which comes after "a".
		items = append(items, item{key: name, node: sub.node}, item{key: name + "/", below: sub})
	}
	slices.SortFunc(items, func(a, b item) int { return strings.Compare(a.key, b.key) })
	for _, it := range items {
		if it.below != nil {
			if !it.below.all(prefix+it.key, yield) {
				return false
			}
		} else if !yield(prefix+it.key, it.node) {
			return false
		}
	}
	return true
}

// Below gives every path below the directory at path, in the order of All, and nothing
// if there is no directory.
func (t *Tree) Below(path string) iter.Seq2[string, *Inode] {
	return func(yield func(string, *Inode) bool) {
		if _, f := t.find(path); f != nil {
			f.all(strings.TrimPrefix(path+"/", "/"), yield)
		}
	}
}

// List gives what is in the folder at path, by name and in byte order of the
// names, and nothing if there is no folder.
func (t *Tree) List(path string) iter.Seq2[string, *Inode] {
	return func(yield func(string, *Inode) bool) {
		_, f := t.find(path)
		if f == nil {
			return
		}
		names := slices.AppendSeq(slices.Collect(maps.Keys(f.leaves)), maps.Keys(f.folders))
		slices.Sort(names)
		for _, name := range names {
			n := f.leaves[name]
			if n == nil {
				n = f.folders[name].node
			}
			if !yield(name, n) {
				return
			}
		}
	}
}

// Put sets what is at path. Missing parents are made 0755, owner 0:0, with the
// tree's time. What was at path is replaced; a folder replaced by something else
// loses what was in it, a folder replaced by a folder keeps it.
func (t *Tree) Put(path string, n *Inode) error {
	if err := CheckPath(path); err != nil {
		return err
	}
	if path == "" {
		if n.Type() != Dir {
			return fmt.Errorf("the root of a tree must be a folder")
		}
		t.root.node = n
		return nil
	}
	up, err := t.makeParents(path)
	if err != nil {
		return err
	}
	// A part of a string keeps all of it.
	t.set(up, strings.Clone(base(path)), n)
	return nil
}

// makeParents returns the folder that path is in.
func (t *Tree) makeParents(path string) (*folder, error) {
	up := Parent(path)
	n, f := t.find(up)
	switch {
	case n == nil:
		above, err := t.makeParents(up)
		if err != nil {
			return nil, err
		}
		return t.set(above, strings.Clone(base(up)), &Inode{Mode: Dir | 0o755, ModTime: t.modTime}), nil
	case f == nil:
		return nil, fmt.Errorf("%s: its parent %s is not a folder", path, up)
	}
	return f, nil
}

// Remove takes away path and all below it.
func (t *Tree) Remove(path string) {
	n, f := t.find(path)
	if n == nil || path == "" {
		return
	}
	_, up := t.find(Parent(path))
	if f != nil {
		t.len -= f.count()
		delete(up.folders, base(path))
	} else {
		t.len--
		delete(up.leaves, base(path))
	}
}
