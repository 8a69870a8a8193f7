package squashfs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"imgtool/image"
	"imgtool/image/tree"
	"imgtool/image/tree/sums"
)

// survey has the blocks of a file system by their content.
type survey struct {
	runs      map[sums.Sum]*oldRun // by runKey
	fragments []oldFragment        // by number
	ends      map[endKey]*oldEnd
}

// oldBlock is a block of the surveyed file system.
type oldBlock struct {
	start  int64
	word   uint32            // length as stored, with blockRaw
	size   int64             // length of the content
	stored [sha256.Size]byte // SHA-256 of the stored bytes
	sum    sums.Sum          // of the content of a data block, as sumOf makes it
}

func (b *oldBlock) len() int64 { return int64(b.word &^ blockRaw) }

// oldRun is the blocks of a file.
type oldRun struct {
	start  int64
	words  []uint32   // stored length of each block; 0 is a hole
	size   int64      // of the content of all blocks
	blocks []oldBlock // without holes
}

type oldFragment struct {
	oldBlock
	ends []*oldEnd
}

// oldEnd is a tail end in a fragment block.
type oldEnd struct {
	endKey
	fragment uint32
	at       uint32
}

type endKey struct {
	sum sums.Sum
	len int32
}

// survey reads and decompresses all blocks. It fails with a *startOverError if the file
// system has other blocks than wr is to write.
func (r *Reader) survey(ctx context.Context, wr *writer) (*survey, error) {
	if size := int(r.super.BlockSize); size != wr.opt.BlockSize {
		return nil, startOver("it has blocks of %d bytes, not %d", size, wr.opt.BlockSize)
	}
	if name := r.codec.Name; name != wr.codec.Name {
		return nil, startOver("it is compressed with %s, not %s", name, wr.codec.Name)
	}
	if same, err := r.sameOptions(wr.codec.Options(wr.level)); err != nil {
		return nil, err
	} else if !same {
		return nil, startOver("it is compressed with another level than %s", wr.opt.Compression)
	}
	t, err := r.Tree()
	if err != nil {
		return nil, err
	}
	s := &survey{runs: map[sums.Sum]*oldRun{}, ends: map[endKey]*oldEnd{}, fragments: make([]oldFragment, r.super.Fragments)}
	runs := s.list(t, int64(r.super.BlockSize))
	if err := s.read(ctx, r, runs, wr.opt.Workers); err != nil {
		return nil, err
	}
	s.index(runs, int64(r.super.BlockSize))
	return s, nil
}

// sameOptions reports whether the compressor options are these.
func (r *Reader) sameOptions(options []byte) (bool, error) {
	if r.super.Flags&flagOptions == 0 {
		return options == nil, nil
	}
	b, err := r.bytes(superblockSize+2, len(options))
	return options != nil && bytes.Equal(b, options), err
}

// list returns the runs of all files, and sets the tail ends of fragment blocks.
func (s *survey) list(t *tree.Tree, size int64) (runs []*oldRun) {
	seen := map[*tree.Inode]bool{}
	type place struct{ start, n int64 }
	known := map[place]bool{}
	for _, n := range t.All() {
		f, ok := n.Content.(*file)
		if !ok || seen[n] {
			continue
		}
		seen[n] = true
		if blocks := int64(len(f.words)); blocks > 0 && !known[place{int64(f.marks[0]), blocks}] {
			r := &oldRun{start: int64(f.marks[0]), words: f.words, size: min(blocks*size, f.size)}
			at := r.start
			for i, w := range f.words {
				if w != 0 {
					r.blocks = append(r.blocks, oldBlock{start: at, word: w, size: min(size, r.size-int64(i)*size)})
				}
				at += int64(w &^ blockRaw)
			}
			known[place{r.start, blocks}] = true
			runs = append(runs, r)
		}
		if f.fragment != none {
			b := &s.fragments[f.fragment]
			b.start, b.word = f.fragmentStart, f.fragmentWord
			b.ends = append(b.ends, &oldEnd{endKey{len: int32(f.size % size)}, f.fragment, f.fragmentAt})
		}
	}
	return runs
}

// read reads all blocks, several at a time, and sets their checksums.
func (s *survey) read(ctx context.Context, r *Reader, runs []*oldRun, workers int) error {
	size := int64(r.super.BlockSize)
	var jobs []func() error
	for _, run := range runs {
		for i := range run.blocks {
			b := &run.blocks[i]
			jobs = append(jobs, func() error {
				content, err := b.read(r)
				if err == nil && int64(len(content)) != b.size {
					err = fmt.Errorf("squashfs: the block at byte %d decompresses to %d bytes, want %d", b.start, len(content), b.size)
				}
				b.sum = sumBytes(content, size)
				return err
			})
		}
	}
	for i := range s.fragments {
		f := &s.fragments[i]
		if len(f.ends) == 0 {
			continue
		}
		jobs = append(jobs, func() error {
			content, err := f.read(r)
			if err != nil {
				return err
			}
			f.size = int64(len(content))
			for _, e := range f.ends {
				end := int64(e.at) + int64(e.len)
				if end > f.size {
					return fmt.Errorf("squashfs: the fragment block at byte %d has %d bytes, a tail end is at %d to %d", f.start, f.size, e.at, end)
				}
				e.sum = sumBytes(content[e.at:end], size)
			}
			return nil
		})
	}
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for range workers {
		g.Go(func() error {
			for i := int(next.Add(1) - 1); i < len(jobs); i = int(next.Add(1) - 1) {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				if err := jobs[i](); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// read returns the content of a block, and sets the checksum of its stored form.
func (b *oldBlock) read(r *Reader) ([]byte, error) {
	stored, err := r.bytes(b.start, int(b.len()))
	if err != nil {
		return nil, err
	}
	b.stored = sha256.Sum256(stored)
	if b.word&blockRaw != 0 {
		return stored, nil
	}
	return r.decode(stored, b.start, int(r.super.BlockSize))
}

// sumBytes returns what sumOf returns for a piece with this content.
func sumBytes(b []byte, size int64) sums.Sum {
	each := int(hashed(size))
	if image.IsZero(b) {
		return sums.Sum{}
	}
	if len(b) <= each {
		return sha256.Sum256(b)
	}
	h := sha256.New()
	for len(b) > 0 {
		part := b[:min(each, len(b))]
		b = b[len(part):]
		sum := sums.Sum{}
		if !image.IsZero(part) {
			sum = sha256.Sum256(part)
		}
		h.Write(sum[:])
	}
	return sums.Sum(h.Sum(nil))
}

// index fills the maps. Of equal contents, the first one is found.
func (s *survey) index(runs []*oldRun, size int64) {
	for _, r := range runs {
		key := runKey(func(yield func(int64, sums.Sum) bool) {
			blocks, left := r.blocks, r.size
			for _, w := range r.words {
				n, sum := min(left, size), sums.Sum{}
				if w != 0 {
					n, sum = blocks[0].size, blocks[0].sum
					blocks = blocks[1:]
				}
				left -= n
				if !yield(n, sum) {
					return
				}
			}
		})
		if _, ok := s.runs[key]; !ok && key != (sums.Sum{}) {
			s.runs[key] = r
		}
	}
	for i := range s.fragments {
		for _, e := range s.fragments[i].ends {
			if s.ends[e.endKey] == nil {
				s.ends[e.endKey] = e
			}
		}
	}
}
