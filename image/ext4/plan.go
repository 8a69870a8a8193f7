package ext4

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"imgtool/image"
	"imgtool/image/tree"
)

// Options are the properties of a file system that are not in its tree. Only Size is
// required.
type Options struct {
	Label    string   // up to 16 bytes
	UUID     [16]byte // also the seed of checksums
	HashSeed [16]byte // of the index of large directories
	Time     int64    // of creation, last write and last check, in seconds since 1970; also of files that are added, such as lost+found
	Size     int64    // in bytes, a multiple of 4096

	Inodes      int64 // minimum number; 0 is the number that mke2fs would choose, or more if the tree needs more
	JournalSize int64 // in bytes; 0 is the size that mke2fs would choose, up to 64 MiB; negative omits the journal
	Reserved    int   // percentage of blocks that only root may use; 0 is 5, as in mke2fs; negative is none

	// First has the paths of files, and of directories with files, that are first on
	// disk, each contiguous if possible, without holes: files that a boot loader reads.
	First []string

	// Last has the paths of files and directories whose inodes and blocks are after all
	// others, so that they do not change the position of any other.
	Last []string
}

func (o *Options) last(path string) bool {
	return slices.ContainsFunc(o.Last, func(last string) bool {
		last = strings.Trim(last, "/")
		return path == last || strings.HasPrefix(path, last+"/")
	})
}

type file struct {
	path    string
	node    *tree.Inode
	number  uint32
	links   int64
	size    int64         // i_size
	content image.Content // of the blocks, without holes; nil if there are no blocks
	mapped  []run         // the blocks of the file that content has; nil: all
	dir     *directory    // nil if this is another type of file
	xattrs  []byte        // in the inode
	more    *xattrBlock   // xattrs in a block
	runs    []run
	extents []extent
	index   []run // blocks of the extent tree
}

func (f *file) blocks() int64 {
	if f.content == nil {
		return 0
	}
	return ceil(f.content.Size(), blockSize)
}

// plan describes a file system before it is written.
type plan struct {
	opt    Options
	seed   uint32
	files  []*file // by inode number, from lostInode on
	root   *file
	order  []*file // the order on disk
	firsts int     // number of files that are before the journal
	xattrs []*xattrBlock

	*geometry
	space      space
	journal    *file
	resize     []run // double indirect block of the resize inode
	xattrsRuns []run
}

// collect makes the inodes of a tree. It reads no file.
func collect(t *tree.Tree, opt Options) (*plan, error) {
	if len(opt.Label) > 16 || strings.IndexByte(opt.Label, 0) >= 0 {
		return nil, fmt.Errorf("the label %q is longer than 16 bytes or has a zero byte", opt.Label)
	}
	if t == nil {
		t = tree.New(opt.Time)
	}
	if opt.Reserved == 0 {
		opt.Reserved = 5
	}
	if opt.Reserved > 50 {
		return nil, fmt.Errorf("%d percent reserved blocks are more than 50", opt.Reserved)
	}
	lost := &file{path: "lost+found", number: lostInode, node: &tree.Inode{Mode: tree.Dir | 0o700, ModTime: opt.Time}}
	if n := t.Lookup(lost.path); n != nil {
		if lost.node = n; n.Type() != tree.Dir {
			return nil, fmt.Errorf("%s: must be a directory in ext4", lost.path)
		}
	}
	p := &plan{opt: opt, seed: crc(math.MaxUint32, opt.UUID[:]), files: []*file{lost}}
	c := &collector{plan: p, dirs: map[string]*file{}, linked: map[*tree.Inode]*file{}, blocks: &xattrBlocks{same: map[string]*xattrBlock{}}}
	for _, path := range p.paths(t) {
		if err := c.add(path, t.Lookup(path)); err != nil {
			return nil, err
		}
	}
	if lost.dir == nil { // not in the tree
		if err := c.add(lost.path, lost.node); err != nil {
			return nil, err
		}
	}
	p.xattrs = c.blocks.all
	// lost+found has the same place whether the tree contains it or not.
	slices.SortFunc(p.root.dir.entries, func(a, b entry) int { return strings.Compare(a.name, b.name) })

	for _, f := range append([]*file{p.root}, p.files...) {
		if f.dir == nil {
			continue
		}
		if err := f.dir.layOut(); err != nil {
			return nil, fmt.Errorf("%s: %w", f.path, err)
		}
		f.size = f.dir.blocks * blockSize
		f.content = &rendered{f.dir.blocks, f.dir.block}
	}
	p.arrange()
	return p, nil
}

// paths returns the paths of a tree in the order of inode numbers: the paths of
// Options.Last are last.
func (p *plan) paths(t *tree.Tree) []string {
	var paths, last []string
	for path := range t.All() {
		if path != "" && p.opt.last(path) {
			last = append(last, path)
		} else {
			paths = append(paths, path)
		}
	}
	return append(paths, last...)
}

type collector struct {
	*plan
	dirs   map[string]*file // by path
	linked map[*tree.Inode]*file
	blocks *xattrBlocks
}

