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
	"imgtool/image/fault"
)

// FakeError is a disk that has less room than it says.
type FakeError struct {
	Disk    string
	Size    int64 // what it says it has, in bytes
	Written int64 // where something was written,
	Found   int64 // and where it turned up, or -1
	Real    int64 // where it begins again, if it turned up elsewhere
}

func (e *FakeError) Error() string {
	if e.Found < 0 {
		return fmt.Sprintf("%s: what is written at byte %d is lost, and what is written at byte 0 is kept: the disk has less room than the %d bytes it says, or is worn out; do not use it", e.Disk, e.Written, e.Size)
	}
	return fmt.Sprintf("%s: what is written at byte %d turns up at byte %d: the disk wraps around at %d bytes of the %d it says; do not use it",
		e.Disk, e.Written, e.Found, e.Real, e.Size)
}

func (e *FakeError) Kind() string { return fault.Mismatch }

// NoWritesError is a disk that reports success for writes and keeps its old content.
type NoWritesError struct {
	Disk string
	Off  int64 // where a write was lost first
}

func (e *NoWritesError) Error() string {
	at := "byte 0"
	if e.Off != 0 {
		at = fmt.Sprintf("bytes %d and 0", e.Off)
	}
	return fmt.Sprintf("%s: the disk takes no writes: it reports success, and what was at %s before is still there: it is worn out or write-protected; use another", e.Disk, at)
}

func (e *NoWritesError) Kind() string { return fault.Mismatch }

// probe writes a block at the end of the disk, which is wiped anyway, and looks whether
// it is there, and whether it turns up where a smaller disk would have it. If not, what
// was at the end before is put back.
func (r *run) probe(ctx context.Context) error {
	last := r.job.Size/image.Block*image.Block - image.Block
	unit := int64(32 << 20)
	if last < 2*unit {
		return nil
	}
	// The sizes a smaller disk may have, some thousand at most.
	step := max(unit, (last/1024+unit-1)/unit*unit)
	at := map[int64]bool{}
	for size := step; size <= last; size += step {
		at[last%size] = true
	}
	for size := unit; size <= last; size *= 2 {
		at[last%size] = true
	}
	delete(at, last)
	places := slices.Sorted(maps.Keys(at))
	p := r.phases.Start(Probing, int64(2*len(places)+3)*image.Block)
	mark := make([]byte, image.Block)
	seed := sha256.Sum256(append([]byte("imgtool probe"), r.job.Record...))
	rand.NewChaCha8(seed).Read(mark)
	block := make([]byte, image.Block)
	read := func(off int64) error {
		_, err := r.dev.ReadAt(block, off)
		p.Add(image.Block)
		if err != nil && ctx.Err() == nil {
			return r.broken(&ReadError{fmt.Errorf("reading at byte %d: %w", off, err)})
		}
		return err
	}
	if err := read(last); err != nil {
		return err
	}
	before := bytes.Clone(block)
	// A place that holds the mark already, from a run before, says nothing.
	held := map[int64]bool{}
	for _, off := range places {
		if err := read(off); err != nil {
			return err
		}
		held[off] = bytes.Equal(block, mark)
	}
	r.note(last, before)
	if _, _, err := r.write(ctx, one(image.Chunk{Off: last, Data: mark}), p); err != nil {
		return err
	}
	// Where the mark turned up, the old content is the same as at the end.
	putBack := func() {
		if _, err := r.dev.WriteAt(before, last); err == nil {
			r.dev.Sync()
		}
	}
	for _, off := range places {
		if err := read(off); err != nil {
			return err
		}
		if !held[off] && bytes.Equal(block, mark) {
			real := r.wrapsAt(off, last, mark)
			putBack()
			return &FakeError{r.dev.Path(), r.job.Size, last, off, real}
		}
	}
	if err := read(last); err != nil || bytes.Equal(block, mark) {
		return err
	}
	found := bytes.Clone(block)
	putBack()
	return r.lostWrite(ctx, last, before, mark, found)
}

// wrapsAt is the size of a disk on which what was written at last is found, which is the
// least at whose multiples it is found again.
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

// lostWrite says why found was read where want was written, and before was there.
func (r *run) lostWrite(ctx context.Context, off int64, before, want, found []byte) error {
	kept, err := r.keepsWrites(ctx)
	switch {
	case err != nil:
		return err
	case !kept:
		return &NoWritesError{r.dev.Path(), off}
	case bytes.Equal(found, before) || bytes.Count(found, []byte{0}) == len(found) || bytes.Count(found, []byte{0xFF}) == len(found):
		return &FakeError{r.dev.Path(), r.job.Size, off, -1, 0}
	}
	err = image.Compare(ctx, bytes.NewReader(found), one(image.Chunk{Data: want}), nil)
	if wrong, ok := errors.AsType[*image.MismatchError](err); ok {
		wrong.Off += off
		return fmt.Errorf("%s: the disk returns other data than what was written: %w", r.dev.Path(), wrong)
	}
	return err
}

// keepsWrites writes something to the first block, reads it back, and puts back what was
// there. It says no if the old content was read back.
func (r *run) keepsWrites(ctx context.Context) (bool, error) {
	before, block := make([]byte, guard), make([]byte, guard)
	if _, err := r.dev.ReadAt(before, 0); err != nil {
		return false, r.read(ctx, fmt.Errorf("reading at byte 0: %w", err))
	}
	// No partition table, and other than before in each byte.
	mark := make([]byte, guard)
	for i := range mark {
		mark[i] = before[i] ^ byte(1+rand.N(255))
	}
	r.note(0, before)
	if _, err := r.dev.WriteAt(mark, 0); err != nil {
		return false, r.broken(&image.WriteError{Err: err})
	}
	defer func() {
		if _, err := r.dev.WriteAt(before, 0); err == nil {
			r.dev.Sync()
		}
	}()
	if err := r.dev.Sync(); err != nil {
		return false, r.broken(&image.WriteError{Err: err})
	}
	if _, err := r.dev.ReadAt(block, 0); err != nil {
		return false, r.read(ctx, fmt.Errorf("reading at byte 0: %w", err))
	}
	return !bytes.Equal(block, before), nil
}

// explain names a disk that takes no writes at all, where something was read back wrong.
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
