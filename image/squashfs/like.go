package squashfs

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"slices"

	"imgtool/image/squashfs/space"
	"imgtool/image/tree"
	"imgtool/image/tree/sums"
)

// With Options.Like, a file system is laid out like an earlier one:
//
//  1. Blocks of files, and fragment blocks, whose content the earlier one has keep their
//     stored bytes and their place. So do the numbers of fragment blocks.
//  2. A fragment block stays while any tail end in it is in use. If unused tail ends
//     exceed maxUnused of all bytes, the blocks with the greatest unused share go.
//  3. All other blocks are compressed to learn their sizes. Each file and fragment block
//     goes to the smallest gap that it fits in, the largest first, or behind the last block.
//  4. If gaps and unused tail ends would exceed maxWaste of all bytes, blocks at the end move
//     into gaps, with their stored bytes, as few as are needed.
//  5. The tables stay where they are if there is room for what is new.
//
// If more would move than stay, or the file system exceeds Options.Max, it is laid out without
// the earlier one.
const (
	maxUnused = 2 // percent
	maxWaste  = 4 // percent, so that the size is within 5 percent of that without Like
)

// Reuse describes what a file system that was written with Options.Like has in common with
// the earlier one.
type Reuse struct {
	Kept   int64  // bytes of blocks that stay where they are, as stored
	Moved  int64  // bytes of blocks that go elsewhere, as stored
	New    int64  // bytes of other blocks, as stored
	Waste  int64  // bytes of gaps and of unused tail ends
	Reason string // why nothing is kept; "" if something is
}

// LikeError says that the file system of Options.Like cannot be read.
type LikeError struct{ err error }

func (e *LikeError) Error() string { return "the earlier file system: " + e.err.Error() }
func (e *LikeError) Unwrap() error { return e.err }

// layout is where the blocks of a file system go.
type layout struct {
	kept      []keptRun
	fragments []fragment // by number
	unused    int64      // stored bytes of unused tail ends, about
	tables    int64      // where the inode table begins
	reuse     Reuse
}

// keptRun is consecutive blocks of the earlier file system whose stored bytes are kept.
type keptRun struct {
	blocks []oldBlock // where they are in the earlier file system; not empty
	start  *int64     // where they begin in the new one
}

// old returns where the blocks are in the earlier file system.
func (r keptRun) old() space.Range {
	last := r.blocks[len(r.blocks)-1]
	return space.Range{Start: r.blocks[0].start, End: last.start + last.len()}
}

// fragment is a fragment block of a layout.
type fragment struct {
	start    int64
	word     uint32
	tailEnds []int32   // nil if it is kept
	old      *oldBlock // nil if it is not kept
}

// startOverError is the reason why an earlier file system is not used.
type startOverError struct{ reason string }

func (e *startOverError) Error() string { return e.reason }

func startOver(format string, args ...any) error {
	return &startOverError{fmt.Sprintf(format, args...)}
}

// writeLike writes all blocks in a layout like that of opt.Like, and returns the entries of
// the fragment table. If that layout is unsuitable, nothing is written, and the error is a
// *startOverError.
func (wr *writer) writeLike(ctx context.Context) ([]byte, error) {
	old, err := wr.opt.Like.survey(ctx, wr)
	if err != nil {
		if _, ok := errors.AsType[*startOverError](err); !ok && ctx.Err() == nil {
			err = &LikeError{err}
		}
		return nil, err
	}
	l := &layout{tables: int64(wr.opt.Like.super.InodeTable)}
	wr.keepFiles(old, l)
	loose := wr.keepFragments(old, l)
	order, err := wr.plan.bySimilarity(ctx, loose, wr.opt)
	if err != nil {
		return nil, err
	}
	wr.numberFragments(wr.plan.fragments(order, int64(wr.opt.BlockSize)), l)
	if err := wr.measure(ctx, l); err != nil {
		return nil, err
	}
	if err := wr.place(l); err != nil {
		return nil, err
	}
	wr.reuse = l.reuse
	if err := wr.writeKept(ctx, l); err != nil {
		return nil, err
	}
	if err := wr.writeNew(ctx, l); err != nil {
		return nil, err
	}
	wr.out.pos = l.tables
	var entries []byte
	for _, f := range l.fragments {
		if f.word == 0 {
			f = l.fragments[len(l.fragments)-1]
		}
		entries = appendTo(entries, uint64(f.start), f.word, uint32(0))
	}
	return entries, nil
}

