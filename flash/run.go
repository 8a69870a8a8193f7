package flash

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"imgtool/flash/disk"
	"imgtool/image"
)

// Run writes a job to a disk and reads it back.
//
// From the first write until the last one the disk has no partition table: nothing boots
// from a disk on which a Run failed, and its record tells which image was being written.
// Run writes the content before the first partition last, from its end to its start, and
// removes it if an error follows.
//
// Run reads a place that was read back wrong again, and writes it up to three more times if
// the job has the content. It does not retry writes and flushes that failed.
//
// The error is a [*FailedError]. It wraps an *image.WriteError, *image.MismatchError,
// [*ReadError], [*FakeError], [*NoWritesError], [*StallError], [*disk.GoneError] or
// [*disk.MovedError], an error of Body or Head, or the cause of ctx.
func Run(ctx context.Context, dev Device, job Job, phases image.Phases) (*Result, error) {
	r := &run{dev: newTimeoutDevice(ctx, dev, job.Timeout), job: &job, phases: phases, res: &Result{}, before: map[int64][]byte{}}
	if err := ctx.Err(); err != nil {
		return nil, &FailedError{context.Cause(ctx), Unchanged}
	}
	if job.Watch != nil {
		job.Watch.run.Store(r)
	}
	res, err := r.all(ctx)
	if err != nil {
		err = r.explain(ctx, err)
		return nil, &FailedError{err, r.state(ctx.Err() != nil)}
	}
	return res, nil
}

type run struct {
	dev    timeoutDevice
	job    *Job
	phases image.Phases
	res    *Result

	mu        sync.Mutex
	before    map[int64][]byte // old content of the first places written, by offset
	spread    atomic.Bool      // other places were written as well
	finishing atomic.Bool      // writes continue after a cancellation
}

func (r *run) all(ctx context.Context) (*Result, error) {
	r.saveGuard()
	if r.job.Size > 0 && !r.job.Delta {
		if err := r.probe(ctx); err != nil {
			return nil, err
		}
	}
	record := image.Span{Off: r.job.RecordOff, Len: int64(len(padded(r.job.Record)))}
	first := image.Span{Off: 0, Len: guard}
	wipes := append([]image.Span{first}, image.Subtract(r.job.Wipe, append(r.present(), first, record))...)
	wiped, err := r.wipe(ctx, wipes)
	if err != nil {
		return nil, err
	}
	body, seen, err := r.partitions(ctx, wiped)
	if err != nil {
		return nil, err
	}
	var head []image.Chunk
	if r.job.Head != nil {
		if head, err = r.job.Head(); err != nil {
			return nil, err
		}
	}
	if err := checkOverlap(head, seen); err != nil {
		return nil, err
	}
	for _, s := range image.Subtract([]image.Span{record}, spansOf(head)) {
		head = append(head, image.Chunk{Off: s.Off, Data: make([]byte, s.Len)})
	}
	tables, rest := splitHead(head)
	written, err := r.finish(ctx, tables, withoutWiped(rest, wipes))
	if err != nil {
		return nil, err
	}
	r.res.Manifest.Entries = merge(written, body).Entries
	for _, e := range r.res.Manifest.Entries {
		r.res.Manifest.Size = max(r.res.Manifest.Size, e.Off+e.Len)
	}
	return r.res, nil
}

// present returns which whole blocks of the loader the disk has already, with Delta.
func (r *run) present() (spans []image.Span) {
	if !r.job.Delta {
		return nil
	}
	for _, c := range r.job.Loader {
		old := make([]byte, len(c.Data))
		if n, _ := r.dev.ReadAt(old, c.Off); n < len(old) {
			continue
		}
		for at := 0; at+image.Block <= len(old); at += image.Block {
			if bytes.Equal(c.Data[at:at+image.Block], old[at:at+image.Block]) {
				spans = append(spans, image.Span{Off: c.Off + int64(at), Len: image.Block})
			}
		}
	}
	return spans
}

