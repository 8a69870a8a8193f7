package squashfs

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math"
	"strings"

	"golang.org/x/sync/errgroup"

	"imgtool/image/tree"
)

// plan is all that is known of a file system before a byte of it is written.
type plan struct {
	nodes []*node // by inode number, from 1
	files []*node // the regular ones in the order of their first paths
	ids   []uint32
	// Sets of xattrs as they are stored, by their number, and how many are in each.
	xattrs      [][]byte
	xattrCounts []uint32
	duplicates  bool
}

// node is an inode to be.
type node struct {
	*tree.Inode
	path     string // the first of its paths
	number   uint32
	links    uint32
	uid, gid uint16 // numbers in the id table
	xattr    uint32 // number of its set, or none
	data     *data  // of a regular file
	ref      uint64 // in the inode table, once written
	written  bool

	// Of a folder:
	children []child
	parent   *node
	listing  listing
}

type child struct {
	name string
	node *node
}

// data is where a regular file's bytes are. Equal files share one.
type data struct {
	size       int64
	start      int64    // of its blocks on disk
	words      []uint32 // a block's bytes on disk, with blockRaw; 0 is a hole
	sparse     int64    // bytes in holes
	fragment   uint32   // that holds its end, or none
	fragmentAt uint32
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
		n := links[in]
		if n == nil || in.Type() == tree.Dir {
			n = &node{Inode: in, path: path}
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
				folders[path] = n
			case tree.Regular:
				n.data = &data{size: in.Size(), fragment: none}
				p.files = append(p.files, n)
				fallthrough
			default:
				links[in] = n
			}
		}
		if path == "" {
			continue
		}
		dir, name := "", path
		if i := strings.LastIndexByte(path, '/'); i >= 0 {
			dir, name = path[:i], path[i+1:]
		}
		parent := folders[dir]
		parent.children = append(parent.children, child{name, n})
		if in.Type() == tree.Dir {
			n.parent = parent
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
		for _, c := range dir.children {
			if c.node.number == 0 {
				give(c.node)
			}
		}
		for _, c := range dir.children {
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

// share finds files with equal content and gives them one data. Only files of
// equal size are read for it.
func (p *plan) share(ctx context.Context, workers int) error {
	sizes := map[int64]int{}
	for _, n := range p.files {
		sizes[n.data.size]++
	}
	sums := make([][sha256.Size]byte, len(p.files))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(workers)
	buffers := make(chan []byte, workers)
	for range workers {
		buffers <- make([]byte, 256<<10)
	}
	for i, n := range p.files {
		if n.data.size == 0 || sizes[n.data.size] == 1 {
			continue
		}
		g.Go(func() error {
			buf := <-buffers
			defer func() { buffers <- buf }()
			h := sha256.New()
			for off := int64(0); off < n.data.size; {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				part := buf[:min(int64(len(buf)), n.data.size-off)]
				if err := n.read(part, off); err != nil {
					return err
				}
				h.Write(part)
				off += int64(len(part))
			}
			h.Sum(sums[i][:0])
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	type key struct {
		size int64
		sum  [sha256.Size]byte
	}
	first := map[key]*data{}
	for i, n := range p.files {
		if n.data.size == 0 || sizes[n.data.size] == 1 {
			continue
		}
		k := key{n.data.size, sums[i]}
		if d := first[k]; d != nil {
			n.data, p.duplicates = d, true
		} else {
			first[k] = n.data
		}
	}
	return nil
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
	return fmt.Errorf("%s: reading at byte %d: %w", show(n.path), off+int64(k), err)
}

func show(path string) string {
	if path == "" {
		return "/"
	}
	return path
}

// piece is a run of a file's bytes.
type piece struct {
	node *node
	off  int64
	len  int
}

// block is a data block of one file or a fragment block of the ends of several.
type block struct {
	file   *data // nil for a fragment block
	pieces []piece
}

// blocks are all blocks in the order they are written. A fragment block comes
// between files, since the blocks of one file are contiguous on disk. It sets
// where the ends of files are.
func (p *plan) blocks(size int, yield func(block) bool) {
	var ends []piece
	fragment, used := uint32(0), 0
	seen := map[*data]bool{}
	for _, n := range p.files {
		d := n.data
		if d.size == 0 || seen[d] {
			continue
		}
		if p.duplicates {
			seen[d] = true
		}
		off := int64(0)
		for ; d.size-off >= int64(size); off += int64(size) {
			if !yield(block{d, []piece{{n, off, size}}}) {
				return
			}
		}
		end := int(d.size - off)
		if end == 0 {
			continue
		}
		if used+end > size {
			if !yield(block{nil, ends}) {
				return
			}
			ends, used = nil, 0
			fragment++
		}
		d.fragment, d.fragmentAt = fragment, uint32(used)
		ends = append(ends, piece{n, off, end})
		used += end
	}
	if used > 0 {
		yield(block{nil, ends})
	}
}
