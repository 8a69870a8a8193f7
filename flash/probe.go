package flash

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"

	"imgtool/image"
)

// probe checks that the disk has the size it reports: it writes a mark to its last block,
// which is wiped in any case, and reads it back there and at the offsets where a smaller
// disk that wraps around would store it. If the check fails, it restores the old content.
func (r *run) probe(ctx context.Context) error {
	last := r.job.Size/image.Block*image.Block - image.Block
	places := wrapOffsets(last)
	if len(places) == 0 {
		return nil
	}
	p := r.phases.Start(Probing, int64(2*len(places)+3)*image.Block)
	mark := make([]byte, image.Block)
	seed := sha256.Sum256(append([]byte("imgtool probe"), r.job.Record...))
	rand.NewChaCha8(seed).Read(mark)
	block := make([]byte, image.Block)
	read := func(off int64) error {
		_, err := r.dev.ReadAt(block, off)
		p.Add(image.Block)
		if err != nil && ctx.Err() == nil {
			return r.diskError(&ReadError{fmt.Errorf("reading at byte %d: %w", off, err)})
		}
		return err
	}
	if err := read(last); err != nil {
		return err
	}
	before := bytes.Clone(block)
	// A place that has the mark from an earlier run proves nothing.
	marked := map[int64]bool{}
	for _, off := range places {
		if err := read(off); err != nil {
			return err
		}
		marked[off] = bytes.Equal(block, mark)
	}
	r.save(last, before)
	if _, err := r.write(ctx, one(image.Chunk{Off: last, Data: mark}), p); err != nil {
		return err
	}
	for _, off := range places {
		if err := read(off); err != nil {
			return err
		}
		if !marked[off] && bytes.Equal(block, mark) {
			real := r.wrapsAt(off, last, mark)
			// The block at off is the same one, so this restores both.
			r.restore(last, before)
			return &FakeError{r.dev.Path(), r.job.Size, last, off, real}
		}
	}
	if err := read(last); err != nil || bytes.Equal(block, mark) {
		return err
	}
	found := bytes.Clone(block)
	r.restore(last, before)
	return r.lostWrite(ctx, last, before, mark, found)
}

// wrapOffsets returns the offsets at which a disk with a capacity below last may store the
// block at last, for up to some thousand likely capacities. It returns none for disks that
// are too small to be worth a probe.
func wrapOffsets(last int64) []int64 {
	unit := int64(32 << 20)
	if last < 2*unit {
		return nil
	}
	step := max(unit, (last/1024+unit-1)/unit*unit)
	at := map[int64]bool{}
	for size := step; size <= last; size += step {
		at[last%size] = true
	}
	for size := unit; size <= last; size *= 2 {
		at[last%size] = true
	}
	delete(at, last)
	return slices.Sorted(maps.Keys(at))
}

// restore writes old content back. Errors are ignored: it is called after a failure.
func (r *run) restore(off int64, old []byte) {
	if _, err := r.dev.WriteAt(old, off); err == nil {
		r.dev.Sync()
	}
}

// wrapsAt returns the capacity of a disk that stores the block at last at found: the
// smallest size at which the mark is found again.
func (r *run) wrapsAt(found, last int64, mark []byte) int64 {
	block := make([]byte, len(mark))
	for n := min(1024, (last-found)/image.Block); n > 1; n-- {
		size := (last - found) / n
		if (last-found)%n != 0 || size%image.Block != 0 || size <= found {
			continue
		}
		if _, err := r.dev.ReadAt(block, found+size); err == nil && bytes.Equal(block, mark) {
			return size
		}
	}
	return last - found
}

// lostWrite returns the error for a write of want at off after which found was read.
func (r *run) lostWrite(ctx context.Context, off int64, before, want, found []byte) error {
	kept, err := r.keepsWrites(ctx)
	switch {
	case err != nil:
		return err
	case !kept:
		return &NoWritesError{r.dev.Path(), off}
	case bytes.Equal(found, before) || image.IsZero(found) || bytes.Count(found, []byte{0xFF}) == len(found):
		return &FakeError{r.dev.Path(), r.job.Size, off, -1, 0}
	}
	err = image.Compare(ctx, bytes.NewReader(found), one(image.Chunk{Data: want}), nil)
	if wrong, ok := errors.AsType[*image.MismatchError](err); ok {
		wrong.Off += off
		return fmt.Errorf("%s: the disk returns other data than what was written: %w", r.dev.Path(), wrong)
	}
	return err
}

// keepsWrites writes to the first block, reads it back, and restores its content. It
// returns false if the old content was read back.
func (r *run) keepsWrites(ctx context.Context) (bool, error) {
	before, block := make([]byte, guard), make([]byte, guard)
	if _, err := r.dev.ReadAt(before, 0); err != nil {
		return false, r.readError(ctx, fmt.Errorf("reading at byte 0: %w", err))
	}
	// The mark differs from the old content in every byte, so it cannot be a partition table.
	mark := make([]byte, guard)
	for i := range mark {
		mark[i] = before[i] ^ byte(1+rand.N(255))
	}
	r.save(0, before)
	_, err := r.dev.WriteAt(mark, 0)
	if err == nil {
		defer r.restore(0, before)
		err = r.dev.Sync()
	}
	if err != nil {
		return false, r.diskError(&image.WriteError{Err: err})
	}
	if _, err := r.dev.ReadAt(block, 0); err != nil {
		return false, r.readError(ctx, fmt.Errorf("reading at byte 0: %w", err))
	}
	return !bytes.Equal(block, before), nil
}

// explain returns a [*NoWritesError] instead of a mismatch if the disk ignores writes.
func (r *run) explain(ctx context.Context, err error) error {
	wrong, ok := errors.AsType[*image.MismatchError](err)
	if !ok || ctx.Err() != nil {
		return err
	}
	if kept, failed := r.keepsWrites(ctx); failed == nil && !kept {
		return &NoWritesError{r.dev.Path(), wrong.Off}
	}
	return err
}
