package squashfs

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"

	"imgtool/image"
	"imgtool/image/squashfs/codec"
	"imgtool/image/tree"
	"imgtool/image/tree/sums"
)

// Options control how a file system is written. The zero value means zstd at the
// default level, blocks of 1 MiB and one worker per processor.
type Options struct {
	Compression string // "zstd", "gzip", "xz" or "lz4", with a level as in "zstd:9"; "" is zstd
	BlockSize   int    // bytes, a power of two from 4096 to 1 MiB; 0 is 1 MiB
	ModTime     int64  // of the file system, seconds since 1970
	Packed      bool   // leave no gaps: do not begin blocks at multiples of 4 KiB
	Max         int64  // largest size in bytes; 0 is unlimited
	Workers     int    // 0 is GOMAXPROCS; the bytes do not depend on it

	// Like is an earlier file system whose blocks stay where they are, if possible: see
	// like.go. Reused, which may be nil, is called once if Like is set and there is no error.
	Like   *Reader
	Reused func(Reuse)

	// Placed, which may be nil, is called at the end with the blocks that were written and are in
	// Cache.
	Placed func([]Placed)

	// Stored reports files whose blocks are stored as they are, from a multiple of 4 KiB on:
	// files that are compressed already, and of which parts are read. It may be nil.
	Stored func(*tree.Inode) bool

	Sums  *sums.Checksums // checksums of the files that are known already
	Cache Cache           // of compressed blocks; nil is none

	uncompressed bool // store everything uncompressed, for tests of the reader
}

// Placed is where the data of an entry of the cache are in a file system.
type Placed struct {
	Off, Len int64
	Key      [sha256.Size]byte
}

// Cache keeps compressed blocks between calls of [Write].
type Cache = sums.Store

// Check reports an invalid option.
func (o Options) Check() error {
	if _, _, err := codec.Parse(o.Compression); err != nil {
		return err
	}
	if b := o.BlockSize; b != 0 && (b < minBlock || b > maxBlock || b&(b-1) != 0) {
		return fmt.Errorf("block size %d is not a power of two from %d to %d", b, minBlock, maxBlock)
	}
	if o.Max < 0 || o.Workers < 0 {
		return fmt.Errorf("invalid limits: %d bytes, %d workers; none may be negative", o.Max, o.Workers)
	}
	return nil
}

// TooLargeError is the error of [Write] for a file system of Size bytes, Gaps of them for
// alignment, that may have at most Max.
type TooLargeError struct{ Size, Max, Gaps int64 }

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("%d bytes of squashfs do not fit in %d", e.Size, e.Max)
}

// Write writes t as a file system from byte 0 of w and returns its size in
// bytes, which is padded with zeros to a multiple of 4 KiB. A tree that squashfs
// cannot hold is refused before anything is written.
//
// p receives the number of bytes of file content; equal files and hard links
// count once.
//
// If the file system exceeds opt.Max, the error is a [*TooLargeError], and
// nothing was written beyond opt.Max.
func Write(ctx context.Context, w io.WriterAt, t *tree.Tree, opt Options, p image.Progress) (int64, error) {
	wr, err := newWriter(ctx, w, t, opt)
	if err != nil {
		return 0, err
	}
	wr.progress = p
	size, err := wr.write(ctx)
	if large, ok := errors.AsType[*TooLargeError](err); ok && opt.Like != nil && wr.reuse.Reason == "" {
		size, err = wr.writeAgain(ctx, t, large)
	}
	if err == nil && opt.Like != nil && opt.Reused != nil {
		opt.Reused(wr.reuse)
	}
	if err == nil && opt.Placed != nil {
		opt.Placed(wr.placed)
	}
	return size, err
}

