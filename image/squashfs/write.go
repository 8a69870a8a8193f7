package squashfs

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"

	"imgtool/image"
	"imgtool/image/parallel"
	"imgtool/image/tree"
	"imgtool/image/tree/sums"
)

// Options are how a file system is written. The zero value is zstd at its
// default level in blocks of 1 MiB, with as many workers as there are processors.
type Options struct {
	Compression string // "zstd", "gzip", "xz" or "lz4", with a level as in "zstd:9"; "" is zstd
	BlockSize   int    // bytes, a power of two from 4096 to 1 MiB; 0 is 1 MiB
	ModTime     int64  // of the file system as a whole, seconds since 1970
	Max         int64  // bytes it may have; 0 is no limit
	Workers     int    // 0 is GOMAXPROCS; the result is the same for any number

	Sums  *sums.Checksums // of the tree's files, as far as they are known
	Cache Cache           // of compressed blocks; nil is none
}

// Cache keeps compressed blocks from one time to the next. Its methods are called
// by several goroutines at once.
type Cache interface {
	// Get gives what was put for a key, in dst where it has room for it, or nil.
	Get(dst []byte, key [sha256.Size]byte) []byte
	Put(key [sha256.Size]byte, data []byte)
}

// Check says what is wrong with the options.
func (o Options) Check() error {
	if _, _, err := parseCodec(o.Compression); err != nil {
		return err
	}
	if b := o.BlockSize; b != 0 && (b < minBlock || b > maxBlock || b&(b-1) != 0) {
		return fmt.Errorf("block size %d is not a power of two from %d to %d", b, minBlock, maxBlock)
	}
	if o.Max < 0 || o.Workers < 0 {
		return fmt.Errorf("a limit of %d bytes or %d workers cannot be", o.Max, o.Workers)
	}
	return nil
}

// TooLargeError is a file system that would have Size bytes where it may have
// no more than Max.
type TooLargeError struct{ Size, Max int64 }

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("%d bytes of squashfs do not fit in %d", e.Size, e.Max)
}

// Write writes t as a file system from byte 0 of w and returns its size in
// bytes, padded with zeros to 4 KiB. Nothing is written before the tree is known
// to be one that squashfs can hold.
//
// p is told of bytes of file content; equal files and hard links count once.
//
// When it does not fit in opt.Max the error is a *TooLargeError, and of what
// was written nothing lies beyond it.
func Write(ctx context.Context, w io.WriterAt, t *tree.Tree, opt Options, p image.Progress) (int64, error) {
	if err := opt.Check(); err != nil {
		return 0, err
	}
	codec, level, err := parseCodec(opt.Compression)
	if err != nil {
		return 0, err
	}
	if opt.BlockSize == 0 {
		opt.BlockSize = maxBlock
	}
	if opt.Workers == 0 {
		opt.Workers = runtime.GOMAXPROCS(0)
	}
	out := &output{w: w, max: math.MaxInt64}
	if opt.Max > 0 {
		out.max = opt.Max
	}
	encode, err := codec.encoder(level, opt.BlockSize)
	if err != nil {
		return 0, err
	}
	plan, err := newPlan(t)
	if err != nil {
		return 0, err
	}
	known, err := sums.Compute(ctx, t, sums.Options{Block: hashed(int64(opt.BlockSize)), Workers: opt.Workers, Known: opt.Sums})
	if err != nil {
		return 0, err
	}
	plan.cut(known, int64(opt.BlockSize))
	if err := plan.tooManyBlocks(opt.BlockSize); err != nil {
		return 0, err
	}
	known, opt.Sums = nil, nil

	// (1) Superblock: last, when all of it is known.
	super := superblock{
		Magic:      magic,
		Inodes:     uint32(len(plan.nodes)),
		ModTime:    clampTime(opt.ModTime),
		BlockSize:  uint32(opt.BlockSize),
		BlockLog:   blockLog(opt.BlockSize),
		Compressor: codec.id,
		Flags:      flagExportable,
		IDs:        uint16(len(plan.ids)),
		Major:      4,
	}
	if plan.duplicates {
		super.Flags |= flagDuplicates
	}
	out.pos = superblockSize

	// (2) Compressor options: a metadata block that is not compressed.
	if options := codec.options(level); options != nil {
		super.Flags |= flagOptions
		head := binary.LittleEndian.AppendUint16(nil, uint16(len(options))|metaRaw)
		if err := out.write(append(head, options...)); err != nil {
			return 0, err
		}
	}

	// (3) Data and fragment blocks.
	fragments, err := plan.writeBlocks(ctx, out, codec, level, opt, p)
	if err != nil {
		return 0, err
	}
	plan.settle()
	// The hashes of a million files take more memory than the tables do.
	for _, n := range plan.files {
		n.data.sums = nil
	}
	super.Fragments = uint32(len(fragments) / fragmentLen)
	super.Flags |= flagAlwaysFragments
	if super.Fragments == 0 {
		super.Flags ^= flagAlwaysFragments | flagNoFragments
	}

	// (4) Inode table and (5) directory table, which refer to each other.
	tables := tables{inodes: newTable(encode), dirs: newTable(encode), ends: plan.ends, block: int64(opt.BlockSize), count: uint32(len(plan.nodes))}
	if err := tables.write(ctx, plan.nodes[0]); err != nil {
		return 0, err
	}
	super.Root = plan.nodes[0].ref
	for _, t := range []struct {
		table *table
		start *uint64
	}{{tables.inodes, &super.InodeTable}, {tables.dirs, &super.DirTable}} {
		blocks, err := t.table.finish()
		if err != nil {
			return 0, err
		}
		*t.start = uint64(out.pos)
		if err := out.write(blocks); err != nil {
			return 0, err
		}
	}

	// (6) Fragment table, (7) export table, (8) id table.
	refs := make([]byte, 0, 8*len(plan.nodes))
	for _, n := range plan.nodes {
		refs = binary.LittleEndian.AppendUint64(refs, n.ref)
	}
	for _, t := range []struct {
		entries []byte
		start   *uint64
	}{{fragments, &super.FragTable}, {refs, &super.Export}, {appendTo(nil, plan.ids), &super.IDTable}} {
		start, err := out.writeIndexed(encode, t.entries, nil)
		if err != nil {
			return 0, err
		}
		*t.start = uint64(start)
	}

	// (9) Xattr tables.
	super.XattrTable = noTable
	if len(plan.xattrs) > 0 {
		start, err := plan.writeXattrs(out, encode)
		if err != nil {
			return 0, err
		}
		super.XattrTable = uint64(start)
	} else {
		super.Flags |= flagNoXattrs
	}

	// (10) Zeros up to a whole page, so that any block device can hold it.
	super.BytesUsed = uint64(out.pos)
	if err := out.write(make([]byte, -out.pos&(padding-1))); err != nil {
		return 0, err
	}
	if out.pos > out.max {
		return 0, &TooLargeError{out.pos, opt.Max}
	}
	return out.pos, out.writeAt(appendTo(nil, super), 0)
}