// keepFiles gives files whose blocks the earlier file system has the place of these.
func (wr *writer) keepFiles(old *survey, l *layout) {
	size := int64(wr.opt.BlockSize)
	for _, n := range wr.plan.files {
		d := n.data
		if wr.plan.shared[d].data != nil || d.blocks == 0 {
			continue
		}
		r, ok := old.runs[n.runKey(size)]
		if !ok || r.start < wr.out.pos {
			continue
		}
		d.start, d.words, d.kept = r.start, r.words, true
		l.kept = append(l.kept, keptRun{r.blocks, &d.start})
		wr.count(min(d.blocks*size, d.size))
	}
}

// runKey returns a hash of the content of a file's blocks. It is the zero Sum if these are
// only zeros.
func (n *node) runKey(size int64) sums.Sum {
	return runKey(func(yield func(int64, sums.Sum) bool) {
		d := n.data
		for i := int64(0); i < d.blocks; i++ {
			if k := d.zeroBlocks(i, size); k > 0 {
				if !yield(min((i+k)*size, d.size)-i*size, sums.Sum{}) {
					return
				}
				i += k - 1
			} else if !yield(d.blockLen(i, size), sumOf(n.piece(i, size), size)) {
				return
			}
		}
	})
}

// runKey hashes the lengths and checksums of consecutive blocks. Those of zeros have the
// zero Sum and may be yielded together.
func runKey(blocks iter.Seq2[int64, sums.Sum]) sums.Sum {
	h := sha256.New()
	zeros, any := int64(0), false
	for n, sum := range blocks {
		if sum == (sums.Sum{}) {
			zeros += n
			continue
		}
		any = true
		h.Write(append(appendTo(nil, zeros, n), sum[:]...))
		zeros = 0
	}
	if !any {
		return sums.Sum{}
	}
	h.Write(appendTo(nil, zeros))
	return sums.Sum(h.Sum(nil))
}

// keepFragments assigns tail ends to fragment blocks of the earlier file system that have
// them, and returns the other tail ends.
func (wr *writer) keepFragments(old *survey, l *layout) (loose []int32) {
	size := int64(wr.opt.BlockSize)
	p := wr.plan
	from := make([]*oldEnd, len(p.tailEnds)) // what each is equal to
	used := make([]int64, len(old.fragments))
	for i := range p.tailEnds {
		e := &p.tailEnds[i]
		if o := old.ends[endKey{sumOf(e.piece(), size), e.len}]; o != nil && old.fragments[o.fragment].start >= wr.out.pos {
			from[i] = o
			used[o.fragment] += int64(e.len)
		}
	}
	total := int64(0)
	for _, r := range l.kept {
		total += r.old().Len()
	}
	kept := make([]bool, len(old.fragments))
	unused := make([]int64, len(old.fragments)) // as stored, about
	var order []int32
	for i, f := range old.fragments {
		if kept[i] = used[i] > 0; kept[i] {
			unused[i] = f.len() * (f.size - min(used[i], f.size)) / f.size
			total += f.len()
			l.unused += unused[i]
			order = append(order, int32(i))
		}
	}
	slices.SortStableFunc(order, func(a, b int32) int {
		return cmp.Compare(unused[b]*old.fragments[a].len(), unused[a]*old.fragments[b].len())
	})
	for ; len(order) > 0 && l.unused > total*maxUnused/100; order = order[1:] {
		i := order[0]
		kept[i] = false
		l.unused -= unused[i]
		total -= old.fragments[i].len()
	}
	for i := range p.tailEnds {
		e := &p.tailEnds[i]
		if o := from[i]; o != nil && kept[o.fragment] {
			e.fragment, e.at = o.fragment, o.at
			wr.count(int64(e.len))
		} else {
			loose = append(loose, int32(i))
		}
	}
	l.fragments = make([]fragment, len(old.fragments))
	for i := range old.fragments {
		if f := &old.fragments[i].oldBlock; kept[i] {
			l.fragments[i] = fragment{start: f.start, word: f.word, old: f}
		}
	}
	return loose
}

