package sums

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"hash/crc32"
	"io"
	"iter"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"imgtool/image"
	"imgtool/image/tree"
)

// BlockSize is how many bytes of a file each of its sums is over, where nothing
// else is asked for.
const BlockSize = 128 << 10

// Sum is the SHA-256 of a block.
type Sum [sha256.Size]byte

// File are the hashes of the blocks of one file, the last of which may be
// short. Blocks of zeros have none: a hole as large as a disk takes no memory.
type File struct {
	sums  []blockSum
	zeros *zeros // nil for most
}

type zeros struct {
	runs   []zeroRun
	sealed bool
}

type blockSum struct {
	sum   Sum    // zero for zeros, while it is made
	quick uint32 // CRC-32C
}

// zeroRun is blocks of zeros, and how many there are before it.
type zeroRun struct{ first, n, before int64 }

// Block is the hash of block i, or the zero Sum if there is nothing but zeros in it.
func (f *File) Block(i int64) (sum Sum, zero bool) {
	if i, zero = f.at(i); zero {
		return Sum{}, true
	}
	return f.sums[i].sum, false
}

// ZeroRun is how many blocks from i on have nothing but zeros.
func (f *File) ZeroRun(i int64) int64 {
	if f.zeros == nil {
		return 0
	}
	runs := f.zeros.runs
	at, _ := slices.BinarySearchFunc(runs, i, func(r zeroRun, i int64) int {
		if r.first+r.n <= i {
			return -1
		}
		return 1
	})
	if at == len(runs) || runs[at].first > i {
		return 0
	}
	return runs[at].first + runs[at].n - i
}

// Blocks is how many blocks are not of zeros; nil has none.
func (f *File) Blocks() int64 {
	if f == nil {
		return 0
	}
	return int64(len(f.sums))
}

