// Package flash writes an image to a disk so that an interrupted flash never looks
// complete, and reads it back.
//
// It knows no board, no format and no partition table: what is written comes
// in as chunks. It asks nothing and prints nothing.
package flash

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"imgtool/flash/disk"
	"imgtool/image"
	"imgtool/image/fault"
)

// ReadError is a disk that could not be read back; Err names the offset.
type ReadError struct{ Err error }

func (e *ReadError) Error() string { return e.Err.Error() }
func (e *ReadError) Unwrap() error { return e.Err }
func (e *ReadError) Kind() string  { return fault.Mismatch }

// Device is what Run writes: a *disk.Target.
type Device interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
	Path() string
	Alive() error // nil while the disk is there and has its size
}

// Job is what goes onto a disk. Offsets and lengths are whole sectors.
type Job struct {
	// Wipe is zeroed first, besides the first 4096 bytes: old tables at both
	// ends, old signatures.
	Wipe []image.Span

	// Record says what is being written; it lies before the first partition.
	// It is filled up with zeros to whole blocks, and is gone after a flash,
	// zeroed where Head holds nothing.
	Record    []byte
	RecordOff int64

	// Body is the content of the partitions, in order, after the record.
	Body     iter.Seq2[image.Chunk, error]
	BodySize int64 // for progress, 0 if not known

	// Again reads what Body held somewhere, so that a bad place can be written
	// once more and named to the byte. nil if that cannot be.
	Again func(image.Span) ([]byte, error)

	// Head returns what makes the disk bootable: what lies before the first
	// partition, and the backup table. It is called when the body is read back
	// and may be nil. It does not overlap the body.
	Head func() ([]image.Chunk, error)

	// Verify is how much of the body is read back; all else always is.
	Verify Verify

	// Delta reads before it writes, and writes only what differs. What is found
	// right is not read once more.
	Delta bool

	// Zeros reads where Body has long runs of zeros before it writes them, and writes
	// them only where the disk has something else. They are read back with all else.
	Zeros bool

	// Size is what the disk says it has, in bytes, to find out in time if it has
	// not. 0 does not look, nor does a Delta.
	Size int64

	Patience

	// Watch, which may be nil, tells what is on the disk while Run does not end.
	Watch *Watch
}

// Verify is how much of what was written is read back.
type Verify int

const (
	Full    Verify = iota
	Sampled        // the first, the last, and of those between one in sampleOf, by chance
	None
)

const sampleOf = 16

// Result is what a Run did, in bytes.
type Result struct {
	Written  int64         // wipes included
	Skipped  int64         // found on the disk as they should be: with Delta or Zeros
	Verified int64         // read from the disk and right
	Unread   int64         // written and not read back, unless Full
	Writing  time.Duration // the body's, its flush included
	Reading  time.Duration // the body's reading back
	Repaired []Repair
	Manifest image.Manifest // what of Body and Head was written, in order
}

// Repair is a place that was wrong when it was first read back, and is right
// now.
type Repair struct {
	image.Span
	How string // in words
}

// Phases of a Run.
const (
	Probing   = "probing"
	Wiping    = "wiping"
	Writing   = "writing"
	Reading   = "reading back"
	Finishing = "finishing"
)

// guard is what holds the tables a firmware looks for: zeroed before all else,
// written after all else, in one piece.
const guard = image.Block

// Run writes a job and reads it back.
//
// From the first byte to the last but 4096 the disk has no table: whatever
// ends a flash early leaves a disk that nothing boots, and whose record says
// what was going on. What lies before the first partition, boot loaders among
// it, is written last, from its end to its start, and taken away again if the
// disk lasts long enough for that.
//
// What is read back wrong is read again, and where it can be had again written
// again, up to three times.
//
// Errors are *image.WriteError, *image.MismatchError, *ReadError, *FakeError,
// *NoWritesError, *StallError, *disk.GoneError and *disk.MovedError, errors of Body and Head as
// they are, and the cause of ctx, each in a *FailedError. A write or a flush that
// fails is not tried again.
func Run(ctx context.Context, dev Device, job Job, phases image.Phases) (*Result, error) {
	r := &run{dev: newPatient(ctx, dev, job.Patience), job: &job, phases: phases, res: &Result{}, before: map[int64][]byte{}}
	if err := ctx.Err(); err != nil {
		return nil, &FailedError{context.Cause(ctx), Unchanged}
	}
	if job.Watch != nil {
		job.Watch.run.Store(r)
	}
	res, err := r.all(ctx)
	if err != nil {
		err = r.explain(ctx, err)
		return nil, &FailedError{err, r.left(ctx.Err() != nil)}
	}
	return res, nil
}

