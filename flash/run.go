package flash

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"syscall"

	"imgtool/image"
)

// Device is what Run writes: a *Target.
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

	// Head returns what makes the disk bootable: what lies before the first
	// partition, and the backup table. It is called when the body is read back
	// and may be nil. It does not overlap the body.
	Head func() ([]image.Chunk, error)
}

// Phases of a Run.
const (
	Wiping    = "wiping"
	Writing   = "writing"
	Reading   = "reading back"
	Finishing = "finishing"
)

// guard is what holds the tables a firmware looks for: zeroed before all else,
// written after all else, in one piece.
const guard = image.Block

// Run writes a job and reads it back, and returns what is on the disk then.
//
// From the first byte to the last but 4096 the disk has no table: whatever
// ends a flash early leaves a disk that nothing boots, and whose record says
// what was going on.
//
// Errors are *image.WriteError, *image.MismatchError, *ReadError and
// *GoneError, errors of Body and Head as they are, and the cause of ctx. A
// write or a flush that fails is not tried again.
func Run(ctx context.Context, dev Device, job Job, phases image.Phases) (*image.Manifest, error) {
	r := &run{dev, phases}

	// 1. No table, and the record.
	record := blocks(job.Record)
	wipes := append([]image.Span{{Off: 0, Len: guard}}, job.Wipe...)
	p := r.phases.Start(Wiping, length(wipes)+int64(len(record)))
	if err := r.settle(ctx, zeros(wipes), p, nil); err != nil {
		return nil, err
	}
	if len(record) > 0 {
		if err := r.settle(ctx, one(image.Chunk{Off: job.RecordOff, Data: record}), p, nil); err != nil {
			return nil, err
		}
	}

	// 2. The partitions.
	body, err := r.write(ctx, after(job.Body, max(guard, job.RecordOff+int64(len(record)))), r.phases.Start(Writing, job.BodySize))
	if err != nil {
		return nil, err
	}
	var total int64
	for _, e := range body.Entries {
		total += e.Len
	}
	if err := r.read(ctx, image.Verify(ctx, r.dev, body, r.phases.Start(Reading, total))); err != nil {
		return nil, err
	}

	// 3. Everything else but the tables. The backup table alone is none: no
	// firmware looks for it without the protective MBR.
	head, err := job.head()
	if err != nil {
		return nil, err
	}
	if err := apart(head, body); err != nil {
		return nil, err
	}
	for _, s := range uncovered(image.Span{Off: job.RecordOff, Len: int64(len(record))}, head) {
		head = append(head, image.Chunk{Off: s.Off, Data: make([]byte, s.Len)})
	}
	tables, rest := split(head)
	total = 0
	for _, c := range head {
		total += 2 * int64(len(c.Data))
	}
	p = r.phases.Start(Finishing, total)
	done := &image.Manifest{Entries: body.Entries}
	if err := r.settle(ctx, all(rest), p, done); err != nil {
		return nil, err
	}

	// 4. The tables. From here on it is done or undone, not interrupted.
	ctx = context.WithoutCancel(ctx)
	if err := r.settle(ctx, all(tables), p, done); err != nil {
		r.dev.WriteAt(make([]byte, guard), 0)
		r.dev.Sync()
		return nil, err
	}
	slices.SortFunc(done.Entries, func(a, b image.Entry) int { return cmp.Compare(a.Off, b.Off) })
	for _, e := range done.Entries {
		done.Size = max(done.Size, e.Off+e.Len)
	}
	return done, nil
}

type run struct {
	dev    Device
	phases image.Phases
}

// settle writes chunks, flushes, and reads them back byte by byte. It adds what
// it wrote to m.
func (r *run) settle(ctx context.Context, chunks iter.Seq2[image.Chunk, error], p image.Progress, m *image.Manifest) error {
	wrote, err := r.write(ctx, chunks, p)
	if err != nil {
		return err
	}
	if m == nil {
		p = nil // a wipe counts once
	} else {
		m.Entries = append(m.Entries, wrote.Entries...)
	}
	return r.read(ctx, image.Compare(ctx, r.dev, chunks, p))
}

// write writes the chunks and flushes.
func (r *run) write(ctx context.Context, chunks iter.Seq2[image.Chunk, error], p image.Progress) (*image.Manifest, error) {
	m, err := image.Write(ctx, r.dev, chunks, p)
	if _, ok := errors.AsType[*image.WriteError](err); ok {
		return nil, r.broken(err)
	}
	if err != nil {
		return nil, err
	}
	// A flush may take as long as the disk likes; who interrupts does not wait.
	flushed := make(chan error, 1)
	go func() { flushed <- r.dev.Sync() }()
	select {
	case err = <-flushed:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, r.broken(&image.WriteError{Off: m.Size, Err: fmt.Errorf("flushing what came before: %w", err)})
	}
	return m, nil
}

// read sorts the errors of reading back.
func (r *run) read(ctx context.Context, err error) error {
	if err == nil || err == context.Cause(ctx) {
		return err
	}
	if _, ok := errors.AsType[*image.MismatchError](err); ok {
		return fmt.Errorf("%s: %w", r.dev.Path(), err)
	}
	return r.broken(&ReadError{err})
}

// broken looks whether there is still a disk to speak of: one that was pulled
// fails with ENOSPC as well.
func (r *run) broken(err error) error {
	if errors.Is(err, syscall.ENODEV) || errors.Is(err, syscall.ENXIO) || r.dev.Alive() != nil {
		return &GoneError{r.dev.Path(), err}
	}
	return fmt.Errorf("%s: %w", r.dev.Path(), err)
}

func (j *Job) head() ([]image.Chunk, error) {
	if j.Head == nil {
		return nil, nil
	}
	return j.Head()
}

// split parts what lies in the guard from the rest. What continues the chunk
// at byte 0 ends the rest, byte 0 ends the tables.
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
	slices.SortFunc(tables, func(a, b image.Chunk) int { return cmp.Compare(b.Off, a.Off) })
	return tables, append(rest, next...)
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

// apart refuses a head that would change what was read back already.
func apart(head []image.Chunk, body *image.Manifest) error {
	for _, c := range head {
		for _, e := range body.Entries {
			if c.Off < e.Off+e.Len && e.Off < c.Off+int64(len(c.Data)) {
				return fmt.Errorf("the %d bytes at %d, for the end, overlap the content at %d", len(c.Data), c.Off, e.Off)
			}
		}
	}
	return nil
}

// uncovered is what of s no chunk holds.
func uncovered(s image.Span, chunks []image.Chunk) []image.Span {
	chunks = slices.SortedFunc(slices.Values(chunks), func(a, b image.Chunk) int { return cmp.Compare(a.Off, b.Off) })
	var open []image.Span
	at := s.Off
	for _, c := range chunks {
		if c.Off >= s.End() {
			break
		}
		if c.Off > at {
			open = append(open, image.Span{Off: at, Len: c.Off - at})
		}
		at = max(at, c.Off+int64(len(c.Data)))
	}
	if at < s.End() {
		open = append(open, image.Span{Off: at, Len: s.End() - at})
	}
	return open
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

func all(chunks []image.Chunk) iter.Seq2[image.Chunk, error] {
	return func(yield func(image.Chunk, error) bool) {
		for _, c := range chunks {
			if !yield(c, nil) {
				return
			}
		}
	}
}

func one(c image.Chunk) iter.Seq2[image.Chunk, error] { return all([]image.Chunk{c}) }

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