// wipe fills wipes with zeros, the first of them first, and writes the record.
func (r *run) wipe(ctx context.Context, wipes []image.Span) (*image.Manifest, error) {
	record := padded(r.job.Record)
	p := r.phases.Start(Wiping, totalLen(wipes)+int64(len(record)))
	// Fail early if writes have no effect: no other place is changed then.
	first, err := r.settle(ctx, zeros(wipes[:1]), p, nil)
	if err != nil {
		return nil, err
	}
	r.spread.Store(true)
	wiped, err := r.write(ctx, zeros(wipes[1:]), p)
	if err != nil {
		return nil, err
	}
	if len(record) > 0 {
		if _, err := r.settle(ctx, one(image.Chunk{Off: r.job.RecordOff, Data: record}), p, nil); err != nil {
			return nil, err
		}
	}
	return merge(first, wiped), nil
}

// partitions writes the body and reads it back, and returns the spans of its chunks. The
// wiped places are read back with it: on a disk that wraps around, the body may have
// overwritten them.
func (r *run) partitions(ctx context.Context, wiped *image.Manifest) (body *image.Manifest, seen []image.Span, err error) {
	job := r.job
	begin := time.Now()
	var skipped skipped
	p := locked(r.phases.Start(Writing, job.BodySize))
	content := checked(job.Body, max(guard, job.RecordOff+int64(len(padded(job.Record)))), &seen)
	if job.Delta && job.Same != nil {
		content = r.withoutSame(content, spansIn(wiped), p)
	}
	if job.Zeros && !job.Delta {
		content = r.withoutZeros(content, &skipped, p)
	}
	if body, err = r.write(ctx, content, p); err != nil {
		return nil, nil, err
	}
	r.res.Writing, begin = time.Since(begin), time.Now()
	blank := merge(zeroEntries(image.Subtract(spansIn(wiped), seen)), sample(zeroEntries(skipped.found), job.Verify))
	part := sample(body, job.Verify)
	r.res.Unread = size(body) - size(part)
	part = merge(blank, part)
	p = r.phases.Start(Reading, totalLen(skipped.later)+size(part))
	late, err := r.blank(ctx, skipped.later, p)
	if err != nil {
		return nil, nil, err
	}
	isBlank := map[int64]bool{}
	for _, e := range slices.Concat(blank.Entries, late.Entries) {
		isBlank[e.Off] = true
	}
	part = merge(part, late)
	again := func(s image.Span) ([]byte, error) {
		switch {
		case isBlank[s.Off]:
			return make([]byte, s.Len), nil
		case job.Again == nil:
			return nil, errReadOnce
		}
		return job.Again(s)
	}
	body = merge(body, late)
	all := merge(merge(blank, body), zeroEntries(image.Subtract(skipped.later, spansIn(late))))
	readAll, err := r.verify(ctx, part, all, again, p)
	if err != nil {
		return nil, nil, err
	}
	if readAll {
		r.res.Verified += r.res.Unread
		r.res.Unread = 0
	}
	r.res.Reading = time.Since(begin)
	return body, seen, nil
}

// finish writes the head: rest first, then tables. The backup table in rest does not make
// the disk bootable: firmware does not look for it without the protective MBR.
func (r *run) finish(ctx context.Context, tables, rest []image.Chunk) (*image.Manifest, error) {
	r.finishing.Store(true)
	p := r.phases.Start(Finishing, 2*(totalLen(spansOf(tables))+totalLen(spansOf(rest))))
	m, err := r.settle(ctx, each(rest), p, p)
	if err != nil {
		r.undo(ctx, rest)
		return nil, err
	}
	// From here on cancellation has no effect: the tables are written or removed again.
	if err := ctx.Err(); err != nil {
		r.undo(ctx, rest)
		return nil, context.Cause(ctx)
	}
	ctx = context.WithoutCancel(ctx)
	r.dev.ctx = ctx
	last, err := r.settle(ctx, each(tables), p, p)
	if err != nil {
		r.undo(ctx, rest)
		return nil, err
	}
	return merge(m, last), nil
}

// undoTime is how long undo waits for operations in flight.
const undoTime = 10 * time.Second

// undo fills the guard and the places of rest with zeros.
func (r *run) undo(ctx context.Context, rest []image.Chunk) {
	// A write in flight could reach the disk after the zeros.
	if r.dev.ctx = context.WithoutCancel(ctx); !r.dev.drain(undoTime) {
		return
	}
	for c := range zeros(append([]image.Span{{Off: 0, Len: guard}}, spansOf(rest)...)) {
		if _, err := r.dev.WriteAt(c.Data, c.Off); err != nil {
			return
		}
	}
	r.dev.Sync()
}

