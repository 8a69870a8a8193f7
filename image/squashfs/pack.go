package squashfs

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"iter"

	"golang.org/x/sync/errgroup"

	"imgtool/image/parallel"
	"imgtool/image/squashfs/codec"
	"imgtool/image/tree/sums"
)

// block is a data block of a file, a run of its holes, or a fragment block.
type block struct {
	file     *fileData // nil for a fragment block
	fragment int       // its number, for a fragment block
	pieces   []piece   // the content; none for a hole
	zeros    int64     // number of consecutive blocks of zeros, if this is a hole
	bytes    int64     // length of the hole
}

type slot struct {
	block
	buf     []byte            // the content as read
	scratch []byte            // for the encoder
	stored  []byte            // the bytes to write: buf, in scratch, or allocated
	word    uint32            // length of stored, with blockRaw; 0 is a hole
	cached  [sha256.Size]byte // key of stored in the cache, if it is compressed
	len     int               // length of the content
}

// writeBlocks writes all data blocks, then all fragment blocks, and returns the
// entries of the fragment table: squashfs 4.0, "Fragment Table". The tail ends are put
// in order while the data blocks are being written.
func (wr *writer) writeBlocks(ctx context.Context) ([]byte, error) {
	size := int64(wr.opt.BlockSize)
	g, ctx := errgroup.WithContext(ctx)
	var tailEnds [][]int32
	ordered := make(chan struct{})
	g.Go(func() error {
		defer close(ordered)
		all := make([]int32, len(wr.plan.tailEnds))
		for i := range all {
			all[i] = int32(i)
		}
		order, err := wr.plan.bySimilarity(ctx, all, wr.opt)
		if err != nil {
			return err
		}
		tailEnds = wr.plan.fragments(order, size)
		return nil
	})
	var fragments []byte
	g.Go(func() error {
		blocks := func(yield func(block) bool) {
			if !wr.plan.dataBlocks(size, yield) {
				return
			}
			<-ordered
			for i, ends := range tailEnds {
				if !yield(wr.plan.fragmentBlock(ends, i)) {
					return
				}
			}
		}
		return wr.packBlocks(ctx, blocks, func(s *slot) error {
			var err error
			if d := s.file; d == nil {
				err = wr.align(int64(s.len))
				fragments = appendTo(fragments, uint64(wr.out.pos), s.word, uint32(0))
			} else {
				if d.words == nil {
					if wr.opt.stores(s) {
						err = wr.out.write(make([]byte, -wr.out.pos&(alignment-1)))
					} else {
						err = wr.align(d.size)
					}
					d.start = wr.out.pos
				}
				d.add(s)
			}
			if err == nil {
				wr.note(s, wr.out.pos)
				err = wr.out.write(s.stored)
			}
			wr.count(int64(s.len) + s.bytes)
			return err
		})
	})
	if err := g.Wait(); err != nil {
		return nil, err
	}
	end := wr.aligned(wr.out.pos) + wr.slack(wr.out.pos)
	wr.gaps += end - wr.out.pos
	return fragments, wr.out.write(make([]byte, end-wr.out.pos))
}

// packBlocks compresses blocks and calls done with each, in their order.
func (wr *writer) packBlocks(ctx context.Context, blocks iter.Seq[block], done func(*slot) error) error {
	name, err := codec.Describe(wr.opt.Compression)
	if err != nil {
		return err
	}
	var workers []func(*slot) error
	for range wr.opt.Workers {
		encode, err := wr.newEncoder()
		if err != nil {
			return err
		}
		workers = append(workers, func(s *slot) error { return s.pack(encode, name, wr.opt) })
	}
	// Two slots per worker: one is compressed while the other waits to be written.
	slots := make([]slot, 2*wr.opt.Workers)
	next, stop := iter.Pull(blocks)
	defer stop()
	fill := func(s *slot) (ok bool) {
		s.block, ok = next()
		return ok
	}
	return parallel.Map(ctx, slots, fill, workers, done)
}

// add adds the stored length of the next block or hole.
func (d *fileData) add(s *slot) {
	if d.words == nil {
		d.words = make([]uint32, 0, d.blocks)
	}
	for range max(s.zeros, 1) {
		d.words = append(d.words, s.word)
	}
}

// stored returns how many bytes the blocks of a file take.
func (d *fileData) stored() (n int64) {
	for _, w := range d.words {
		n += int64(w &^ blockRaw)
	}
	return n
}

