// Package tree is a root file system as a value: sorted paths, each with its
// metadata and something to read from. It comes from a folder, a tar or the
// layers of a container image, can be edited, and is what the file system
// writers take.
//
// Hard links are paths that share one *Inode.
package tree

import (
	"fmt"
	"io/fs"
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

// Xattr is an extended attribute with its full name, such as
// "security.capability".
type Xattr struct {
	Name  string
	Value string
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

	losses []Loss
	behind int64
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
	w := &Tree{root: t.root.clone(), len: t.len, modTime: t.modTime, losses: t.losses, behind: t.behind}
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

// WithoutXattrs is a tree without the extended attributes for which drop says so,
// how many paths had any, and the first of them.
func (t *Tree) WithoutXattrs(drop func(name string) bool) (left *Tree, n int, first string) {
	left = t
	changed := map[*Inode]*Inode{}
	for path, old := range t.All() {
		if !slices.ContainsFunc(old.Xattrs, func(x Xattr) bool { return drop(x.Name) }) {
			continue
		}
		if n++; n == 1 {
			left, first = t.Without(nil), path
		}
		if changed[old] == nil {
			made := *old
			made.Xattrs = slices.DeleteFunc(slices.Clone(old.Xattrs), func(x Xattr) bool { return drop(x.Name) })
			changed[old] = &made
		}
		left.replace(path, changed[old])
	}
	return left, n, first
}

// replace puts n in the place of what is at path, which is of the same type.
func (t *Tree) replace(path string, n *Inode) {
	if _, f := t.find(path); f != nil {
		f.node = n
		return
	}
	_, up := t.find(parent(path))
	up.leaves[strings.Clone(base(path))] = n
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

// Open returns what is at path, following symbolic links as a process would
// whose root folder this tree is. Where something is missing, the error says
// what, and wraps fs.ErrNotExist.
func (t *Tree) Open(path string) (*Inode, error) {
	real, err := t.resolve(path, true)
	if err != nil {
		return nil, err
	}
	if n := t.Lookup(real); n != nil {
		return n, nil
	}
	missing := real
	for up := parent(real); t.Lookup(up) == nil; up = parent(up) {
		missing = up
	}
	if strings.Trim(path, "/") == missing {
		return nil, fmt.Errorf("%s: %w", path, fs.ErrNotExist)
	}
	return nil, fmt.Errorf("%s: %s: %w", path, missing, fs.ErrNotExist)
}

// Resolve is where path leads: without symbolic links on the way to its last
// element, and with last without one there either. It follows them as Open does;
// what is not in the tree need not be there. An error is a loop, or a parent that
// is no folder.
func (t *Tree) Resolve(path string, last bool) (string, error) {
	clean := strings.Trim(path, "/")
	switch clean[strings.LastIndexByte(clean, '/')+1:] {
	case "", ".", "..":
		last = true
	}
	if !last {
		// As resolve does, but for paths with a slash before them.
		if up := t.Lookup(parent(clean)); up != nil && up.Type() == Dir {
			return clean, nil
		}
	}
	return t.resolve(path, last)
}

// resolve returns the path without symbolic links on the way to its last
// element, and with last without one there either. What is not in the tree has
// no links. It fails where a link or parent is no folder.
func (t *Tree) resolve(path string, last bool) (string, error) {
	if up := t.Lookup(parent(path)); !last && up != nil && up.Type() == Dir {
		return path, nil
	}
	at, rest, links := "", path, 0
	for rest != "" {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		switch name {
		case "", ".":
			continue
		case "..":
			at = parent(at)
			continue
		}
		next := join(at, name)
		end := strings.Trim(rest, "/") == ""
		n := t.Lookup(next)
		switch {
		case end && !last || n == nil || n.Type() == Dir:
			at = next
		case n.Type() == Symlink:
			if links++; links > 40 {
				return "", fmt.Errorf("%s: more than 40 symbolic links on the way", path)
			}
			if strings.HasPrefix(n.Target, "/") {
				at = ""
			}
			rest = n.Target + "/" + rest
		case !end:
			return "", fmt.Errorf("%s: its parent %s is not a folder", path, next)
		default:
			at = next
		}
	}
	return at, nil
}

func parent(path string) string {
	return path[:max(0, strings.LastIndexByte(path, '/'))]
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

func base(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }

// Put sets what is at path. Missing parents are made 0755, owner 0:0, with the
// tree's time. What was at path is replaced; a folder replaced by something else
// loses what was in it, a folder replaced by a folder keeps it.
func (t *Tree) Put(path string, n *Inode) error {
	if err := checkPath(path); err != nil {
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
	up := parent(path)
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
	_, up := t.find(parent(path))
	if f != nil {
		t.len -= f.count()
		delete(up.folders, base(path))
	} else {
		t.len--
		delete(up.leaves, base(path))
	}
}

func checkPath(path string) error {
	if path == "" {
		return nil
	}
	if len(path) > 4096 {
		return fmt.Errorf("%.60s…: a path of %d bytes is longer than 4096", path, len(path))
	}
	for e := range strings.SplitSeq(path, "/") {
		switch {
		case e == "" || e == "." || e == "..":
			return fmt.Errorf("%q is not a clean path", path)
		case len(e) > 255:
			return fmt.Errorf("%.60s…: a name of %d bytes is longer than 255", e, len(e))
		case strings.IndexByte(e, 0) >= 0:
			return fmt.Errorf("%q has a zero byte", path)
		}
	}
	return nil
}