// settle writes chunks that can be iterated again, flushes, and reads them back. It
// returns the entries it wrote. written and verified, which may be nil, receive progress.
func (r *run) settle(ctx context.Context, chunks iter.Seq2[image.Chunk, error], written, verified image.Progress) (*image.Manifest, error) {
	m, err := r.write(ctx, chunks, written)
	if err != nil {
		return nil, err
	}
	if verified != nil {
		// A delta skips content that is equal, and does not read it again.
		skipped := -size(m)
		for c := range chunks {
			skipped += int64(len(c.Data))
		}
		verified.Add(skipped)
	}
	again := func(s image.Span) ([]byte, error) {
		for c := range chunks {
			if c.Off <= s.Off && s.End() <= c.Off+int64(len(c.Data)) {
				return c.Data[s.Off-c.Off:][:s.Len], nil
			}
		}
		panic("flash: internal error: a chunk that was written is missing")
	}
	_, err = r.verify(ctx, m, m, again, verified)
	return m, err
}

// write writes the chunks and flushes. It returns the entries it wrote.
func (r *run) write(ctx context.Context, chunks iter.Seq2[image.Chunk, error], p image.Progress) (*image.Manifest, error) {
	if r.job.Delta {
		p = locked(p)
		chunks = r.differing(chunks, p)
	}
	m, err := image.Write(ctx, r.dev, chunks, p)
	if err == nil {
		if err = r.dev.Sync(); err != nil && ctx.Err() == nil {
			err = &image.WriteError{Off: m.Size, Err: fmt.Errorf("flushing earlier writes: %w", err)}
		}
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if _, ok := errors.AsType[*image.WriteError](err); ok {
			err = r.diskError(err)
		}
		return nil, err
	}
	r.res.Written += size(m)
	return m, nil
}

// withoutSame leaves out the chunks that are known to be on the disk, unless they were wiped.
func (r *run) withoutSame(chunks iter.Seq2[image.Chunk, error], wiped []image.Span, p image.Progress) iter.Seq2[image.Chunk, error] {
	return func(yield func(image.Chunk, error) bool) {
		for c, err := range chunks {
			at := image.Span{Off: c.Off, Len: int64(len(c.Data))}
			if err == nil && r.job.Same(at) && totalLen(image.Subtract([]image.Span{at}, wiped)) == at.Len {
				r.res.Skipped += at.Len
				r.res.Verified += at.Len
				p.Add(at.Len)
				continue
			}
			if !yield(c, err) {
				return
			}
		}
	}
}

// differing returns the parts of the chunks that differ from the disk. A chunk that cannot
// be read from the disk is returned whole.
func (r *run) differing(chunks iter.Seq2[image.Chunk, error], p image.Progress) iter.Seq2[image.Chunk, error] {
	var buf []byte
	return func(yield func(image.Chunk, error) bool) {
		for c, err := range chunks {
			if err != nil {
				yield(c, err)
				return
			}
			if len(buf) < len(c.Data) {
				buf = make([]byte, len(c.Data))
			}
			old := buf[:len(c.Data)]
			if n, _ := r.dev.ReadAt(old, c.Off); n < len(old) {
				if !yield(c, nil) {
					return
				}
				continue
			}
			same := int64(len(c.Data))
			for start, end := range differences(c.Data, old) {
				same -= int64(end - start)
				if !yield(part(c, start, end), nil) {
					return
				}
			}
			r.res.Skipped += same
			r.res.Verified += same
			p.Add(same)
		}
	}
}

// diskError returns err, or a [*disk.GoneError] or [*disk.MovedError] if it happened
// because the disk or file is gone. A disk that was unplugged may fail with any error,
// such as ENOSPC.
func (r *run) diskError(err error) error {
	if gone, ok := errors.AsType[*disk.GoneError](err); ok {
		return gone
	}
	if stalled, ok := errors.AsType[*StallError](err); ok {
		return stalled
	}
	lost := disk.Lost(r.dev.Path(), r.dev.Alive())
	if moved, ok := lost.(*disk.MovedError); ok {
		return moved
	}
	if lost != nil || disk.Lost(r.dev.Path(), err) != nil {
		return &disk.GoneError{Disk: r.dev.Path(), Err: err}
	}
	return fmt.Errorf("%s: %w", r.dev.Path(), err)
}
