package ext4

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

type run struct{ start, n int64 }

func (r run) end() int64 { return r.start + r.n }

// geometry is the position of the metadata of all groups. All values are in blocks.
type geometry struct {
	blocks   int64
	groups   int64
	inodes   int64 // inodes per group
	table    int64 // length of the inode table of a group
	descs    int64 // length of the group descriptors
	reserved int64 // reserved for more group descriptors, for growing online
	journal  int64

	// Position in each group.
	blockBitmaps, inodeBitmaps, tables []int64

	free []run // for files, directories and the journal
}

const (
	kib = 1 << 10
	mib = 1 << 20
	gib = 1 << 30
	tib = 1 << 40
)

// ratio returns the bytes per inode of mke2fs: its types small, default, big and
// huge.
func ratio(size int64) int64 {
	switch {
	case size < 512*mib:
		return 4 * kib
	case size < 4*tib:
		return 16 * kib
	case size < 16*tib:
		return 32 * kib
	}
	return 64 * kib
}

// journalBlocks returns the journal size of mke2fs, limited to 64 MiB, because all of
// the journal is written to disk.
func journalBlocks(blocks int64) int64 {
	switch {
	case blocks < 8*mib/blockSize:
		return 0
	case blocks < 128*mib/blockSize:
		return 4 * mib / blockSize
	case blocks < gib/blockSize:
		return 16 * mib / blockSize
	case blocks < 2*gib/blockSize:
		return 32 * mib / blockSize
	}
	return 64 * mib / blockSize
}

// minJournal is JBD2_MIN_JOURNAL_BLOCKS.
const minJournal = 1024

// choose computes the geometry of a file system that has to hold needed inodes.
func choose(opt Options, needed int64) (*geometry, error) {
	if opt.Size%blockSize != 0 || opt.Size < 0 || opt.Size/blockSize > maxBlocks {
		return nil, fmt.Errorf("invalid size of an ext4 file system: %d bytes are not a multiple of %d up to %d", opt.Size, blockSize, int64(maxBlocks)*blockSize)
	}
	if j := opt.JournalSize; j > 0 && (j%blockSize != 0 || j < minJournal*blockSize || j > opt.Size) {
		return nil, fmt.Errorf("invalid journal size for a file system of %[2]d bytes: %[1]d bytes are not a multiple of %[3]d from %[4]d", j, opt.Size, blockSize, minJournal*blockSize)
	}
	g := &geometry{blocks: opt.Size / blockSize}
	for {
		g.groups = max(1, ceil(g.blocks, groupBlocks))
		inodes := opt.Inodes
		if inodes == 0 {
			inodes = max(opt.Size/ratio(opt.Size), needed)
		}
		g.inodes = max(roundUp(ceil(inodes, g.groups), perBlock), perBlock)
		if g.inodes > groupBlocks {
			if opt.Inodes != 0 || needed > g.groups*groupBlocks {
				return nil, fmt.Errorf("%d inodes do not fit in a file system of %d bytes: it has at most %d", inodes, opt.Size, g.groups*groupBlocks)
			}
			g.inodes = groupBlocks
		}
		// The number of all inodes has 32 bits.
		g.inodes = min(g.inodes, math.MaxUint32/g.groups/perBlock*perBlock)
		if have := g.inodes * g.groups; have < needed {
			return nil, fmt.Errorf("the tree has %d files and directories, but the file system has %d inodes", needed, have)
		}
		g.table = g.inodes / perBlock
		g.descs = ceil(g.groups, blockSize/descSize)
		// As in mke2fs: for growing 1024 times, limited to what one indirect block maps.
		grown := ceil(min(g.blocks*1024, maxBlocks), groupBlocks)
		g.reserved = min(ceil(grown, blockSize/descSize)-g.descs, blockSize/4)

		// A last group that is too short for its metadata and some data is omitted.
		last := g.groups - 1
		least := g.base(last) + 2 + g.table + 50
		rest := g.blocks - last*groupBlocks
		if rest >= least {
			break
		}
		if last == 0 {
			return nil, &FullError{Need: least * blockSize, Size: opt.Size}
		}
		g.blocks -= rest
	}
	switch {
	case opt.JournalSize > 0:
		g.journal = opt.JournalSize / blockSize
	case opt.JournalSize == 0:
		g.journal = journalBlocks(g.blocks)
	}
	g.place()
	return g, nil
}

