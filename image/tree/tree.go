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
	nodes   map[string]*Inode
	modTime int64 // of folders nobody described

	lost      int // paths with extended attributes that were left out
	lostFirst string
}

// New returns a tree of just a root folder: mode 0755, owner 0:0, the given
// time.
func New(modTime int64) *Tree {
	return &Tree{nodes: map[string]*Inode{"": {Mode: Dir | 0o755, ModTime: modTime}}, modTime: modTime}
}

// Without is a tree of the same nodes but for the paths that drop says yes to, and
// all below them. A nil drop drops nothing. The two trees share nodes; what is
// done to the paths of one is not seen in the other.
func (t *Tree) Without(drop func(path string) bool) *Tree {
	w := &Tree{nodes: make(map[string]*Inode, len(t.nodes)), modTime: t.modTime, lost: t.lost, lostFirst: t.lostFirst}
	if drop == nil {
		maps.Copy(w.nodes, t.nodes)
		return w
	}
	for p, n := range t.All() {
		if p == "" || w.nodes[parent(p)] != nil && !drop(p) {
			w.nodes[p] = n
		}
	}
	return w
}

// LostXattrs says how many paths had extended attributes that no file system
// writer takes, and names one.
func (t *Tree) LostXattrs() (n int, first string) { return t.lost, t.lostFirst }

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
		left.nodes[path] = changed[old]
	}
	return left, n, first
}

// Len is the number of paths, the root included.
func (t *Tree) Len() int { return len(t.nodes) }

// Lookup returns what is at path, or nil. It follows no links.
func (t *Tree) Lookup(path string) *Inode { return t.nodes[path] }

// All gives every path in byte order of the whole path: a folder comes before
// what is in it, and the entries of one folder come in byte order of their
// names. The root "" is first.
func (t *Tree) All() iter.Seq2[string, *Inode] {
	return func(yield func(string, *Inode) bool) {
		paths := make([]string, 0, len(t.nodes))
		for p := range t.nodes {
			paths = append(paths, p)
		}
		slices.Sort(paths)
		for _, p := range paths {
			if !yield(p, t.nodes[p]) {
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
	if n := t.nodes[real]; n != nil {
		return n, nil
	}
	missing := real
	for up := parent(real); t.nodes[up] == nil; up = parent(up) {
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
		if up := t.nodes[parent(clean)]; up != nil && up.Type() == Dir {
			return clean, nil
		}
	}
	return t.resolve(path, last)
}

// resolve returns the path without symbolic links on the way to its last
// element, and with last without one there either. What is not in the tree has
// no links. It fails where a link or parent is no folder.
func (t *Tree) resolve(path string, last bool) (string, error) {
	if up := t.nodes[parent(path)]; !last && up != nil && up.Type() == Dir {
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
		next := name
		if at != "" {
			next = at + "/" + name
		}
		end := strings.Trim(rest, "/") == ""
		n := t.nodes[next]
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
		t.nodes[""] = n
		return nil
	}
	if err := t.makeParents(path); err != nil {
		return err
	}
	if old := t.nodes[path]; old != nil && old.Type() == Dir && n.Type() != Dir {
		t.Remove(path)
	}
	t.nodes[path] = n
	return nil
}

func (t *Tree) makeParents(path string) error {
	up := parent(path)
	switch n := t.nodes[up]; {
	case n == nil:
		if err := t.makeParents(up); err != nil {
			return err
		}
		t.nodes[up] = &Inode{Mode: Dir | 0o755, ModTime: t.modTime}
	case n.Type() != Dir:
		return fmt.Errorf("%s: its parent %s is not a folder", path, up)
	}
	return nil
}

// Remove takes away path and all below it.
func (t *Tree) Remove(path string) {
	n := t.nodes[path]
	if n == nil || path == "" {
		return
	}
	delete(t.nodes, path)
	if n.Type() != Dir {
		return
	}
	for p := range t.nodes {
		if strings.HasPrefix(p, path) && len(p) > len(path) && p[len(path)] == '/' {
			delete(t.nodes, p)
		}
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