func (r *run) all(ctx context.Context) (*Result, error) {
	r.noteGuard()
	if r.job.Size > 0 && !r.job.Delta {
		if err := r.probe(ctx); err != nil {
			return nil, err
		}
	}
	record := image.Span{Off: r.job.RecordOff, Len: int64(len(blocks(r.job.Record)))}
	first := image.Span{Off: 0, Len: guard}
	wipes := append([]image.Span{first}, image.Subtract(r.job.Wipe, []image.Span{first, record})...)
	wiped, err := r.wipe(ctx, wipes)
	if err != nil {
		return nil, err
	}
	body, seen, err := r.partitions(ctx, wiped)
	if err != nil {
		return nil, err
	}
	head, err := r.job.head()
	if err != nil {
		return nil, err
	}
	if err := apart(head, seen); err != nil {
		return nil, err
	}
	for _, s := range image.Subtract([]image.Span{record}, spans(head)) {
		head = append(head, image.Chunk{Off: s.Off, Data: make([]byte, s.Len)})
	}
	tables, rest := split(head)
	written, err := r.finish(ctx, tables, unwiped(rest, wipes))
	if err != nil {
		return nil, err
	}
	written = append(written, body.Entries...)
	slices.SortFunc(written, func(a, b image.Entry) int { return cmp.Compare(a.Off, b.Off) })
	r.res.Manifest.Entries = written
	for _, e := range written {
		r.res.Manifest.Size = max(r.res.Manifest.Size, e.Off+e.Len)
	}
	return r.res, nil
}

// wipe takes the old tables away, those that a firmware looks for first, and writes the
// record.
func (r *run) wipe(ctx context.Context, wipes []image.Span) (*image.Manifest, error) {
	record := blocks(r.job.Record)
	p := r.phases.Start(Wiping, length(wipes)+int64(len(record)))
	// A disk that takes no writes is found before any other place is written, and is
	// unchanged then.
	first, err := r.settle(ctx, zeros(wipes[:1]), p, nil)
	if err != nil {
		return nil, err
	}
	r.setSpread()
	wiped, _, err := r.write(ctx, zeros(wipes[1:]), p)
	if err != nil {
		return nil, err
	}
	if len(record) > 0 {
		if _, err := r.settle(ctx, one(image.Chunk{Off: r.job.RecordOff, Data: record}), p, nil); err != nil {
			return nil, err
		}
	}
	return join(first, wiped), nil
}

// partitions writes the body and reads it back. What was wiped is read back with it: it
// may have been overwritten since, on a disk with less room than it says. seen is where
// the body was.
func (r *run) partitions(ctx context.Context, wiped *image.Manifest) (body *image.Manifest, seen []image.Span, err error) {
	job := r.job
	begin := time.Now()
	var found []image.Span
	p := locked(r.phases.Start(Writing, job.BodySize))
	content := watched(after(job.Body, max(guard, job.RecordOff+int64(len(blocks(job.Record))))), &seen)
	if job.Zeros && !job.Delta {
		content = r.withoutZeros(content, &found, p)
	}
	if body, _, err = r.write(ctx, content, p); err != nil {
		return nil, nil, err
	}
	r.res.Writing, begin = time.Since(begin), time.Now()
	part := sample(body, job.Verify)
	r.res.Unread = size(body) - size(part)
	blank, isBlank := blanks(image.Subtract(places(wiped), seen)), map[int64]bool{}
	blank = join(blank, sample(blanks(found), job.Verify))
	for _, e := range blank.Entries {
		isBlank[e.Off] = true
	}
	again := func(s image.Span) ([]byte, error) {
		switch {
		case isBlank[s.Off]:
			return make([]byte, s.Len), nil
		case job.Again == nil:
			return nil, errPiped
		}
		return job.Again(s)
	}
	all, part := join(blank, body), join(blank, part)
	if err := r.prove(ctx, part, all, again, r.phases.Start(Reading, size(part))); err != nil {
		return nil, nil, err
	}
	r.res.Reading = time.Since(begin)
	return body, seen, nil
}