// hasSuper reports whether a group begins with a copy of the superblock: 0, 1 and the
// powers of 3, 5 and 7. (Documentation/filesystems/ext4, "Sparse superblocks")
func hasSuper(group int64) bool {
	if group <= 1 {
		return true
	}
	for _, of := range []int64{3, 5, 7} {
		p := of
		for p < group {
			p *= of
		}
		if p == group {
			return true
		}
	}
	return false
}

// supers returns the groups that begin with a copy of the superblock.
func (g *geometry) supers() []int64 {
	groups := []int64{0}
	for i := int64(1); i < g.groups; i++ {
		if hasSuper(i) {
			groups = append(groups, i)
		}
	}
	return groups
}

// base returns the number of blocks of the superblock, the descriptors and the blocks
// reserved for more descriptors at the start of a group.
func (g *geometry) base(group int64) int64 {
	if !hasSuper(group) {
		return 0
	}
	return 1 + g.descs + g.reserved
}

func (g *geometry) groupLen(group int64) int64 {
	return min(groupBlocks, g.blocks-group*groupBlocks)
}

// place allocates bitmaps and inode tables. The metadata of flexGroups groups is
// adjacent, so that the free runs are long.
func (g *geometry) place() {
	g.blockBitmaps, g.inodeBitmaps, g.tables = make([]int64, g.groups), make([]int64, g.groups), make([]int64, g.groups)
	var used []run
	for _, group := range g.supers() {
		used = append(used, run{group * groupBlocks, g.base(group)})
	}
	for first := int64(0); first < g.groups; first += flexGroups {
		at := first * groupBlocks
		next := func(n int64) int64 {
			for _, group := range []int64{at / groupBlocks, (at + n - 1) / groupBlocks} {
				start := group * groupBlocks
				if end := start + g.base(group); at < end && at+n > start {
					at = end
				}
			}
			at += n
			used = append(used, run{at - n, n})
			return at - n
		}
		last := min(first+flexGroups, g.groups)
		for i := first; i < last; i++ {
			g.blockBitmaps[i] = next(1)
		}
		for i := first; i < last; i++ {
			g.inodeBitmaps[i] = next(1)
		}
		for i := first; i < last; i++ {
			g.tables[i] = next(g.table)
		}
	}
	slices.SortFunc(used, func(a, b run) int { return cmp.Compare(a.start, b.start) })
	at := int64(0)
	for _, u := range append(used, run{g.blocks, 0}) {
		if u.start > at {
			g.free = append(g.free, run{at, u.start - at})
		}
		at = u.end()
	}
}

// overhead returns the number of blocks of all metadata and the journal.
func (g *geometry) overhead() int64 {
	return g.groups*(2+g.table) + g.journal + int64(len(g.supers()))*g.base(0)
}

// space allocates free blocks from the front.
type space struct {
	free    []run
	first   int   // index of the first run with free blocks
	taken   int64 // blocks that were requested
	missing int64 // blocks that were requested but not available
}

// take allocates the first n free blocks.
func (s *space) take(n int64) []run {
	s.taken += n
	var runs []run
	for n > 0 {
		if s.first == len(s.free) {
			s.missing += n
			return runs
		}
		f := &s.free[s.first]
		k := min(n, f.n)
		if k > 0 {
			runs = append(runs, run{f.start, k})
		}
		f.start, f.n, n = f.start+k, f.n-k, n-k
		if f.n == 0 {
			s.first++
		}
	}
	return runs
}

// takeWhole allocates n contiguous blocks, if possible.
func (s *space) takeWhole(n int64) []run {
	for i := s.first; i < len(s.free); i++ {
		if f := &s.free[i]; f.n >= n && n > 0 {
			r := run{f.start, n}
			f.start, f.n, s.taken = f.start+n, f.n-n, s.taken+n
			return []run{r}
		}
	}
	return s.take(n)
}
