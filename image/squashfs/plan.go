package squashfs

import (
	"fmt"
	"io"
	"math"
	"strings"

	"imgtool/image/tree"
	"imgtool/image/tree/sums"
)

// plan is all that is known of a file system before a byte of it is written.
type plan struct {
	nodes []*node // by inode number, from 1
	files []*node // the regular ones in the order of their first paths
	ids   []uint32
	// Sets of xattrs as they are stored, by their number, and how many are in each.
	xattrs      [][]byte
	xattrCounts []uint32
	ends        []end
	like        map[*data]place // files whose blocks are those of another
	duplicates  bool
}

// node is an inode to be.
type node struct {
	*tree.Inode
	name     string // the first of its names, and the folder that is in
	parent   *node
	number   uint32
	links    uint32
	uid, gid uint16 // numbers in the id table
	xattr    uint32 // number of its set, or none
	written  bool
	ref      uint64  // in the inode table, once written
	data     *data   // of a regular file
	folder   *folded // of a folder
}

// folded is what only folders have.
type folded struct {
	children []child
	listing  listing
}

// path is the first of the node's paths.
func (n *node) path() string {
	if n.parent == nil {
		return n.name
	}
	if up := n.parent.path(); up != "" {
		return up + "/" + n.name
	}
	return n.name
}

type child struct {
	name string
	node *node
}

// data is where a regular file's bytes are.
type data struct {
	size   int64
	sums   *sums.File // of what hashed gives, block by block
	blocks int64      // of its own: the full ones, and an end that is in no fragment
	end    int32      // number of its end in a fragment, or -1

	start int64    // of its blocks on disk
	words []uint32 // a block's bytes on disk, with blockRaw; 0 is a hole
}

// newPlan refuses what the format cannot hold.
func newPlan(t *tree.Tree) (*plan, error) {
	p := &plan{}
	folders := map[string]*node{}
	links := map[*tree.Inode]*node{}
	idNumbers := map[uint32]uint16{}
	xattrNumbers := map[string]uint32{}
	var err error
	for path, in := range t.All() {
		dir, name := "", path
		if i := strings.LastIndexByte(path, '/'); i >= 0 {
			dir, name = path[:i], path[i+1:]
		}
		parent := folders[dir]
		n := links[in]
		if n == nil || in.Type() == tree.Dir {
			// All have a copy of the name, and none of the path.
			name = strings.Clone(name)
			n = &node{Inode: in, name: name}
			if path != "" {
				n.parent = parent
			}
			if err := n.check(); err != nil {
				return nil, fmt.Errorf("%s: %w", show(path), err)
			}
			if n.uid, err = p.id(in.UID, idNumbers); err != nil {
				return nil, fmt.Errorf("%s: %w", show(path), err)
			}
			if n.gid, err = p.id(in.GID, idNumbers); err != nil {
				return nil, fmt.Errorf("%s: %w", show(path), err)
			}
			if n.xattr, err = p.xattrSet(in.Xattrs, xattrNumbers); err != nil {
				return nil, fmt.Errorf("%s: %w", show(path), err)
			}
			switch in.Type() {
			case tree.Dir:
				n.links = 2
				n.folder = &folded{}
				folders[path] = n
			case tree.Regular:
				n.data = &data{size: in.Size(), end: -1}
				p.files = append(p.files, n)
				fallthrough
			default:
				links[in] = n
			}
		}
		if path == "" {
			continue
		}
		parent.folder.children = append(parent.folder.children, child{name, n})
		if in.Type() == tree.Dir {
			parent.links++
		} else {
			n.links++
		}
	}
	p.number(folders[""])
	return p, nil
}

// number gives the entries of each folder consecutive inode numbers: a listing
// stores the differences.
func (p *plan) number(root *node) {
	give := func(n *node) {
		p.nodes = append(p.nodes, n)
		n.number = uint32(len(p.nodes))
	}
	give(root)
	var walk func(*node)
	walk = func(dir *node) {
		for _, c := range dir.folder.children {
			if c.node.number == 0 {
				give(c.node)
			}
		}
		for _, c := range dir.folder.children {
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
			return fmt.Errorf("a file of %d bytes cannot be", n.Size())
		}
	case tree.Symlink:
		if n.Target == "" || len(n.Target) > maxTarget || strings.IndexByte(n.Target, 0) >= 0 {
			return fmt.Errorf("the target of a symbolic link has 1 to %d bytes and none of them zero, not %.60q", maxTarget, n.Target)
		}
	case tree.CharDev, tree.BlockDev:
		if n.Major > 0xfff || n.Minor > 0xfffff {
			return fmt.Errorf("device %d:%d is beyond what squashfs can hold, 4095:1048575", n.Major, n.Minor)
		}
	default:
		return fmt.Errorf("mode %#o has no file type", n.Mode)
	}
	return nil
}

// id is the number of a user's or group's id in the id table.
func (p *plan) id(id uint32, numbers map[uint32]uint16) (uint16, error) {
	n, ok := numbers[id]
	if !ok {
		if len(p.ids) == math.MaxUint16 {
			return 0, fmt.Errorf("squashfs holds no more than %d different owners and groups", math.MaxUint16)
		}
		n = uint16(len(p.ids))
		numbers[id] = n
		p.ids = append(p.ids, id)
	}
	return n, nil
}

// xattrSet is the number of a set of xattrs. Values are always stored in place;
// that equal sets are stored once leaves little to share.
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
			return 0, fmt.Errorf("squashfs holds no attribute named %.60q: it has user., trusted. and security. names of up to %d bytes", x.Name, maxName)
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

// read fills b with the file's bytes at off, or says which file it was not
// possible for.
func (n *node) read(b []byte, off int64) error {
	k, err := n.Content.ReadAt(b, off)
	if k == len(b) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = fmt.Errorf("it ends there, but has a size of %d bytes: %w", n.data.size, io.ErrUnexpectedEOF)
	}
	return fmt.Errorf("%s: reading at byte %d: %w", show(n.path()), off+int64(k), err)
}

func show(path string) string {
	if path == "" {
		return "/"
	}
	return path
}
