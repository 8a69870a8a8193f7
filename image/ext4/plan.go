package ext4

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"imgtool/image"
	"imgtool/image/tree"
)

// Options are what a tree does not say. Only Size has to be set.
type Options struct {
	Label    string   // up to 16 bytes
	UUID     [16]byte // also what checksums begin with
	HashSeed [16]byte // of the index of large folders
	Time     int64    // when it was made, written and checked, in seconds since 1970; also of what the tree lacks, as lost+found
	Size     int64    // in bytes, a multiple of 4096

	Inodes      int64 // at least so many; 0 is as mke2fs has it, or more if the tree needs more
	JournalSize int64 // in bytes; 0 is as mke2fs has it up to 64 MiB, negative is none
	Reserved    int   // percent of the blocks that only root may fill; 0 is 5, as in mke2fs, negative is none

	// First are paths of files and folders whose files come first on disk, each
	// in one piece if that can be: what a boot loader reads.
	First []string

	// Last are paths of files and folders that come after all others, inodes and
	// blocks alike: all else lies where it would without them.
	Last []string
}

func (o *Options) last(path string) bool {
	return slices.ContainsFunc(o.Last, func(last string) bool {
		last = strings.Trim(last, "/")
		return path == last || strings.HasPrefix(path, last+"/")
	})
}

// file is an inode that is to be written.
type file struct {
	path    string
	node    *tree.Inode
	number  uint32
	links   int64
	size    int64         // i_size
	content image.Content // of its blocks, holes left out; nil if it has none
	mapped  []run         // where those blocks are in the file, in blocks; nil: from its start on
	folder  *folder
	xattrs  []byte      // in the inode
	more    *xattrBlock // in a block
	runs    []run
	extents []extent
	index   []run // blocks of its extent tree
}

func (f *file) blocks() int64 {
	if f.content == nil {
		return 0
	}
	return ceil(f.content.Size(), blockSize)
}

// plan is all that will be written.
type plan struct {
	opt    Options
	seed   uint32
	files  []*file // by number from lostInode on
	root   *file
	order  []*file // in which they get blocks
	firsts int     // of them that are before the journal
	xattrs []*xattrBlock

	*geometry
	space      space
	journal    *file
	resize     []run // the block that says where the reserved descriptors are
	xattrsRuns []run
}