func (wr *writer) write(ctx context.Context) (int64, error) {
	if err := wr.writeOptions(); err != nil {
		return 0, err
	}
	fragments, err := wr.allBlocks(ctx)
	if err != nil {
		return 0, err
	}
	wr.plan.locateShared()
	if err := wr.writeInodes(ctx); err != nil {
		return 0, err
	}
	if err := wr.writeLookups(fragments); err != nil {
		return 0, err
	}
	if err := wr.writeXattrs(); err != nil {
		return 0, err
	}
	return wr.finish()
}

type writer struct {
	opt      Options
	codec    *codec.Codec
	level    int
	encode   codec.Encoder // of metadata
	plan     *plan
	out      *output
	super    superblock
	progress image.Progress
	counted  int64 // bytes that were reported to progress
	again    int64 // the part of counted that comes again
	gaps     int64 // bytes that alignment takes
	reuse    Reuse // if opt.Like is set
	placed   []Placed
}

// note records where a block is that the cache has.
func (wr *writer) note(s *slot, off int64) {
	if wr.opt.Placed != nil && wr.opt.Cache != nil && s.word != 0 && s.word&blockRaw == 0 {
		wr.placed = append(wr.placed, Placed{off, int64(len(s.stored)), s.cached})
	}
}

// count reports n bytes of content as done.
func (wr *writer) count(n int64) {
	repeated := min(n, wr.again)
	wr.again -= repeated
	wr.counted += n - repeated
	wr.progress.Add(n - repeated)
}

// allBlocks writes all blocks, and returns the entries of the fragment table.
func (wr *writer) allBlocks(ctx context.Context) ([]byte, error) {
	if wr.opt.Like == nil {
		return wr.writeBlocks(ctx)
	}
	fragments, err := wr.writeLike(ctx)
	if why, ok := errors.AsType[*startOverError](err); ok {
		wr.reuse = Reuse{Reason: why.reason}
		for _, n := range wr.plan.files {
			n.data.start, n.data.words, n.data.kept = 0, nil, false
		}
		wr.again = wr.counted
		return wr.writeBlocks(ctx)
	}
	return fragments, err
}

// newWriter plans the file system. It reads files but writes nothing.
func newWriter(ctx context.Context, w io.WriterAt, t *tree.Tree, opt Options) (*writer, error) {
	if err := opt.Check(); err != nil {
		return nil, err
	}
	if opt.BlockSize == 0 {
		opt.BlockSize = maxBlock
	}
	if opt.Workers == 0 {
		opt.Workers = runtime.GOMAXPROCS(0)
	}
	known := opt.Sums
	opt.Sums = nil // so that it can be freed after this function
	wr := &writer{opt: opt, out: &output{w: w, pos: superblockSize, max: math.MaxInt64}}
	if opt.Max > 0 {
		wr.out.max = opt.Max
	}
	var err error
	if wr.codec, wr.level, err = codec.Parse(opt.Compression); err != nil {
		return nil, err
	}
	if wr.encode, err = wr.newEncoder(); err != nil {
		return nil, err
	}
	if wr.plan, err = newPlan(t); err != nil {
		return nil, err
	}
	checksums, err := sums.Compute(ctx, t, sums.Options{Block: hashed(int64(opt.BlockSize)), Workers: opt.Workers, Known: known})
	if err != nil {
		return nil, err
	}
	wr.plan.cut(checksums, int64(opt.BlockSize))
	if err := wr.plan.checkBlockCount(opt.BlockSize); err != nil {
		return nil, err
	}
	wr.super = superblock{
		Magic:      magic,
		Inodes:     uint32(len(wr.plan.nodes)),
		ModTime:    clampTime(opt.ModTime),
		BlockSize:  uint32(opt.BlockSize),
		BlockLog:   blockLog(opt.BlockSize),
		Compressor: wr.codec.ID,
		Flags:      flagExportable,
		IDs:        uint16(len(wr.plan.ids)),
		Major:      4,
		XattrTable: noTable,
	}
	if wr.plan.duplicates {
		wr.super.Flags |= flagDuplicates
	}
	return wr, nil
}