// finish writes everything else, the tables last. The backup table alone is none: no
// firmware looks for it without the protective MBR.
func (r *run) finish(ctx context.Context, tables, rest []image.Chunk) ([]image.Entry, error) {
	r.mu.Lock()
	r.finishing = true
	r.mu.Unlock()
	p := r.phases.Start(Finishing, 2*(length(spans(tables))+length(spans(rest))))
	undo := func() {
		// A write that has not ended must not reach the disk after this.
		if r.dev.ctx = context.WithoutCancel(ctx); !r.dev.drain(undoTime) {
			return
		}
		for c := range zeros(append([]image.Span{{Off: 0, Len: guard}}, spans(rest)...)) {
			if _, err := r.dev.WriteAt(c.Data, c.Off); err != nil {
				return
			}
		}
		r.dev.Sync()
	}
	m, err := r.settle(ctx, each(rest), p, p)
	if err != nil {
		undo()
		return nil, err
	}
	// From here on it is done or undone, not interrupted.
	if err := ctx.Err(); err != nil {
		undo()
		return nil, context.Cause(ctx)
	}
	ctx = context.WithoutCancel(ctx)
	r.dev.ctx = ctx
	last, err := r.settle(ctx, each(tables), p, p)
	if err != nil {
		undo()
		return nil, err
	}
	return append(m.Entries, last.Entries...), nil
}

type run struct {
	dev    patient
	job    *Job
	phases image.Phases
	res    *Result

	mu        sync.Mutex
	before    map[int64][]byte // what was at places that were written, as long as these are few
	spread    bool             // other places were written too
	finishing bool             // writes go on after an interrupt
}

// undoTime is how long an operation that has not ended is waited for before what makes
// the disk bootable is taken away again.
const undoTime = 10 * time.Second

// settle writes chunks that can be had again, flushes, and reads them back. It
// returns what it wrote; told and proved hear of the bytes.
func (r *run) settle(ctx context.Context, chunks iter.Seq2[image.Chunk, error], told, proved image.Progress) (*image.Manifest, error) {
	m, _, err := r.write(ctx, chunks, told)
	if err != nil {
		return nil, err
	}
	skipped := int64(0)
	if proved != nil {
		for c := range chunks {
			skipped += int64(len(c.Data))
		}
		for _, e := range m.Entries {
			skipped -= e.Len
		}
		proved.Add(skipped)
	}
	return m, r.prove(ctx, m, m, fromChunks(chunks), proved)
}

// fromChunks has again what was written of chunks that can be had again.
func fromChunks(chunks iter.Seq2[image.Chunk, error]) func(image.Span) ([]byte, error) {
	return func(s image.Span) ([]byte, error) {
		for c := range chunks {
			if c.Off <= s.Off && s.End() <= c.Off+int64(len(c.Data)) {
				return c.Data[s.Off-c.Off:][:s.Len], nil
			}
		}
		panic("flash: internal error: a chunk that was written is not there")
	}
}

// write writes the chunks and flushes. It returns what it wrote, and where the
// chunks were.
func (r *run) write(ctx context.Context, chunks iter.Seq2[image.Chunk, error], p image.Progress) (*image.Manifest, []image.Span, error) {
	var seen []image.Span
	chunks = watched(chunks, &seen)
	if r.job.Delta {
		p = locked(p)
		chunks = r.differing(chunks, p)
	}
	m, err := image.Write(ctx, r.dev, chunks, p)
	if err == nil {
		if err = r.dev.Sync(); err != nil && ctx.Err() == nil {
			err = &image.WriteError{Off: m.Size, Err: fmt.Errorf("flushing what came before: %w", err)}
		}
	}
	if ctx.Err() != nil && err != nil {
		return nil, nil, context.Cause(ctx)
	}
	if _, ok := errors.AsType[*image.WriteError](err); ok {
		return nil, nil, r.broken(err)
	}
	if err != nil {
		return nil, nil, err
	}
	r.res.Written += size(m)
	return m, seen, nil
}

