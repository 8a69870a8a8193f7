package sums

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"runtime"
	"slices"

	"imgtool/image"
	"imgtool/image/parallel"
	"imgtool/image/tree"
)

// Options are the options of [Compute] and [Digest]. The zero value is usable.
type Options struct {
	Block    int64          // bytes of a block; 0 is BlockSize
	Workers  int            // goroutines that hash; 0 is GOMAXPROCS
	Known    *Checksums     // files that need not be read, if their blocks have the same size
	Memo     *Memo          // blocks that need not be hashed by SHA-256; may be nil
	Progress image.Progress // counts the bytes of the files that Known does not have
}

// rangeBlocks is how many blocks of a file are read and hashed at once.
const rangeBlocks = 4

// blockRange is some blocks of one file, or a hole in it.
type blockRange struct {
	path string
	node *tree.Inode
	off  int64
	len  int64
	hole bool

	// The result, unless it is a hole.
	sums [rangeBlocks]blockSum
	zero [rangeBlocks]bool
}

// Compute hashes every block of the regular files of t.
func Compute(ctx context.Context, t *tree.Tree, opt Options) (*Checksums, error) {
	block := cmp.Or(opt.Block, BlockSize)
	all := &Checksums{block: block, of: map[*tree.Inode]*File{}}
	if opt.Known != nil && opt.Known.block == block {
		all.known = opt.Known
	}
	workers := make([]func(*blockRange) error, cmp.Or(opt.Workers, runtime.GOMAXPROCS(0)))
	for i := range workers {
		buf := make([]byte, rangeBlocks*block)
		workers[i] = func(r *blockRange) error { return r.hash(buf, block, opt.Memo) }
	}
	next, stop := iter.Pull(all.ranges(t))
	defer stop()
	// A worker with small files must not wait for another with a large one.
	slots := make([]blockRange, 16*len(workers))
	err := parallel.Map(ctx, slots, func(r *blockRange) (ok bool) {
		*r, ok = next()
		return ok
	}, workers, func(r *blockRange) error {
		all.add(r)
		opt.Progress.Add(r.len)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// ranges lists the parts of t to read and hash.
func (c *Checksums) ranges(t *tree.Tree) iter.Seq[blockRange] {
	return func(yield func(blockRange) bool) {
		for path, n := range t.All() {
			if n.Size() <= 0 || c.Of(n) != nil {
				continue
			}
			c.of[n] = new(File)
			for off := int64(0); off < n.Size(); {
				r := blockRange{path: path, node: n, off: off}
				r.len, r.hole = next(n.Content, off, c.block)
				if !yield(r) {
					return
				}
				off += r.len
			}
		}
	}
}

// next returns the length of the range that begins at off: a hole of whole blocks, or up
// to rangeBlocks blocks.
func next(c image.Content, off, block int64) (n int64, hole bool) {
	end := c.Size()
	n = image.Hole(c, off)
	if off+n < end {
		n -= n % block
	}
	if n > 0 {
		return n, true
	}
	for n = block; n < rangeBlocks*block && off+n < end && image.Hole(c, off+n) < block; n += block {
	}
	return min(n, end-off), false
}

// hash reads the blocks of r into buf and hashes them. The range is read by one call, as a file in a
// directory is opened for each.
func (r *blockRange) hash(buf []byte, block int64, memo *Memo) error {
	if r.hole {
		return nil
	}
	buf = buf[:r.len]
	if n, err := image.ReadFull(r.node.Content, buf, r.off); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = fmt.Errorf("it ends there, but has a size of %d bytes: %w", r.node.Size(), err)
		}
		return fmt.Errorf("%s: reading at byte %d: %w", r.path, r.off+int64(n), err)
	}
	i := 0
	for b := range slices.Chunk(buf, int(block)) {
		if r.zero[i] = image.IsZero(b); !r.zero[i] {
			r.sums[i] = memo.sum(b)
		}
		i++
	}
	return nil
}

// add adds the results of r, which must follow the results of earlier ranges.
func (c *Checksums) add(r *blockRange) {
	f := c.of[r.node]
	first, n := r.off/c.block, (r.len+c.block-1)/c.block
	if r.hole {
		f.addZeros(first, n)
		return
	}
	if f.sums == nil {
		f.sums = make([]blockSum, 0, n)
	}
	for i := range n {
		if r.zero[i] {
			f.addZeros(first+i, 1)
		} else {
			f.sums = append(f.sums, r.sums[i])
		}
	}
}