// slot is a block on its way.
type slot struct {
	block
	buf     []byte // as read
	scratch []byte // for the encoder
	stored  []byte // what goes to disk: buf, in scratch, or new
	word    uint32 // its length with blockRaw; 0 is a hole
	len     int    // of what it was made from
}

// writeBlocks writes all data, reading and compressing several blocks at once,
// and returns the entries of the fragment table.
func (p *plan) writeBlocks(ctx context.Context, out *output, codec *codec, level int, opt Options, progress image.Progress) ([]byte, error) {
	// Which ends go together is found out while the files' own blocks are written.
	size := int64(opt.BlockSize)
	var ends [][]int32
	g, run := errgroup.WithContext(ctx)
	found := make(chan struct{})
	g.Go(func() error {
		defer close(found)
		sketches, err := p.sketch(run, opt)
		if err != nil {
			return err
		}
		ends = p.fragments(sketches.byLikeness(), size)
		return nil
	})
	var fragments []byte
	g.Go(func() (err error) {
		all := func(yield func(block) bool) {
			if p.blocks(size, yield) {
				<-found
				p.fragmentBlocks(ends, yield)
			}
		}
		fragments, err = p.write(run, out, all, codec, level, opt, progress)
		return err
	})
	return fragments, g.Wait()
}

// write writes blocks.
func (p *plan) write(ctx context.Context, out *output, blocks iter.Seq[block], codec *codec, level int, opt Options, progress image.Progress) ([]byte, error) {
	// Two per worker: one to work on while the other waits for its turn to be
	// written.
	slots := make([]slot, 2*opt.Workers)
	next, stop := iter.Pull(blocks)
	defer stop()
	fill := func(s *slot) (ok bool) {
		s.block, ok = next()
		return ok
	}
	words, err := Codec(opt.Compression)
	if err != nil {
		return nil, err
	}
	var workers []func(*slot) error
	for range opt.Workers {
		encode, err := codec.encoder(level, opt.BlockSize)
		if err != nil {
			return nil, err
		}
		workers = append(workers, func(s *slot) error {
			return s.pack(encode, words, opt)
		})
	}

	var fragments []byte
	err = parallel.Map(ctx, slots, fill, workers, func(s *slot) error {
		switch d := s.file; {
		case d == nil:
			fragments = appendTo(fragments, uint64(out.pos), s.word, uint32(0))
		default:
			if d.words == nil {
				d.start, d.words = out.pos, make([]uint32, 0, d.blocks)
			}
			d.words = append(d.words, s.word)
			for range s.zeros - 1 {
				d.words = append(d.words, 0)
			}
		}
		if err := out.write(s.stored); err != nil {
			return err
		}
		progress.Add(int64(s.len) + s.bytes)
		return nil
	})
	return fragments, err
}