func size(m *image.Manifest) (n int64) {
	for _, e := range m.Entries {
		n += e.Len
	}
	return n
}

func places(m *image.Manifest) (spans []image.Span) {
	for _, e := range m.Entries {
		spans = append(spans, image.Span{Off: e.Off, Len: e.Len})
	}
	return spans
}

// blanks are entries of zeros.
func blanks(spans []image.Span) *image.Manifest {
	m := &image.Manifest{}
	for c := range zeros(spans) {
		sum := sha256.Sum256(c.Data)
		m.Entries = append(m.Entries, image.Entry{Off: c.Off, Len: int64(len(c.Data)), SHA256: hex.EncodeToString(sum[:])})
	}
	return m
}

// join is the entries of both, in order.
func join(a, b *image.Manifest) *image.Manifest {
	entries := slices.Concat(a.Entries, b.Entries)
	slices.SortFunc(entries, func(a, b image.Entry) int { return cmp.Compare(a.Off, b.Off) })
	return &image.Manifest{Entries: entries}
}

// sample is what is read back of what was written.
func sample(m *image.Manifest, v Verify) *image.Manifest {
	if v == Full {
		return m
	}
	s := &image.Manifest{Size: m.Size}
	for i, e := range m.Entries {
		if v == Sampled && (i == 0 || i == len(m.Entries)-1 || rand.N(sampleOf) == 0) {
			s.Entries = append(s.Entries, e)
		}
	}
	return s
}

// watched notes where the chunks are.
func watched(chunks iter.Seq2[image.Chunk, error], seen *[]image.Span) iter.Seq2[image.Chunk, error] {
	return func(yield func(image.Chunk, error) bool) {
		for c, err := range chunks {
			if err == nil {
				*seen = append(*seen, image.Span{Off: c.Off, Len: int64(len(c.Data))})
			}
			if !yield(c, err) {
				return
			}
		}
	}
}

// near is how close two places may lie that are written as one: small scattered
// writes are slower than a few more bytes.
const near = 256 << 10

// differing gives what of the chunks is not on the disk. What cannot be read is
// written.
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
			there := buf[:len(c.Data)]
			if n, _ := r.dev.ReadAt(there, c.Off); n < len(there) {
				if !yield(c, nil) {
					return
				}
				continue
			}
			same := int64(len(c.Data))
			for start, end := range runs(c.Data, there) {
				same -= int64(end - start)
				if !yield(image.Chunk{Off: c.Off + int64(start), Data: c.Data[start:end:end]}, nil) {
					return
				}
			}
			r.res.Skipped += same
			r.res.Verified += same
			p.Add(same)
		}
	}
}

// locked may be told of bytes by several goroutines.
func locked(p image.Progress) image.Progress {
	var one sync.Mutex
	return func(n int64) {
		one.Lock()
		defer one.Unlock()
		p.Add(n)
	}
}

// runs are the blocks in which two pieces of data differ, those near each other
// together.
func runs(want, got []byte) iter.Seq2[int, int] {
	return func(yield func(int, int) bool) {
		start, end := -1, 0
		for at := 0; at < len(want); at += image.Block {
			to := min(at+image.Block, len(want))
			if bytes.Equal(want[at:to], got[at:to]) {
				continue
			}
			if start >= 0 && at-end >= near {
				if !yield(start, end) {
					return
				}
				start = -1
			}
			if start < 0 {
				start = at
			}
			end = to
		}
		if start >= 0 {
			yield(start, end)
		}
	}
}

// tries is how often a place is written again that is read back wrong.
const tries = 3

