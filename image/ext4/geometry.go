package ext4

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

// run is blocks in a row.
type run struct{ start, n int64 }

func (r run) end() int64 { return r.start + r.n }

// geometry is where the metadata of every group is. All are in blocks.
type geometry struct {
	blocks   int64
	groups   int64
	inodes   int64 // in a group
	table    int64 // blocks of its inode table
	descs    int64 // blocks of group descriptors
	reserved int64 // blocks kept for more of them, for growing while mounted
	journal  int64

	// Of every group.
	blockBitmaps, inodeBitmaps, tables []int64

	free []run // what is left for files, the journal and folders
}

const (
	kib = 1 << 10
	mib = 1 << 20
	gib = 1 << 30
	tib = 1 << 40
)

// ratio is how many bytes mke2fs gives an inode: its types small, default, big
// and huge.
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

// journalBlocks is what mke2fs gives a journal, but never more than 64 MiB, which
// a board takes long enough to write.
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
		return nil, fmt.Errorf("an ext4 file system of %d bytes cannot be: not a multiple of %d up to %d", opt.Size, blockSize, int64(maxBlocks)*blockSize)
	}
	if j := opt.JournalSize; j > 0 && (j%blockSize != 0 || j < minJournal*blockSize || j > opt.Size) {
		return nil, fmt.Errorf("a journal of %d bytes cannot be in %d: not a multiple of %d from %d", j, opt.Size, blockSize, minJournal*blockSize)
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
				return nil, fmt.Errorf("%d inodes cannot be in a file system of %d bytes: it holds at most %d", inodes, opt.Size, g.groups*groupBlocks)
			}
			g.inodes = groupBlocks
		}
		// The number of them has 32 bits.
		g.inodes = min(g.inodes, math.MaxUint32/g.groups/perBlock*perBlock)
		if have := g.inodes * g.groups; have < needed {
			return nil, fmt.Errorf("the tree has %d files and folders and the file system %d inodes", needed, have)
		}
		g.table = g.inodes / perBlock
		g.descs = ceil(g.groups, blockSize/descSize)
		// Room to grow 1024 times, as far as one block can tell where it is.
		grown := ceil(min(g.blocks*1024, maxBlocks), groupBlocks)
		g.reserved = min(ceil(grown, blockSize/descSize)-g.descs, blockSize/4)

		// A last group too short for its metadata and some data is left out.
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

// hasSuper tells which groups begin with a copy of the superblock: 0, 1 and the
// powers of 3, 5 and 7.
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

// base is how many blocks the superblock, the descriptors and the room for more
// of them take at the start of a group.
func (g *geometry) base(group int64) int64 {
	if !hasSuper(group) {
		return 0
	}
	return 1 + g.descs + g.reserved
}

// groupLen is the number of blocks in a group.
func (g *geometry) groupLen(group int64) int64 {
	return min(groupBlocks, g.blocks-group*groupBlocks)
}

// place gives bitmaps and inode tables their blocks, those of flexGroups groups
// together so that long runs are left.
func (g *geometry) place() {
	g.blockBitmaps, g.inodeBitmaps, g.tables = make([]int64, g.groups), make([]int64, g.groups), make([]int64, g.groups)
	var used []run
	for group := range g.groups {
		if n := g.base(group); n > 0 {
			used = append(used, run{group * groupBlocks, n})
		}
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

// overhead is what the file system needs for itself.
func (g *geometry) overhead() int64 {
	n := g.groups*(2+g.table) + g.journal
	for group := range g.groups {
		n += g.base(group)
	}
	return n
}

// space hands out free blocks from the front. What is not there is counted.
type space struct {
	free    []run
	first   int // of free that may have blocks
	taken   int64
	missing int64
}

// take gives n blocks in as few runs as there are up front.
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

// takeWhole gives n blocks in a row if there are any.
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
