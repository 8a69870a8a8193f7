package tree

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"hash/crc32"
	"io"
	"runtime"
	"slices"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"imgtool/image"
)

// SumBlock is how many bytes of a file each of its sums is over, where nothing
// else is asked for.
const SumBlock = 128 << 10

// Sum is the SHA-256 of a block.
type Sum [sha256.Size]byte

// FileSums are the hashes of the blocks of one file, the last of which may be
// short. Blocks of zeros have none: a hole as large as a disk takes no memory.
type FileSums struct {
	sums  []Sum
	quick []uint32 // CRC-32C of the same blocks
	zeros []zeroRun
}

// zeroRun is blocks of zeros, and how many there are before it.
type zeroRun struct{ first, n, before int64 }

// Block is the hash of block i, or the zero Sum if there is nothing but zeros in it.
func (f *FileSums) Block(i int64) (sum Sum, zero bool) {
	if i, zero = f.at(i); zero {
		return Sum{}, true
	}
	return f.sums[i], false
}

// Same says whether b is what block i was, quickly: it is for files that change
// by chance while they are read, not by malice.
func (f *FileSums) Same(i int64, b []byte) bool {
	i, zero := f.at(i)
	if zero {
		return isZero(b)
	}
	return f.quick[i] == quick(b)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func quick(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// at is where what is known of block i is, if it is not of zeros.
func (f *FileSums) at(i int64) (at int64, zero bool) {
	if f.zeros == nil {
		return i, false
	}
	run, _ := slices.BinarySearchFunc(f.zeros, i, func(r zeroRun, i int64) int {
		if r.first+r.n <= i {
			return -1
		}
		return 1
	})
	if run == len(f.zeros) {
		last := f.zeros[run-1]
		return i - last.before - last.n, false
	}
	return i - f.zeros[run].before, f.zeros[run].first <= i
}

// Sums are the hashes of all files of a tree, made while each is read once. They
// serve every tree that has the same nodes.
type Sums struct {
	block int64
	of    map[*Inode]*FileSums
}

// Of is what is known of a file, or nil.
func (s *Sums) Of(n *Inode) *FileSums {
	if s == nil {
		return nil
	}
	return s.of[n]
}

// stretch is blocks of one file, which are hashed together.
type stretch struct {
	path  string
	node  *Inode
	first int64 // block
	sums  []Sum // one that is zero is of zeros
	quick []uint32
}

// stretchLen is how many blocks one has at most: a large file is for all workers.
const stretchLen = 32

// Sum hashes every block bytes of the files of t, by several workers; 0 workers
// is GOMAXPROCS. What known has is not read again. Progress is told of the bytes
// of the files that it has not.
func (t *Tree) Sum(ctx context.Context, block int64, workers int, known *Sums, p image.Progress) (*Sums, error) {
	if workers == 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	s := &Sums{block: block, of: map[*Inode]*FileSums{}}
	if known != nil && known.block != block {
		known = nil
	}
	var work []stretch
	var fresh []*FileSums
	for path, n := range t.All() {
		if n.Size() <= 0 || s.of[n] != nil {
			continue
		}
		f := known.Of(n)
		if f == nil {
			f = &FileSums{}
			fresh = append(fresh, f)
			work = f.plan(work, path, n, block, p)
		}
		s.of[n] = f
	}
	// The long ones first, so that all workers end at one time.
	order := make([]int32, len(work))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortStableFunc(order, func(a, b int32) int { return cmp.Compare(len(work[b].sums), len(work[a].sums)) })
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for range workers {
		g.Go(func() error {
			buf := make([]byte, block)
			for {
				i := next.Add(1) - 1
				if i >= int64(len(order)) {
					return nil
				}
				if err := work[order[i]].hash(ctx, buf, p); err != nil {
					return err
				}
			}
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for _, w := range work {
		s.of[w.node].add(w)
	}
	for _, f := range fresh {
		f.seal()
	}
	return s, nil
}

// plan adds the stretches of a file to work, and the holes between them to f.
func (f *FileSums) plan(work []stretch, path string, n *Inode, block int64, p image.Progress) []stretch {
	c := n.Content
	for off := int64(0); off < c.Size(); {
		hole := image.Hole(c, off)
		if off+hole < c.Size() {
			hole -= hole % block
		}
		if hole > 0 {
			f.hole(off/block, (hole+block-1)/block)
			p.Add(hole)
			off += hole
			continue
		}
		blocks := int64(1)
		for blocks < stretchLen && off+blocks*block < c.Size() && image.Hole(c, off+blocks*block) < block {
			blocks++
		}
		work = append(work, stretch{path, n, off / block, make([]Sum, blocks), make([]uint32, blocks)})
		off = min(off+blocks*block, c.Size())
	}
	return work
}

func (w *stretch) hash(ctx context.Context, buf []byte, p image.Progress) error {
	for i := range w.sums {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		off := (w.first + int64(i)) * int64(cap(buf))
		b := buf[:min(int64(cap(buf)), w.node.Size()-off)]
		if k, err := w.node.Content.ReadAt(b, off); k < len(b) {
			return fmt.Errorf("%s: reading at byte %d: %w", w.path, off+int64(k), ended(err, w.node.Size()))
		}
		if !isZero(b) {
			w.sums[i], w.quick[i] = sha256.Sum256(b), quick(b)
		}
		p.Add(int64(len(b)))
	}
	return nil
}

// ended is the error of a file that could not be read to where it should be.
func ended(err error, size int64) error {
	if err == nil || err == io.EOF {
		return fmt.Errorf("it ends there, but has a size of %d bytes: %w", size, io.ErrUnexpectedEOF)
	}
	return err
}

// hole says that n blocks are zeros. Holes come in any order.
func (f *FileSums) hole(first, n int64) {
	f.zeros = append(f.zeros, zeroRun{first: first, n: n})
}

// add takes what was found out, stretch after stretch in the order of the file.
func (f *FileSums) add(w stretch) {
	if f.sums == nil && !slices.Contains(w.sums, Sum{}) {
		f.sums, f.quick = w.sums, w.quick
		return
	}
	for i, sum := range w.sums {
		if sum == (Sum{}) {
			f.hole(w.first+int64(i), 1)
		} else {
			f.sums, f.quick = append(f.sums, sum), append(f.quick, w.quick[i])
		}
	}
}

// seal puts the runs of zeros in order, once all are known.
func (f *FileSums) seal() {
	if f.zeros == nil {
		return
	}
	slices.SortFunc(f.zeros, func(a, b zeroRun) int { return cmp.Compare(a.first, b.first) })
	runs := f.zeros[:0]
	for _, r := range f.zeros {
		if last := len(runs) - 1; last >= 0 && runs[last].first+runs[last].n == r.first {
			runs[last].n += r.n
		} else {
			runs = append(runs, r)
		}
	}
	f.zeros = slices.Clip(runs)
	for i, n := 0, int64(0); i < len(runs); i++ {
		runs[i].before = n
		n += runs[i].n
	}
}