// Same says whether b is what block i was, quickly: it is for files that change
// by chance while they are read, not by malice.
func (f *File) Same(i int64, b []byte) bool {
	i, zero := f.at(i)
	if zero {
		return image.IsZero(b)
	}
	return f.sums[i].quick == quick(b)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func quick(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// at is where what is known of block i is, if it is not of zeros.
func (f *File) at(i int64) (at int64, zero bool) {
	if f.zeros == nil {
		return i, false
	}
	runs := f.zeros.runs
	run, _ := slices.BinarySearchFunc(runs, i, func(r zeroRun, i int64) int {
		if r.first+r.n <= i {
			return -1
		}
		return 1
	})
	if run == len(runs) {
		last := runs[run-1]
		return i - last.before - last.n, false
	}
	return i - runs[run].before, runs[run].first <= i
}

// Sums are the hashes of all files of a tree, made while each is read once. They
// serve every tree that has the same nodes.
type Checksums struct {
	block int64
	of    map[*tree.Inode]*File
	known *Checksums // what was known before; may be nil
}

// Of is what is known of a file, or nil.
func (s *Checksums) Of(n *tree.Inode) *File {
	if s == nil {
		return nil
	}
	if f := s.of[n]; f != nil {
		return f
	}
	return s.known.Of(n)
}

// blockRange is blocks of one file, which are hashed together, or a hole in it.
type blockRange struct {
	path   string
	node   *tree.Inode
	to     *File
	first  int64 // block
	blocks int64
	hole   int64 // its bytes; 0 is none
}

const (
	// A large file is for all workers.
	rangeBlocks = 4
	// So many batch are at work at once: what is known of them takes memory.
	batch = 4096
	// What lies between two small files of a tar, such as a header, is read with them.
	between = 4 << 10
)

// Options are how files are hashed. The zero value is usable.
type Options struct {
	Block    int64          // bytes of a block; 0 is BlockSize
	Workers  int            // 0 is GOMAXPROCS
	Known    *Checksums     // files that are not read again, if their blocks are of the same size; may be nil
	Memo     *Memo          // blocks that are not hashed again; may be nil
	Progress image.Progress // counts bytes of files that Known does not have; called by one goroutine at a time
}

// Compute hashes every block of the files of t.
func Compute(ctx context.Context, t *tree.Tree, opt Options) (*Checksums, error) {
	h := NewHasher(ctx, opt)
	defer h.Stop()
	for path, n := range t.All() {
		h.Add(path, n)
	}
	return h.Sums()
}

// Hasher hashes files that are added one by one, while the caller looks for more.
type Hasher struct {
	sums  *Checksums
	made  []File
	work  []blockRange
	spare []blockRange
	todo  chan []blockRange
	g     errgroup.Group
	stop  context.CancelFunc
}

// NewHasher begins one. The caller must call Stop.
func NewHasher(ctx context.Context, opt Options) *Hasher {
	block := cmp.Or(opt.Block, BlockSize)
	workers := cmp.Or(opt.Workers, runtime.GOMAXPROCS(0))
	known := opt.Known
	if known != nil && known.block != block {
		known = nil
	}
	ctx, stop := context.WithCancel(ctx)
	todo := make(chan []blockRange)
	s := &Hasher{sums: &Checksums{block, map[*tree.Inode]*File{}, known}, todo: todo, stop: stop}
	s.g.Go(func() error {
		bufs := make([][]byte, workers)
		var err error
		for work := range todo {
			if err == nil {
				err = hash(ctx, work, block, bufs, opt.Memo, opt.Progress)
			}
		}
		return err
	})
	return s
}

// Add has a file hashed, unless it is known. What n reads from must stay.
func (s *Hasher) Add(path string, n *tree.Inode) {
	if n.Size() <= 0 || s.sums.Of(n) != nil {
		return
	}
	// Many together take less memory than each by itself.
	if len(s.made) == cap(s.made) {
		s.made = make([]File, 0, 256)
	}
	s.made = append(s.made, File{})
	f := &s.made[len(s.made)-1]
	s.sums.of[n] = f
	for w := range rangesOf(n, s.sums.block) {
		w.path, w.node, w.to = path, n, f
		if s.work = append(s.work, w); len(s.work) == batch {
			s.hand()
		}
	}
}

// hand hands over what there is to do, once what was handed over before is done.
func (s *Hasher) hand() {
	s.todo <- s.work
	s.work, s.spare = s.spare[:0], s.work
}

// Sums are those of all that was added.
func (s *Hasher) Sums() (*Checksums, error) {
	s.hand()
	close(s.todo)
	s.todo = nil
	if err := s.g.Wait(); err != nil {
		return nil, err
	}
	for _, f := range s.sums.of {
		f.seal()
	}
	return s.sums, nil
}

// Stop gives up what was not asked for with Sums.
func (s *Hasher) Stop() {
	s.stop()
	if s.todo != nil {
		close(s.todo)
		s.todo = nil
		s.g.Wait()
	}
}

// rangesOf are those of a file, without its path.
func rangesOf(n *tree.Inode, block int64) iter.Seq[blockRange] {
	return func(yield func(blockRange) bool) {
		c := n.Content
		for off := int64(0); off < c.Size(); {
			hole := image.Hole(c, off)
			if off+hole < c.Size() {
				hole -= hole % block
			}
			if hole > 0 {
				if !yield(blockRange{first: off / block, blocks: (hole + block - 1) / block, hole: hole}) {
					return
				}
				off += hole
				continue
			}
			blocks := int64(1)
			for blocks < rangeBlocks && off+blocks*block < c.Size() && image.Hole(c, off+blocks*block) < block {
				blocks++
			}
			if !yield(blockRange{first: off / block, blocks: blocks}) {
				return
			}
			off = min(off+blocks*block, c.Size())
		}
	}
}

// hash hashes batch, by a worker for each buffer, and adds what it finds to their
// files.
func hash(ctx context.Context, work []blockRange, block int64, bufs [][]byte, blocks *Memo, p image.Progress) error {
	total := int64(0)
	for _, w := range work {
		if w.hole == 0 {
			total += w.blocks
		}
	}
	all := make([]blockSum, total)
	sums := make([][]blockSum, len(work))
	order := make([]int, 0, len(work))
	for i, w := range work {
		if w.hole > 0 {
			p.Add(w.hole)
			continue
		}
		sums[i], all = all[:w.blocks:w.blocks], all[w.blocks:]
		order = append(order, i)
	}
	// The long ones first, so that all workers end at one time.
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(work[b].blocks, work[a].blocks) })
	runs := together(work, order, block)
	var next atomic.Int64
	var told sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	for worker := range min(len(bufs), len(runs)) {
		g.Go(func() error {
			if bufs[worker] == nil {
				bufs[worker] = make([]byte, rangeBlocks*block)
			}
			buf := bufs[worker]
			for {
				i := next.Add(1) - 1
				if i >= int64(len(runs)) {
					return nil
				}
				n, err := hashRun(ctx, work, runs[i], buf, block, blocks, sums)
				if err != nil {
					return err
				}
				if p != nil {
					told.Lock()
					p.Add(n)
					told.Unlock()
				}
			}
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i, w := range work {
		if w.hole > 0 {
			w.to.hole(w.first, w.blocks)
		} else {
			w.to.add(w.first, sums[i])
		}
	}
	return nil
}

// together cuts an order of batch into runs of those that lie near one another in a
// tar: to read a small file by itself takes longer than to hash it.
func together(work []blockRange, order []int, block int64) (runs [][]int) {
	var in io.ReaderAt
	var begin, end int64 // of the last run
	n := 0
	for i, at := range order {
		a, off := work[at].place(block)
		size := work[at].size(block)
		if a == nil || a != in || off < end || off-end > between || off+size-begin > rangeBlocks*block {
			runs = append(runs, nil)
			in, begin, n = a, off, 0
		}
		n, end = n+1, off+size
		runs[len(runs)-1] = order[i+1-n : i+1]
	}
	return runs
}

// place is where a blockRange is in a tar, if it lies in one as it is.
func (w *blockRange) place(block int64) (in io.ReaderAt, off int64) {
	if s, ok := w.node.Content.(section); ok {
		in, off = s.Section()
		return in, off + w.first*block
	}
	return nil, 0
}

// section is a content that is a run of bytes of an archive. Archives are comparable.
type section interface {
	Section() (archive io.ReaderAt, off int64)
}

func (w *blockRange) size(block int64) int64 {
	return min(w.blocks*block, w.node.Size()-w.first*block)
}

// hashRun hashes batch that are read together.
func hashRun(ctx context.Context, work []blockRange, run []int, buf []byte, block int64, blocks *Memo, sums [][]blockSum) (n int64, err error) {
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	first, last := &work[run[0]], &work[run[len(run)-1]]
	if in, off := first.place(block); len(run) > 1 {
		_, end := last.place(block)
		end += last.size(block)
		if k, _ := in.ReadAt(buf[:end-off], off); int64(k) == end-off {
			for _, i := range run {
				_, at := work[i].place(block)
				b := buf[at-off:][:work[i].size(block)]
				sumBlocks(b, block, blocks, sums[i])
				n += int64(len(b))
			}
			return n, nil
		}
		// One by one, it is said what is wrong with which.
	}
	for _, i := range run {
		b, err := work[i].read(buf, block)
		if err != nil {
			return n, err
		}
		sumBlocks(b, block, blocks, sums[i])
		n += int64(len(b))
	}
	return n, nil
}

// read reads a blockRange at once: a file of a folder is opened for each read.
func (w *blockRange) read(buf []byte, block int64) ([]byte, error) {
	off := w.first * block
	b := buf[:w.size(block)]
	if k, err := w.node.Content.ReadAt(b, off); k < len(b) {
		if err == nil || err == io.EOF {
			err = fmt.Errorf("it ends there, but has a size of %d bytes: %w", w.node.Size(), io.ErrUnexpectedEOF)
		}
		return nil, fmt.Errorf("%s: reading at byte %d: %w", w.path, off+int64(k), err)
	}
	return b, nil
}

// sumBlocks hashes each block of b that is not of zeros.
func sumBlocks(b []byte, block int64, blocks *Memo, sums []blockSum) {
	for i := range sums {
		part := b[int64(i)*block : min(int64(i+1)*block, int64(len(b)))]
		if !image.IsZero(part) {
			sums[i] = blocks.sum(part)
		}
	}
}

// hole says that n blocks are zeros. Holes come in any order.
func (f *File) hole(first, n int64) {
	if f.zeros == nil {
		f.zeros = &zeros{}
	}
	f.zeros.runs = append(f.zeros.runs, zeroRun{first: first, n: n})
}

// add takes what was found out, blockRange after blockRange in the order of the file.
func (f *File) add(first int64, sums []blockSum) {
	if f.sums == nil && !slices.ContainsFunc(sums, func(s blockSum) bool { return s.sum == Sum{} }) {
		f.sums = sums
		return
	}
	for i, s := range sums {
		if s.sum == (Sum{}) {
			f.hole(first+int64(i), 1)
		} else {
			f.sums = append(f.sums, s)
		}
	}
}

// seal puts the runs of zeros in order, once all are known.
func (f *File) seal() {
	if f.zeros == nil || f.zeros.sealed {
		return
	}
	f.zeros.sealed = true
	slices.SortFunc(f.zeros.runs, func(a, b zeroRun) int { return cmp.Compare(a.first, b.first) })
	runs := f.zeros.runs[:0]
	for _, r := range f.zeros.runs {
		if last := len(runs) - 1; last >= 0 && runs[last].first+runs[last].n == r.first {
			runs[last].n += r.n
		} else {
			runs = append(runs, r)
		}
	}
	f.zeros.runs = slices.Clip(runs)
	for i, n := 0, int64(0); i < len(runs); i++ {
		runs[i].before = n
		n += runs[i].n
	}
}