// numberFragments adds new fragment blocks to the layout. They take the numbers of blocks
// that are not kept. A number that remains stands for the same block as another one.
func (wr *writer) numberFragments(blocks [][]int32, l *layout) {
	inUse := func(f fragment) bool { return f.word != 0 || f.tailEnds != nil }
	number := 0
	for _, tailEnds := range blocks {
		for number < len(l.fragments) && inUse(l.fragments[number]) {
			number++
		}
		if number == len(l.fragments) {
			l.fragments = append(l.fragments, fragment{})
		}
		l.fragments[number].tailEnds = tailEnds
		for _, i := range tailEnds {
			wr.plan.tailEnds[i].fragment = uint32(number)
		}
	}
	for n := len(l.fragments); n > 0 && !inUse(l.fragments[n-1]); n-- {
		l.fragments = l.fragments[:n-1]
	}
}

// newBlocks yields the blocks that are not kept: first data blocks, then fragment blocks.
func (wr *writer) newBlocks(l *layout) iter.Seq[block] {
	return func(yield func(block) bool) {
		if !wr.plan.dataBlocks(int64(wr.opt.BlockSize), yield) {
			return
		}
		for i := range l.fragments {
			if f := &l.fragments[i]; f.tailEnds != nil && !yield(wr.plan.fragmentBlock(f.tailEnds, i)) {
				return
			}
		}
	}
}

// measure sets the stored lengths of the blocks that are not kept. Their stored bytes are
// not kept in memory: writeNew takes them from the cache, or compresses them again.
func (wr *writer) measure(ctx context.Context, l *layout) error {
	return wr.packBlocks(ctx, wr.newBlocks(l), func(s *slot) error {
		if s.file == nil {
			l.fragments[s.fragment].word = s.word
		} else {
			s.file.add(s)
		}
		wr.count(int64(s.len) + s.bytes)
		return nil
	})
}

// place sets where all blocks go, and where the tables begin.
func (wr *writer) place(l *layout) error {
	for i := range l.fragments {
		if f := &l.fragments[i]; f.old != nil {
			l.kept = append(l.kept, keptRun{[]oldBlock{*f.old}, &f.start})
		}
	}
	slices.SortStableFunc(l.kept, func(a, b keptRun) int { return cmp.Compare(a.old().Start, b.old().Start) })
	kept := make([]space.Range, len(l.kept))
	for i, r := range l.kept {
		kept[i] = r.old()
	}
	lens, starts := wr.unplaced(l)
	first := wr.out.pos
	// most returns the greatest end of n bytes of blocks. Without Like there is slack, too, and
	// the size is rounded.
	most := func(n int64) int64 { return first + n + n*maxWaste/100 - l.unused }
	added := int64(0)
	for _, n := range lens {
		added += n
	}
	s, to, placed := space.Fit(first, kept, lens, wr.aligned, most)
	if moved, fits := s.Used()-s.Stay()-added, s.End() <= most(s.Used()); moved > 0 || !fits {
		// With many small ranges, alignment alone may take that much.
		packed, packedTo, packedPlaced := space.Fit(first, kept, lens, func(at int64) int64 { return at }, most)
		if !fits || moved*2 > (packed.Used()-packed.Stay()-added)*3 {
			s, to, placed = packed, packedTo, packedPlaced
		}
	}
	for i, r := range l.kept {
		*r.start = to[i]
	}
	for i, at := range placed {
		*starts[i] = at
	}
	end := wr.aligned(s.End())
	slack := wr.slack(end)
	if was := l.tables; was < end || was > end+2*slack || was-slack > wr.aligned(most(s.Used())) {
		l.tables = end + slack
	}
	if l.tables >= wr.out.max {
		return tooLargeLike(l.tables, wr.out.max)
	}
	l.reuse = Reuse{Kept: s.Stay(), New: added, Waste: l.unused + l.tables - first - s.Used()}
	if l.reuse.Moved = s.Used() - l.reuse.Kept - l.reuse.New; l.reuse.Moved > l.reuse.Kept {
		return startOver("most of its blocks would move, so that gaps and unused parts take at most %d %%", maxWaste)
	}
	return nil
}