// maxGap returns how many bytes may be left unused in front of the stored form of n
// bytes. At block sizes from 512 KiB every file that has blocks, and nearly every
// fragment block, is larger than 64 gaps. With blocks of 128 KiB, aligning all of
// them would make a Debian root file system 2.4 % larger; this limit, 0.8 %.
func maxGap(n int64) int64 { return n / 64 }

// align writes zeros up to a multiple of 4 KiB if they are few, in front of a file
// or fragment block with n bytes of content. Then a change of another file moves the
// stored bytes by whole device blocks, and leaves these blocks as they are.
func (wr *writer) align(n int64) error {
	gap := wr.aligned(wr.out.pos) - wr.out.pos
	if gap > maxGap(n) {
		return nil
	}
	wr.gaps += gap
	return wr.out.write(make([]byte, gap))
}

// aligned returns the next multiple of 4 KiB, or pos if nothing is to be aligned.
func (wr *writer) aligned(pos int64) int64 {
	if wr.opt.Packed || wr.opt.BlockSize < minAligned {
		return pos
	}
	return pos + -pos&(alignment-1)
}

// minAligned is the smallest block size for which anything is aligned.
const minAligned = 64 << 10

// slack returns how many bytes to leave between n bytes of blocks and the tables, for
// the new blocks of a file system that is to be like this one: its tables can then
// stay where they are.
func (wr *writer) slack(n int64) int64 {
	if wr.aligned(1) == 1 {
		return 0
	}
	return max(n/1024, min(n/256, 256<<10)) &^ (alignment - 1)
}

// stores reports whether a block is of a file that is not compressed.
func (o *Options) stores(s *slot) bool {
	return o.Stored != nil && s.file != nil && len(s.pieces) > 0 && o.Stored(s.pieces[0].node.Inode)
}

// pack sets what is stored of a block, from the cache or by compressing it.
func (s *slot) pack(encode codec.Encoder, codec string, opt Options) error {
	if s.zeros > 0 {
		s.stored, s.word, s.len = nil, 0, 0
		return nil
	}
	if s.buf == nil {
		s.buf = make([]byte, opt.BlockSize)
		s.scratch = make([]byte, opt.BlockSize+opt.BlockSize/128+1024)
	}
	key, zero := s.key(codec, opt.BlockSize)
	s.cached = key
	if zero && s.file != nil {
		s.stored, s.word = nil, 0
		return nil
	}
	if opt.stores(s) {
		if err := s.read(opt.BlockSize); err != nil {
			return err
		}
		s.stored, s.word = s.buf, uint32(len(s.buf))|blockRaw
		return nil
	}
	if opt.Cache != nil {
		if data := opt.Cache.Get(s.scratch, key); len(data) > 0 && len(data) < s.len {
			s.stored, s.word = data, uint32(len(data))
			return nil
		} else if data != nil {
			// An empty entry is a block that cannot be compressed.
			s.stored, s.word = s.buf[:s.len], uint32(s.len)|blockRaw
			return s.read(opt.BlockSize)
		}
	}
	if err := s.read(opt.BlockSize); err != nil {
		return err
	}
	data, err := encode(s.scratch, s.buf)
	if err != nil {
		return fmt.Errorf("%s: compressing: %w", show(s.pieces[0].node.path()), err)
	}
	s.stored, s.word = data, uint32(len(data))
	if len(data) >= len(s.buf) {
		s.stored, s.word = s.buf, uint32(len(s.buf))|blockRaw
		data = data[:0]
	}
	if opt.Cache != nil {
		opt.Cache.Put(key, data)
	}
	return nil
}

// key returns a hash of everything that determines what is stored of a block, and
// reports whether its content is all zeros. It sets s.len. The version in the hash
// must be incremented if an encoder produces different bytes.
func (s *slot) key(codec string, size int) (key [sha256.Size]byte, zero bool) {
	h := sha256.New()
	fmt.Fprintf(h, "squashfs block 5\n%s %d\n", codec, size)
	s.len, zero = 0, true
	var rec []byte
	for _, p := range s.pieces {
		sum := sumOf(p, int64(size))
		zero = zero && sum == sums.Sum{}
		rec = append(binary.LittleEndian.AppendUint32(rec[:0], uint32(p.len)), sum[:]...)
		h.Write(rec)
		s.len += p.len
	}
	h.Sum(key[:0])
	return key, zero
}

func (s *slot) read(size int) error {
	s.buf = s.buf[:0]
	for _, p := range s.pieces {
		at := len(s.buf)
		s.buf = s.buf[:at+p.len]
		if err := p.read(s.buf[at:], int64(size)); err != nil {
			return err
		}
	}
	return nil
}