// prove reads back part of what was written. Where something had to be written
// again, it then reads all: on a disk that puts things where others are, mending
// one place breaks another. again has the content, or fails with errPiped.
func (r *run) prove(ctx context.Context, part, all *image.Manifest, again func(image.Span) ([]byte, error), p image.Progress) error {
	written, err := r.pass(ctx, part, again, p)
	if err != nil {
		return err
	}
	r.res.Verified += size(part)
	if !written {
		return nil
	}
	if _, err := r.pass(ctx, all, nil, r.phases.Start(Reading, size(all))); err != nil {
		return err
	}
	r.res.Verified += size(all) - size(part)
	r.res.Unread -= size(all) - size(part)
	return nil
}

// pass reads back what was written, mends what is wrong, and says whether
// anything was written. Without again nothing is mended.
func (r *run) pass(ctx context.Context, m *image.Manifest, again func(image.Span) ([]byte, error), p image.Progress) (written bool, err error) {
	for left := m.Entries; len(left) > 0; {
		wrong, err := r.look(ctx, left, p)
		if err != nil {
			return false, err
		}
		if wrong == nil {
			break
		}
		i := slices.IndexFunc(left, func(e image.Entry) bool { return e.Off == wrong.Off })
		mended, err := r.mend(ctx, left[i], wrong, again)
		if err != nil {
			return false, err
		}
		written = written || mended
		left = left[i+1:]
	}
	return written, nil
}

// look reads entries up to the first that is not what was written.
func (r *run) look(ctx context.Context, entries []image.Entry, p image.Progress) (*image.MismatchError, error) {
	err := image.Verify(ctx, r.dev, &image.Manifest{Entries: entries}, p)
	wrong, ok := errors.AsType[*image.MismatchError](err)
	if !ok && err != nil {
		return nil, r.read(ctx, err)
	}
	return wrong, nil
}

// errPiped is content that cannot be had again.
var errPiped = errors.New("it comes from a pipe and cannot be written again")