// add adds a path and, unless it is a hard link to an earlier one, its inode.
func (c *collector) add(path string, n *tree.Inode) error {
	if f := c.linked[n]; f != nil && n.Type() != tree.Dir {
		if f.links++; f.links > maxLinks {
			return fmt.Errorf("%s: the file has more than %d names", path, maxLinks)
		}
		c.enter(f, path)
		return nil
	}
	f := &file{path: path, node: n}
	switch {
	case path == "":
		f.number = rootInode
		c.root = f
	case path == c.files[0].path: // lost+found
		f = c.files[0]
	case len(c.files) > math.MaxUint32-lostInode:
		return fmt.Errorf("%d files and directories are too many", len(c.files))
	default:
		f.number = lostInode + uint32(len(c.files))
		c.files = append(c.files, f)
	}
	if err := f.fill(c.seed, c.opt.HashSeed); err != nil {
		return err
	}
	var err error
	if f.xattrs, f.more, err = c.blocks.add(n.Xattrs); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if f.dir != nil {
		c.dirs[path] = f
	} else {
		c.linked[n] = f
	}
	f.links++
	c.enter(f, path)
	return nil
}

func (c *collector) enter(f *file, path string) {
	if path == "" {
		return
	}
	slash := strings.LastIndexByte(path, '/')
	in := c.dirs[path[:max(slash, 0)]]
	in.dir.entries = append(in.dir.entries, entry{name: path[slash+1:], number: f.number, kind: kinds[f.node.Type()]})
	if f.dir != nil {
		f.dir.parent = in.number
		in.links++
	}
}

// fill refuses inodes that ext4 cannot hold, and sets size and content of f.
func (f *file) fill(seed uint32, hashSeed [16]byte) error {
	n := f.node
	switch n.Type() {
	case tree.Regular:
		if f.size = n.Size(); f.size < 0 || ceil(f.size, blockSize) > math.MaxUint32 {
			return fmt.Errorf("%s: invalid file size %d", f.path, f.size)
		}
		if f.size > 0 {
			f.content = n.Content
		}
	case tree.Dir:
		f.links++
		f.dir = &directory{number: f.number, parent: rootInode, seed: inodeSeed(seed, f.number, 0), hashSeed: hashSeed}
		if f.number == lostInode {
			f.dir.least = 4 // so that e2fsck need not extend it
		}
	case tree.Symlink:
		f.size = int64(len(n.Target))
		if f.size == 0 || f.size >= blockSize || strings.IndexByte(n.Target, 0) >= 0 {
			return fmt.Errorf("%s: the target of a symbolic link must have 1 to %[4]d bytes and no zero byte, it has %[3]d: %.60[2]q", f.path, n.Target, f.size, blockSize-1)
		}
		if f.size >= fastSymlink {
			f.content = strings.NewReader(n.Target)
		}
	case tree.CharDev, tree.BlockDev:
		if n.Major >= 1<<12 || n.Minor >= 1<<20 {
			return fmt.Errorf("%s: device %d:%d is beyond the limit of ext4, 4095:1048575", f.path, n.Major, n.Minor)
		}
	case tree.Fifo, tree.Socket:
	default:
		return fmt.Errorf("%s: unknown file type %o", f.path, n.Type())
	}
	return nil
}

// arrange sets the order on disk: first Options.First, then directories, then files in
// the order of their paths.
func (p *plan) arrange() {
	placed := map[*file]bool{}
	put := func(f *file) {
		if !placed[f] && f.content != nil {
			placed[f] = true
			p.order = append(p.order, f)
		}
	}
	for _, first := range p.opt.First {
		first = strings.Trim(first, "/")
		for _, f := range p.files {
			if f.node.Type() == tree.Regular && (f.path == first || strings.HasPrefix(f.path, first+"/") || first == "") {
				put(f)
			}
		}
	}
	p.firsts = len(p.order)
	// Files that a boot loader reads keep all blocks: some boot loaders do not support
	// holes.
	for _, f := range p.files {
		if !placed[f] && f.node.Type() == tree.Regular {
			f.omitHoles()
		}
	}
	put(p.root)
	for _, f := range p.files {
		if f.dir != nil && !p.opt.last(f.path) {
			put(f)
		}
	}
	// Options.Last has the last numbers, so it is last here, too.
	for _, f := range p.files {
		put(f)
	}
}

// fit allocates all blocks in a file system of p.opt.Size bytes.
func (p *plan) fit() error {
	// Inodes 1 to 10 are reserved; the root is inode 2.
	g, err := choose(p.opt, int64(lostInode-1+len(p.files)))
	if err != nil {
		return err
	}
	p.geometry = g
	p.space = space{free: slices.Clone(g.free)}
	s := &p.space
	for _, f := range p.order[:p.firsts] {
		f.place(s, s.takeWhole)
	}
	p.journal = nil
	if g.journal > 0 {
		p.journal = &file{
			path: "journal", node: &tree.Inode{Mode: tree.Regular | 0o600, ModTime: p.opt.Time}, number: journalInode,
			links: 1, size: g.journal * blockSize, content: journal(g.journal),
		}
		p.journal.place(s, s.takeWhole)
	}
	if g.reserved > 0 {
		p.resize = s.take(1)
	}
	p.xattrsRuns = s.take(int64(len(p.xattrs)))
	for _, f := range p.order[p.firsts:] {
		f.place(s, s.take)
	}
	if s.missing > 0 {
		return &FullError{Need: s.taken * blockSize, Free: (s.taken - s.missing) * blockSize, Size: p.opt.Size}
	}
	i := 0
	for _, r := range p.xattrsRuns {
		for block := r.start; block < r.end(); block++ {
			p.xattrs[i].block = block
			i++
		}
	}
	return nil
}

// place allocates the blocks of a file and of its extent tree.
func (f *file) place(s *space, take func(int64) []run) {
	f.runs = take(f.blocks())
	f.extents = split(f.runs, f.mapped)
	f.index = s.take(indexBlocks(len(f.extents)))
}