// collect makes inodes of a tree. It reads no file.
func collect(t *tree.Tree, opt Options) (*plan, error) {
	if len(opt.Label) > 16 || strings.IndexByte(opt.Label, 0) >= 0 {
		return nil, fmt.Errorf("the label %q is longer than 16 bytes, or has a zero byte", opt.Label)
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
	p := &plan{opt: opt, seed: crc(math.MaxUint32, opt.UUID[:])}
	lost := &file{path: "lost+found", node: &tree.Inode{Mode: tree.Dir | 0o700, ModTime: opt.Time}}
	if n := t.Lookup(lost.path); n != nil {
		if lost.node = n; n.Type() != tree.Dir {
			return nil, fmt.Errorf("%s: ext4 needs a folder of that name", lost.path)
		}
	}
	lost.number = lostInode
	p.files = append(p.files, lost)

	folders := map[string]*file{}
	linked := map[*tree.Inode]*file{}
	blocks := newXattrBlocks()
	var paths, lasts []string
	for path := range t.All() {
		if path != "" && opt.last(path) {
			lasts = append(lasts, path)
		} else {
			paths = append(paths, path)
		}
	}
	for _, path := range append(paths, lasts...) {
		n := t.Lookup(path)
		f := linked[n]
		if f != nil && n.Type() != tree.Dir {
			if f.links++; f.links > maxLinks {
				return nil, fmt.Errorf("%s: a file of more than %d names", path, maxLinks)
			}
			p.enter(folders, f, path)
			continue
		}
		switch path {
		case "":
			f = &file{node: n, number: rootInode}
			p.root = f
		case lost.path:
			f = lost
		default:
			if len(p.files) > math.MaxUint32-lostInode {
				return nil, fmt.Errorf("%d files and folders are too many", len(p.files))
			}
			f = &file{path: path, node: n, number: lostInode + uint32(len(p.files))}
			p.files = append(p.files, f)
		}
		if err := f.fill(p.seed, opt.HashSeed); err != nil {
			return nil, err
		}
		var err error
		if f.xattrs, f.more, err = blocks.add(n.Xattrs); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if f.folder != nil {
			folders[path] = f
		} else {
			linked[n] = f
		}
		f.links++
		p.enter(folders, f, path)
	}
	if lost.folder == nil {
		if err := lost.fill(p.seed, opt.HashSeed); err != nil {
			return nil, err
		}
		lost.links++
		p.enter(folders, lost, lost.path)
	}
	p.xattrs = blocks.all
	// lost+found goes where it would be if the tree had brought it.
	slices.SortFunc(p.root.folder.entries, func(a, b entry) int { return strings.Compare(a.name, b.name) })

	if err := p.root.lay(); err != nil {
		return nil, err
	}
	for _, f := range p.files {
		if err := f.lay(); err != nil {
			return nil, err
		}
	}
	p.arrange()
	return p, nil
}

// fill checks what a tree may hold and ext4 cannot, and sets what f's blocks
// will hold.
func (f *file) fill(seed uint32, hashSeed [16]byte) error {
	n := f.node
	switch n.Type() {
	case tree.Regular:
		if f.size = n.Size(); f.size < 0 || ceil(f.size, blockSize) > math.MaxUint32 {
			return fmt.Errorf("%s: a file of %d bytes cannot be", f.path, f.size)
		}
		if f.size > 0 {
			f.content = n.Content
		}
	case tree.Dir:
		f.links++
		f.folder = &folder{number: f.number, parent: rootInode, seed: inodeSeed(seed, f.number, 0), hashSeed: hashSeed}
		if f.number == lostInode {
			f.folder.least = 4 // so that e2fsck need not make room
		}
	case tree.Symlink:
		f.size = int64(len(n.Target))
		if f.size == 0 || f.size >= blockSize || strings.IndexByte(n.Target, 0) >= 0 {
			return fmt.Errorf("%s: a symbolic link to %.60q: %d bytes are not 1 to %d, or there is a zero byte", f.path, n.Target, f.size, blockSize-1)
		}
		if f.size >= fastSymlink {
			f.content = strings.NewReader(n.Target)
		}
	case tree.CharDev, tree.BlockDev:
		if n.Major >= 1<<12 || n.Minor >= 1<<20 {
			return fmt.Errorf("%s: a device %d,%d cannot be: Linux counts to 4095,1048575", f.path, n.Major, n.Minor)
		}
	case tree.Fifo, tree.Socket:
	default:
		return fmt.Errorf("%s: file type %o is not known", f.path, n.Type())
	}
	return nil
}

// enter puts a name of f into its folder.
func (p *plan) enter(folders map[string]*file, f *file, path string) {
	if path == "" {
		return
	}
	slash := strings.LastIndexByte(path, '/')
	in := folders[path[:max(slash, 0)]]
	in.folder.entries = append(in.folder.entries, entry{name: path[slash+1:], number: f.number, kind: kinds[f.node.Type()]})
	if f.folder != nil {
		f.folder.parent = in.number
		in.links++
	}
}

func (f *file) lay() error {
	if f.folder == nil {
		return nil
	}
	if err := f.folder.lay(); err != nil {
		return fmt.Errorf("%s: %w", f.path, err)
	}
	f.size = f.folder.Size()
	f.content = f.folder
	return nil
}

// arrange decides the order on disk: what was asked for, then folders, then
// files in the order of their paths.
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
	// Files that a boot loader reads keep all their blocks: not every loader knows holes.
	for _, f := range p.files {
		if !placed[f] && f.node.Type() == tree.Regular {
			f.leaveHoles()
		}
	}
	put(p.root)
	for _, f := range p.files {
		if f.folder != nil && !p.opt.last(f.path) {
			put(f)
		}
	}
	// Those that come last have the last numbers.
	for _, f := range p.files {
		put(f)
	}
}

// fit gives everything its blocks in a file system of p.opt.Size.
func (p *plan) fit() error {
	// Numbers 1 to 10 are taken, the root's among them.
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

// place gives a file its blocks, and those of its extent tree.
func (f *file) place(s *space, take func(int64) []run) {
	f.runs = take(f.blocks())
	f.extents = split(f.runs, f.mapped)
	f.index = s.take(indexBlocks(len(f.extents)))
}

// MinSize is the size in bytes, a multiple of 1 MiB, of about the smallest file
// system that holds the tree with the options; their Size is not looked at.
func MinSize(t *tree.Tree, opt Options) (int64, error) {
	p, err := collect(t, opt)
	if err != nil {
		return 0, err
	}
	p.opt.Size = mib + max(0, opt.JournalSize)
	for _, f := range p.order {
		p.opt.Size += f.blocks() * blockSize
	}
	// A group has so many inodes at most.
	if n := int64(len(p.files)) + lostInode; n > groupBlocks {
		p.opt.Size = max(p.opt.Size, ceil(n, groupBlocks)*groupBlocks*blockSize)
	}
	for {
		p.opt.Size = roundUp(p.opt.Size, mib)
		err := p.fit()
		full, ok := err.(*FullError)
		if !ok {
			return p.opt.Size, err
		}
		p.opt.Size += full.Need - full.Free
	}
}
