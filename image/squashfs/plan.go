package squashfs

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"path"
	"strings"

	"imgtool/image"
	"imgtool/image/tree"
	"imgtool/image/tree/sums"
)

// plan describes a file system before it is written.
type plan struct {
	nodes []*node // by inode number, from 1
	files []*node // regular files in the order of their first paths
	ids   []uint32
	// The stored form of each set of xattrs, and the number of xattrs in each.
	xattrs      [][]byte
	xattrCounts []uint32
	tailEnds    []tailEnd
	shared      map[*fileData]position // files whose blocks another file has
	duplicates  bool
}

type node struct {
	*tree.Inode
	name     string // its first name, in parent
	parent   *node
	number   uint32
	links    uint32
	uid, gid uint16 // numbers in the id table
	xattr    uint32 // number of its set, or none
	written  bool
	ref      uint64    // in the inode table, once written
	data     *fileData // of a regular file
	dir      *dirData  // of a directory
}

type dirData struct {
	children []child
	listing  listing
}

// path returns the node's first path.
func (n *node) path() string {
	if n.parent == nil {
		return ""
	}
	return path.Join(n.parent.path(), n.name)
}

type child struct {
	name string
	node *node
}

// fileData is the part of a node that only regular files have.
type fileData struct {
	size    int64
	sums    *sums.File // checksums, each of as many bytes as hashed returns
	blocks  int64      // number of blocks, including a tail end that is a separate block
	tailEnd int32      // index in plan.tailEnds, or -1

	kept  bool     // its blocks stay as in Options.Like
	start int64    // byte offset of its blocks
	words []uint32 // stored length of each block, with blockRaw; 0 is a hole
}

// newPlan makes the inodes of a tree, and refuses what squashfs cannot hold.
func newPlan(t *tree.Tree) (*plan, error) {
	p := &plan{}
	dirs := map[string]*node{}
	links := map[*tree.Inode]*node{}
	idNumbers := map[uint32]uint16{}
	xattrNumbers := map[string]uint32{}
	for path, in := range t.All() {
		parent := dirs[tree.Parent(path)] // nil for the root
		name := path[strings.LastIndexByte(path, '/')+1:]
		n := links[in]
		if n == nil || in.Type() == tree.Dir {
			// A copy, so that the path can be freed.
			name = strings.Clone(name)
			n = &node{Inode: in, name: name, parent: parent}
			err := n.check()
			if err == nil {
				n.uid, err = p.id(in.UID, idNumbers)
			}
			if err == nil {
				n.gid, err = p.id(in.GID, idNumbers)
			}
			if err == nil {
				n.xattr, err = p.xattrSet(in.Xattrs, xattrNumbers)
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", show(path), err)
			}
			switch in.Type() {
			case tree.Dir:
				n.links = 2
				n.dir = &dirData{}
				dirs[path] = n
			case tree.Regular:
				n.data = &fileData{size: in.Size(), tailEnd: -1}
				p.files = append(p.files, n)
				fallthrough
			default:
				links[in] = n
			}
		}
		if parent == nil {
			continue
		}
		parent.dir.children = append(parent.dir.children, child{name, n})
		if in.Type() == tree.Dir {
			parent.links++
		} else {
			n.links++
		}
	}
	p.number(dirs[""])
	return p, nil
}

// number gives the entries of each directory consecutive inode numbers, because a
// listing stores differences of 16 bits.
func (p *plan) number(root *node) {
	give := func(n *node) {
		p.nodes = append(p.nodes, n)
		n.number = uint32(len(p.nodes))
	}
	give(root)
	var walk func(*node)
	walk = func(dir *node) {
		for _, c := range dir.dir.children {
			if c.node.number == 0 {
				give(c.node)
			}
		}
		for _, c := range dir.dir.children {
			if c.node.Type() == tree.Dir {
				walk(c.node)
			}
		}
	}
	walk(root)
}

func (n *node) check() error {
	switch n.Type() {
	case tree.Dir, tree.Fifo, tree.Socket:
	case tree.Regular:
		if n.Size() < 0 {
			return fmt.Errorf("invalid file size %d", n.Size())
		}
	case tree.Symlink:
		if n.Target == "" || len(n.Target) > maxTarget || strings.IndexByte(n.Target, 0) >= 0 {
			return fmt.Errorf("the target of a symbolic link must have 1 to %d bytes and no zero byte: %.60q", maxTarget, n.Target)
		}
	case tree.CharDev, tree.BlockDev:
		if n.Major > 0xfff || n.Minor > 0xfffff {
			return fmt.Errorf("device %d:%d is beyond the limit of squashfs, 4095:1048575", n.Major, n.Minor)
		}
	default:
		return fmt.Errorf("mode %#o has no file type", n.Mode)
	}
	return nil
}

// id returns the index of a user or group ID in the ID table.
func (p *plan) id(id uint32, numbers map[uint32]uint16) (uint16, error) {
	n, ok := numbers[id]
	if !ok {
		if len(p.ids) == math.MaxUint16 {
			return 0, fmt.Errorf("squashfs cannot hold more than %d different owners and groups", math.MaxUint16)
		}
		n = uint16(len(p.ids))
		numbers[id] = n
		p.ids = append(p.ids, id)
	}
	return n, nil
}

// xattrSet returns the index of a set of xattrs. Equal sets are stored once. Values
// are stored with their keys, never out of line.
func (p *plan) xattrSet(xattrs []tree.Xattr, numbers map[string]uint32) (uint32, error) {
	if len(xattrs) == 0 {
		return none, nil
	}
	var set []byte
	for _, x := range xattrs {
		kind, rest := -1, ""
		for i, prefix := range prefixes {
			if s, ok := strings.CutPrefix(x.Name, prefix); ok {
				kind, rest = i, s
			}
		}
		switch {
		case kind < 0 || rest == "" || len(x.Name) > maxName:
			return 0, fmt.Errorf("squashfs cannot hold the attribute %.60q: names must begin with user., trusted. or security. and have at most %d bytes", x.Name, maxName)
		case len(x.Value) > maxXattr:
			return 0, fmt.Errorf("attribute %s of %d bytes is larger than %d", x.Name, len(x.Value), maxXattr)
		}
		set = appendTo(set, uint16(kind), uint16(len(rest)))
		set = append(set, rest...)
		set = appendTo(set, uint32(len(x.Value)))
		set = append(set, x.Value...)
	}
	n, ok := numbers[string(set)]
	if !ok {
		n = uint32(len(p.xattrs))
		numbers[string(set)] = n
		p.xattrs = append(p.xattrs, set)
		p.xattrCounts = append(p.xattrCounts, uint32(len(xattrs)))
	}
	return n, nil
}

func (n *node) read(b []byte, off int64) error {
	k, err := image.ReadFull(n.Content, b, off)
	if err == nil {
		return nil
	}
	if err == io.ErrUnexpectedEOF {
		err = fmt.Errorf("the file ends there, but its size is %d bytes: %w", n.data.size, err)
	}
	return fmt.Errorf("%s: reading at byte %d: %w", show(n.path()), off+int64(k), err)
}

func show(path string) string { return cmp.Or(path, "/") }