func tooLargeLike(size, max int64) error {
	return startOver("%d bytes in its layout do not fit in %d", size, max)
}

// writeAgain writes the file system without the earlier one, in whose layout it is too large. It
// leaves nothing behind the end of what was written before.
func (wr *writer) writeAgain(ctx context.Context, t *tree.Tree, was *TooLargeError) (int64, error) {
	opt := wr.opt
	opt.Like = nil
	next, err := newWriter(ctx, wr.out.w, t, opt)
	if err != nil {
		return 0, err
	}
	next.progress, next.counted, next.again = wr.progress, wr.counted, wr.counted
	size, err := next.write(ctx)
	if err != nil {
		return 0, err
	}
	wr.reuse, wr.placed = Reuse{Reason: tooLargeLike(was.Size, was.Max).Error()}, next.placed
	zeros := make([]byte, maxBlock)
	end := min(was.Size, wr.out.max)
	for at := size; at < end; at += maxBlock {
		if err := wr.out.writeAt(zeros[:min(maxBlock, end-at)], at); err != nil {
			return 0, err
		}
	}
	return size, nil
}

// unplaced returns the lengths of what is to be placed, and where to put the starts: files
// in the order of their paths, then fragment blocks.
func (wr *writer) unplaced(l *layout) (lens []int64, starts []*int64) {
	for _, n := range wr.plan.files {
		if d := n.data; !d.kept && wr.plan.shared[d].data == nil && d.stored() > 0 {
			lens, starts = append(lens, d.stored()), append(starts, &d.start)
		}
	}
	for i := range l.fragments {
		if f := &l.fragments[i]; f.tailEnds != nil {
			lens, starts = append(lens, int64(f.word&^blockRaw)), append(starts, &f.start)
		}
	}
	return lens, starts
}

// writeKept copies the earlier file system up to the tables: the blocks that stay where they
// are, and what is between them, so that nothing is written there by a flash of what differs.
// Then it writes the blocks that moved.
func (wr *writer) writeKept(ctx context.Context, l *layout) error {
	at := wr.out.pos
	for _, r := range l.kept {
		old := r.old()
		if *r.start != old.Start {
			continue
		}
		if err := wr.copyOld(at, old.Start); err != nil {
			return err
		}
		if err := wr.copyRun(ctx, r); err != nil {
			return err
		}
		at = max(at, old.End)
	}
	if err := wr.copyOld(at, l.tables); err != nil {
		return err
	}
	for _, r := range l.kept {
		if *r.start == r.old().Start {
			continue
		}
		if err := wr.copyRun(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

// copyRun copies blocks of the earlier file system, if they are those that were surveyed.
func (wr *writer) copyRun(ctx context.Context, r keptRun) error {
	for _, b := range r.blocks {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		stored, err := wr.opt.Like.bytes(b.start, int(b.len()))
		if err == nil && sha256.Sum256(stored) != b.stored {
			err = errors.New("squashfs: the earlier file system changed while it was read")
		}
		if err == nil {
			err = wr.out.writeAt(stored, *r.start+b.start-r.blocks[0].start)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// copyOld copies a range of the earlier file system. Behind its end it writes zeros.
func (wr *writer) copyOld(at, end int64) error {
	for at < end {
		b := make([]byte, min(end-at, maxBlock))
		if n := int64(wr.opt.Like.super.BytesUsed) - at; n > 0 {
			old, err := wr.opt.Like.bytes(at, int(min(n, int64(len(b)))))
			if err != nil {
				return err
			}
			copy(b, old)
		}
		if err := wr.out.writeAt(b, at); err != nil {
			return err
		}
		at += int64(len(b))
	}
	return nil
}

// writeNew writes the blocks that are not kept.
func (wr *writer) writeNew(ctx context.Context, l *layout) error {
	var last *fileData
	at := int64(0)
	return wr.packBlocks(ctx, wr.newBlocks(l), func(s *slot) error {
		switch {
		case s.file == nil:
			at = l.fragments[s.fragment].start
		case s.file != last:
			last, at = s.file, s.file.start
		}
		wr.note(s, at)
		err := wr.out.writeAt(s.stored, at)
		at += int64(len(s.stored))
		return err
	})
}