// mend reads what was read wrong again, and where it can be had again writes it
// again; then it says so.
func (r *run) mend(ctx context.Context, e image.Entry, first *image.MismatchError, again func(image.Span) ([]byte, error)) (written bool, err error) {
	s := image.Span{Off: e.Off, Len: e.Len}
	look := func() (*image.MismatchError, error) { return r.look(ctx, []image.Entry{e}, nil) }
	final := func(how string) error { return fmt.Errorf("%s: %w (%s)", r.dev.Path(), first, how) }
	second, err := look()
	switch {
	case err != nil:
		return false, err
	case second == nil:
		r.res.Repaired = append(r.res.Repaired, Repair{s, "it was read wrong once, and right the next time"})
		return false, nil
	case again == nil:
		return false, final("it was right before other places were written again: the disk has less room than it says, or mistakes one place for another; do not use it")
	}
	agreed := "two reads agree"
	if first.Got != second.Got {
		agreed = "two reads differ"
	}
	data, err := again(s)
	if err == errPiped {
		return false, final(agreed + "; " + err.Error())
	}
	if err != nil {
		return false, err
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != e.SHA256 {
		return false, final(agreed + "; the image changed and it cannot be written again")
	}
	for try := range tries {
		if _, _, err := r.write(ctx, one(image.Chunk{Off: s.Off, Data: data}), nil); err != nil {
			return false, err
		}
		if first, err = look(); err != nil {
			return false, err
		}
		if first == nil {
			r.res.Repaired = append(r.res.Repaired, Repair{s, fmt.Sprintf("it was wrong (%s), and is right after writing it %s more", agreed, times(try+1))})
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

// Compare reads from a disk what the chunks hold. Errors are as those of Run.
func Compare(ctx context.Context, dev Device, chunks iter.Seq2[image.Chunk, error], patience Patience, p image.Progress) error {
	r := &run{dev: newPatient(ctx, dev, patience)}
	for c, err := range chunks {
		if err != nil {
			return err
		}
		err = image.Compare(ctx, r.dev, one(c), p)
		if wrong, ok := errors.AsType[*image.MismatchError](err); ok {
			return fmt.Errorf("%s: %w", dev.Path(), wrong)
		}
		if err != nil {
			return r.read(ctx, err)
		}
	}
	return nil
}

// read sorts the errors of reading back.
func (r *run) read(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return r.broken(&ReadError{err})
}

// broken looks whether there is still a disk to speak of: one that was pulled
// fails with ENOSPC as well.
func (r *run) broken(err error) error {
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

func (j *Job) head() ([]image.Chunk, error) {
	if j.Head == nil {
		return nil, nil
	}
	return j.Head()
}

// split parts what lies in the guard from the rest, both from the end of the
// disk to its start.
func split(head []image.Chunk) (tables, rest []image.Chunk) {
	var next []image.Chunk
	for _, c := range head {
		if c.Off >= guard {
			rest = append(rest, c)
			continue
		}
		n := min(int64(len(c.Data)), guard-c.Off)
		tables = append(tables, image.Chunk{Off: c.Off, Data: c.Data[:n]})
		if n < int64(len(c.Data)) {
			next = append(next, image.Chunk{Off: c.Off + n, Data: c.Data[n:]})
		}
	}
	descending := func(a, b image.Chunk) int { return cmp.Compare(b.Off, a.Off) }
	rest = append(rest, next...)
	slices.SortFunc(tables, descending)
	slices.SortFunc(rest, descending)
	return tables, rest
}

// after refuses what would stand where the tables or the record go.
func after(chunks iter.Seq2[image.Chunk, error], off int64) iter.Seq2[image.Chunk, error] {
	return func(yield func(image.Chunk, error) bool) {
		if chunks == nil {
			return
		}
		for c, err := range chunks {
			if err == nil && c.Off < off {
				c, err = image.Chunk{}, fmt.Errorf("content at byte %d lies where the tables and the in-progress record go, before byte %d", c.Off, off)
			}
			if !yield(c, err) || err != nil {
				return
			}
		}
	}
}

// unwiped leaves out of the chunks what was wiped and is to be zeros: that is on
// the disk and was read back.
func unwiped(chunks []image.Chunk, wipes []image.Span) []image.Chunk {
	var left []image.Chunk
	for _, c := range chunks {
		there := make([]byte, len(c.Data))
		for _, s := range image.Subtract(spans([]image.Chunk{c}), wipes) {
			for i := s.Off - c.Off; i < s.End()-c.Off; i++ {
				there[i] = ^c.Data[i] // anything may be there
			}
		}
		at := len(left)
		for start, end := range runs(c.Data, there) {
			left = slices.Insert(left, at, image.Chunk{Off: c.Off + int64(start), Data: c.Data[start:end:end]})
		}
	}
	return left
}

// apart refuses a head that would change what was read back already.
func apart(head []image.Chunk, body []image.Span) error {
	for _, c := range head {
		for _, s := range body {
			if c.Off < s.End() && s.Off < c.Off+int64(len(c.Data)) {
				return fmt.Errorf("the %d bytes at %d, for the end, overlap the content at %d", len(c.Data), c.Off, s.Off)
			}
		}
	}
	return nil
}

func spans(chunks []image.Chunk) (spans []image.Span) {
	for _, c := range chunks {
		spans = append(spans, image.Span{Off: c.Off, Len: int64(len(c.Data))})
	}
	return spans
}

func zeros(spans []image.Span) iter.Seq2[image.Chunk, error] {
	zero := make([]byte, 1<<20)
	return func(yield func(image.Chunk, error) bool) {
		for _, s := range spans {
			for s.Len > 0 {
				n := min(s.Len, int64(len(zero)))
				if !yield(image.Chunk{Off: s.Off, Data: zero[:n]}, nil) {
					return
				}
				s = image.Span{Off: s.Off + n, Len: s.Len - n}
			}
		}
	}
}

func each(chunks []image.Chunk) iter.Seq2[image.Chunk, error] {
	return func(yield func(image.Chunk, error) bool) {
		for _, c := range chunks {
			if !yield(c, nil) {
				return
			}
		}
	}
}

func one(c image.Chunk) iter.Seq2[image.Chunk, error] { return each([]image.Chunk{c}) }

func length(spans []image.Span) (n int64) {
	for _, s := range spans {
		n += s.Len
	}
	return n
}

// blocks fills b up with zeros.
func blocks(b []byte) []byte {
	return append(slices.Clone(b), make([]byte, -len(b)&(image.Block-1))...)
}