// pack makes what is stored of a block: what the cache has of it, or anew.
func (s *slot) pack(encode encoder, words string, opt Options) error {
	if s.zeros > 0 {
		s.stored, s.word, s.len = nil, 0, 0
		return nil
	}
	if s.buf == nil {
		s.buf = make([]byte, opt.BlockSize)
		s.scratch = make([]byte, opt.BlockSize+opt.BlockSize/128+1024)
	}
	key, zero := s.key(words, opt.BlockSize)
	if zero && s.file != nil {
		s.stored, s.word = nil, 0
		return nil
	}
	if opt.Cache != nil {
		if data := opt.Cache.Get(s.scratch, key); len(data) > 0 && len(data) < s.len {
			s.stored, s.word = data, uint32(len(data))
			return nil
		} else if data != nil {
			// Nothing is kept of what cannot be compressed.
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

// key is a hash of all that makes a difference to what is stored of a block, and
// whether there is nothing but zeros in it. It sets its length. The number in it
// counts up when an encoder makes something else of a block than it did.
func (s *slot) key(words string, size int) (key [sha256.Size]byte, zero bool) {
	h := sha256.New()
	fmt.Fprintf(h, "squashfs block 5\n%s %d\n", words, size)
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

// read reads a block.
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

// writeXattrs writes the sets of xattrs, then a table of where each is.
func (p *plan) writeXattrs(out *output, encode encoder) (int64, error) {
	var ids []byte
	sets := newTable(encode)
	for i, set := range p.xattrs {
		ids = appendTo(ids, sets.ref(), p.xattrCounts[i], uint32(len(set)))
		sets.write(set)
	}
	blocks, err := sets.finish()
	if err != nil {
		return 0, err
	}
	setsStart := out.pos
	if err := out.write(blocks); err != nil {
		return 0, err
	}
	return out.writeIndexed(encode, ids, func() []byte {
		return appendTo(nil, uint64(setsStart), uint32(len(p.xattrs)), uint32(0))
	})
}

// tables are the inode and directory tables while they are made.
type tables struct {
	inodes, dirs *table
	ends         []end
	block        int64 // bytes
	count        uint32
	buf          []byte
}

// place is where the end of a file is.
func (t *tables) place(d *data) (fragment, at uint32) {
	if d.end < 0 {
		return none, 0
	}
	return t.ends[d.end].fragment, t.ends[d.end].at
}

func (t *tables) write(ctx context.Context, root *node) error {
	if err := t.folder(ctx, root); err != nil {
		return err
	}
	t.inode(root)
	return errors.Join(t.inodes.err, t.dirs.err)
}

// folder writes all that is in a folder: first what is in the folders in it, so
// that their inodes can be; then the inodes of its entries, next to each other;
// then the listing, which says where these are.
func (t *tables) folder(ctx context.Context, dir *node) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	for _, c := range dir.folder.children {
		if c.node.Type() == tree.Dir {
			if err := t.folder(ctx, c.node); err != nil {
				return err
			}
		}
	}
	for _, c := range dir.folder.children {
		if !c.node.written {
			t.inode(c.node)
		}
	}
	if err := t.list(dir); err != nil {
		return fmt.Errorf("%s: %w", show(dir.path()), err)
	}
	return nil
}

// listing is where a folder's entries are in the directory table.
type listing struct {
	ref   uint64
	size  int64 // bytes
	index []indexEntry
}

// indexEntry is a place in a long listing where reading can begin.
type indexEntry struct {
	at    uint32 // bytes into the listing
	block uint32 // the metadata block that is in
	name  string // the first there
}

// list writes the listing of a folder whose entries' inodes are written. It is
// headers, each with the entries that share what is in it.
func (t *tables) list(dir *node) error {
	l := listing{ref: t.dirs.ref()}
	block := uint32(l.ref >> 16)
	for rest := dir.folder.children; len(rest) > 0; {
		// 1. The entries of this header: no more than it can serve, with inodes
		// in one metadata block and numbers near the first one's. It ends with
		// the metadata block of the listing, so that the next can be indexed.
		first := rest[0].node
		size, n := 12, 0
		for n < len(rest) && n < headEntries && len(t.dirs.buf)+size < metaSize {
			c := rest[n].node
			delta := int64(c.number) - int64(first.number)
			if c.ref>>16 != first.ref>>16 || delta != int64(int16(delta)) {
				break
			}
			size += 8 + len(rest[n].name)
			n++
		}
		// The last bytes of a metadata block may be too few for a header alone.
		if n == 0 {
			n, size = 1, 12+8+len(rest[0].name)
		}
		// 2. An index entry for the first header of each metadata block but the
		// first. Its count has 16 bits; past that, reading begins further ahead.
		if now := uint32(len(t.dirs.out)); now != block && len(l.index) < math.MaxUint16 {
			block = now
			l.index = append(l.index, indexEntry{uint32(l.size), block, rest[0].name})
		}
		// 3. Header: entries less one, block of their inodes, number of the first.
		b := appendTo(t.buf[:0], uint32(n-1), uint32(first.ref>>16), first.number)
		// 4. Entries: place in the block, number less the header's, type, length
		// of the name less one, name.
		for _, c := range rest[:n] {
			b = binary.LittleEndian.AppendUint16(b, uint16(c.node.ref))
			b = binary.LittleEndian.AppendUint16(b, uint16(c.node.number-first.number))
			b = binary.LittleEndian.AppendUint16(b, basicType(c.node.Type()))
			b = binary.LittleEndian.AppendUint16(b, uint16(len(c.name)-1))
			b = append(b, c.name...)
		}
		t.dirs.write(b)
		t.buf = b
		l.size += int64(size)
		rest = rest[n:]
	}
	if l.size > math.MaxUint32-listExtra {
		return fmt.Errorf("a folder with %d entries is more than squashfs can list", len(dir.folder.children))
	}
	dir.folder.listing = l
	return nil
}

func basicType(t uint32) uint16 {
	switch t {
	case tree.Dir:
		return typeDir
	case tree.Regular:
		return typeFile
	case tree.Symlink:
		return typeSymlink
	case tree.BlockDev:
		return typeBlock
	case tree.CharDev:
		return typeChar
	case tree.Fifo:
		return typeFifo
	case tree.Socket:
		return typeSocket
	}
	panic(fmt.Sprintf("squashfs: internal error: file type %#o", t))
}

// inode writes n in the basic form where that can hold it, else in the extended
// one.
func (t *tables) inode(n *node) {
	n.ref, n.written = t.inodes.ref(), true
	kind := basicType(n.Type())
	long := n.xattr != none
	switch kind {
	case typeDir:
		l := n.folder.listing
		long = long || l.size+listExtra > math.MaxUint16 || len(l.index) > 0
	case typeFile:
		d := n.data
		long = long || n.links > 1 || d.size > math.MaxUint32 || d.start > math.MaxUint32 || slices.Contains(d.words, 0)
	}
	if long {
		kind += extended
	}
	b := appendTo(t.buf[:0], kind, uint16(n.Mode&0o7777), n.uid, n.gid, clampTime(n.ModTime), n.number)

	switch kind {
	case typeDir, typeDir + extended:
		// A root has no parent; the number after the last stands for it.
		l, parent := n.folder.listing, t.count+1
		if n.parent != nil {
			parent = n.parent.number
		}
		size := l.size + listExtra
		if !long {
			b = appendTo(b, uint32(l.ref>>16), n.links, uint16(size), uint16(l.ref), parent)
			break
		}
		b = appendTo(b, n.links, uint32(size), uint32(l.ref>>16), parent, uint16(len(l.index)), uint16(l.ref), n.xattr)
		for _, e := range l.index {
			b = appendTo(b, e.at, e.block, uint32(len(e.name)-1))
			b = append(b, e.name...)
		}
	case typeFile:
		d := n.data
		fragment, at := t.place(d)
		b = appendTo(b, uint32(d.start), fragment, at, uint32(d.size), d.words)
	case typeFile + extended:
		d := n.data
		fragment, at := t.place(d)
		b = appendTo(b, d.start, d.size, d.sparse(t.block), n.links, fragment, at, n.xattr, d.words)
	case typeSymlink, typeSymlink + extended:
		b = appendTo(b, n.links, uint32(len(n.Target)))
		b = append(b, n.Target...)
	case typeBlock, typeChar, typeBlock + extended, typeChar + extended:
		b = appendTo(b, n.links, n.Minor&0xff|n.Major<<8|n.Minor&^0xff<<12)
	case typeFifo, typeSocket, typeFifo + extended, typeSocket + extended:
		b = appendTo(b, n.links)
	}
	if long && kind != typeDir+extended && kind != typeFile+extended {
		b = appendTo(b, n.xattr)
	}
	t.inodes.write(b)
	t.buf = b
}
