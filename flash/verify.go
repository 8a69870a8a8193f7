package flash

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"slices"

	"imgtool/image"
)

// tries is how often a place that is read back wrong is written again.
const tries = 3

// errReadOnce is the error of again for content that can be read only once.
var errReadOnce = errors.New("it comes from a pipe and cannot be written again")

// verify reads part of what was written back, and repairs it. If a repair wrote anything,
// verify then reads all of it: on a disk that mistakes one place for another, repairing
// one place breaks another, and reports that it did. again returns the content of a span, or
// fails with errReadOnce.
func (r *run) verify(ctx context.Context, part, all *image.Manifest, again func(image.Span) ([]byte, error), p image.Progress) (readAll bool, err error) {
	written, err := r.pass(ctx, part, again, p)
	if err != nil {
		return false, err
	}
	if r.res.Verified += size(part); !written {
		return false, nil
	}
	_, err = r.pass(ctx, all, nil, r.phases.Start(Reading, size(all)))
	return err == nil, err
}

// pass reads entries back, repairs wrong places, and reports whether a repair
// wrote anything. Without again it repairs nothing.
func (r *run) pass(ctx context.Context, m *image.Manifest, again func(image.Span) ([]byte, error), p image.Progress) (written bool, err error) {
	for left := m.Entries; len(left) > 0; {
		wrong, err := r.check(ctx, left, p)
		if err != nil {
			return false, err
		}
		if wrong == nil {
			break
		}
		i := slices.IndexFunc(left, func(e image.Entry) bool { return e.Off == wrong.Off })
		repaired, err := r.repair(ctx, left[i], wrong, again)
		if err != nil {
			return false, err
		}
		written = written || repaired
		left = left[i+1:]
	}
	return written, nil
}

// check reads entries up to the first that is wrong.
func (r *run) check(ctx context.Context, entries []image.Entry, p image.Progress) (*image.MismatchError, error) {
	err := image.Verify(ctx, r.dev, &image.Manifest{Entries: entries}, p)
	wrong, ok := errors.AsType[*image.MismatchError](err)
	if !ok && err != nil {
		return nil, r.readError(ctx, err)
	}
	return wrong, nil
}

// repair reads an entry that was read wrong again, writes it again if it is still wrong
// and again is not nil, and reports whether it did.
func (r *run) repair(ctx context.Context, e image.Entry, first *image.MismatchError, again func(image.Span) ([]byte, error)) (written bool, err error) {
	s := image.Span{Off: e.Off, Len: e.Len}
	check := func() (*image.MismatchError, error) { return r.check(ctx, []image.Entry{e}, nil) }
	final := func(how string) error { return &differsError{r.dev.Path(), first, how} }
	second, err := check()
	switch {
	case err != nil:
		return false, err
	case second == nil:
		r.res.Repaired = append(r.res.Repaired, Repair{s, "it was read wrong once, and correctly the next time"})
		return false, nil
	case again == nil:
		return false, final("it was correct before other places were written again: the disk has less room than it reports, or mistakes one place for another; do not use it")
	}
	agreed := "two reads agree"
	if first.Got != second.Got {
		agreed = "two reads differ"
	}
	data, err := again(s)
	if err == errReadOnce {
		return false, final(agreed + "; " + err.Error())
	}
	if err != nil {
		return false, err
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != e.SHA256 {
		return false, final(agreed + "; the image has changed since, so it cannot be written again")
	}
	for try := range tries {
		if _, err := r.write(ctx, one(image.Chunk{Off: s.Off, Data: data}), nil); err != nil {
			return false, err
		}
		if first, err = check(); err != nil {
			return false, err
		}
		if first == nil {
			r.res.Repaired = append(r.res.Repaired, Repair{s, fmt.Sprintf("it was wrong (%s), and is correct after writing it %s more", agreed, times(try+1))})
			return true, nil
		}
	}
	exact := image.Compare(ctx, r.dev, one(image.Chunk{Off: s.Off, Data: data}), nil)
	if wrong, ok := errors.AsType[*image.MismatchError](exact); ok {
		first = wrong
	}
	return false, final(fmt.Sprintf("%s, and writing it %s more did not help", agreed, times(tries)))
}

func times(n int) string { return [...]string{"", "once", "twice", "three times"}[n] }

// differsError says where a disk differs. Its text follows the *image.MismatchError, to which the
// file may be added later.
type differsError struct {
	disk  string
	wrong *image.MismatchError
	how   string // what another read gave
}

func (e *differsError) Error() string { return fmt.Sprintf("%s: %v (%s)", e.disk, e.wrong, e.how) }
func (e *differsError) Unwrap() error { return e.wrong }

// Compare compares chunks with the content of a disk. A difference is an
// *image.MismatchError; other errors are as from [Run].
func Compare(ctx context.Context, dev Device, chunks iter.Seq2[image.Chunk, error], timeout Timeout, p image.Progress) error {
	r := &run{dev: newTimeoutDevice(ctx, dev, timeout)}
	for c, err := range chunks {
		if err != nil {
			return err
		}
		err = image.Compare(ctx, r.dev, one(c), p)
		if wrong, ok := errors.AsType[*image.MismatchError](err); ok {
			return &differsError{dev.Path(), wrong, again(ctx, r.dev, c, wrong)}
		}
		if err != nil {
			return r.readError(ctx, err)
		}
	}
	return nil
}

// again compares a chunk that differs once more, and returns what that says about the disk.
func again(ctx context.Context, dev Device, c image.Chunk, first *image.MismatchError) string {
	err := image.Compare(ctx, dev, one(c), nil)
	second, wrong := errors.AsType[*image.MismatchError](err)
	switch {
	case wrong && *second == *first:
		return "read again: the same"
	case wrong:
		return "read again: other data; the disk or its cable is unreliable"
	case err != nil:
		return "read again: " + err.Error()
	}
	return "read again: as expected; the disk or its cable is unreliable"
}

// readError returns the error of a failed read: the cause of ctx if that ended, else a
// [*ReadError] or why the disk is gone.
func (r *run) readError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return r.diskError(&ReadError{err})
}