// newEncoder returns an encoder for one goroutine.
func (wr *writer) newEncoder() (codec.Encoder, error) {
	if wr.opt.uncompressed {
		return func(_, src []byte) ([]byte, error) { return src, nil }, nil
	}
	return wr.codec.NewEncoder(wr.level, wr.opt.BlockSize)
}

// writeOptions writes the compressor options, an uncompressed metadata block:
// squashfs 4.0, "Compression Options".
func (wr *writer) writeOptions() error {
	options := wr.codec.Options(wr.level)
	if options == nil {
		return nil
	}
	wr.super.Flags |= flagOptions
	head := binary.LittleEndian.AppendUint16(nil, uint16(len(options))|metaRaw)
	return wr.out.write(append(head, options...))
}

// writeInodes writes the inode table and the directory table. They refer to each
// other, so both are made in memory first.
func (wr *writer) writeInodes(ctx context.Context) error {
	t := tables{
		inodes: newTable(wr.encode), dirs: newTable(wr.encode),
		tailEnds: wr.plan.tailEnds, blockSize: int64(wr.opt.BlockSize), count: uint32(len(wr.plan.nodes)),
	}
	root := wr.plan.nodes[0]
	if err := t.write(ctx, root); err != nil {
		return err
	}
	wr.super.Root = root.ref
	wr.super.InodeTable = uint64(wr.out.pos)
	if err := wr.out.writeTable(t.inodes); err != nil {
		return err
	}
	wr.super.DirTable = uint64(wr.out.pos)
	return wr.out.writeTable(t.dirs)
}

// writeLookups writes the tables that are indexed by number: fragment table,
// export table and ID table.
func (wr *writer) writeLookups(fragments []byte) error {
	wr.super.Fragments = uint32(len(fragments) / fragmentLen)
	wr.super.Flags |= flagAlwaysFragments
	if wr.super.Fragments == 0 {
		wr.super.Flags ^= flagAlwaysFragments | flagNoFragments
	}
	refs := make([]byte, 0, 8*len(wr.plan.nodes))
	for _, n := range wr.plan.nodes {
		refs = binary.LittleEndian.AppendUint64(refs, n.ref)
	}
	for _, t := range []struct {
		entries []byte
		start   *uint64
	}{{fragments, &wr.super.FragTable}, {refs, &wr.super.Export}, {appendTo(nil, wr.plan.ids), &wr.super.IDTable}} {
		start, err := wr.out.writeIndexed(wr.encode, t.entries, nil)
		if err != nil {
			return err
		}
		*t.start = uint64(start)
	}
	return nil
}

// writeXattrs writes the sets of xattrs and a table of their positions:
// squashfs 4.0, "Xattr Table".
func (wr *writer) writeXattrs() error {
	p := wr.plan
	if len(p.xattrs) == 0 {
		wr.super.Flags |= flagNoXattrs
		return nil
	}
	sets := newTable(wr.encode)
	var ids []byte
	for i, set := range p.xattrs {
		ids = appendTo(ids, sets.ref(), p.xattrCounts[i], uint32(len(set)))
		sets.write(set)
	}
	setsStart := wr.out.pos
	if err := wr.out.writeTable(sets); err != nil {
		return err
	}
	start, err := wr.out.writeIndexed(wr.encode, ids, func() []byte {
		return appendTo(nil, uint64(setsStart), uint32(len(p.xattrs)), uint32(0))
	})
	wr.super.XattrTable = uint64(start)
	return err
}

// finish pads the file system, so that it can be on any block device, and writes
// the superblock. It returns the size.
func (wr *writer) finish() (int64, error) {
	out := wr.out
	wr.super.BytesUsed = uint64(out.pos)
	if err := out.write(make([]byte, -out.pos&(alignment-1))); err != nil {
		return 0, err
	}
	if out.pos > out.max {
		return 0, &TooLargeError{out.pos, wr.opt.Max, wr.gaps}
	}
	return out.pos, out.writeAt(appendTo(nil, wr.super), 0)
}
