package image

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
)

// Progress is called with the number of bytes done since the last call, by one
// goroutine at a time. It may be nil.
type Progress func(n int64)

// Phases is called at the beginning of each phase of a long operation, with the number
// of bytes of the phase, or 0 if unknown. It returns the Progress of the phase. Both may
// be nil.
type Phases func(phase string, total int64) Progress

// Start begins a phase.
func (p Phases) Start(phase string, total int64) Progress {
	if p == nil {
		return nil
	}
	return p(phase, total)
}

// Add reports n more bytes.
func (p Progress) Add(n int64) {
	if p != nil {
		p(n)
	}
}

// NewReader returns a reader of r that reports progress, and fails when ctx ends.
func NewReader(ctx context.Context, r io.Reader, p Progress) io.Reader { return &reader{ctx, r, p} }

type reader struct {
	ctx context.Context
	r   io.Reader
	p   Progress
}

func (r *reader) Read(b []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	n, err := r.r.Read(b)
	r.p.Add(int64(n))
	return n, err
}

// Write writes the chunks to w, while the next chunk is read and hashed, and returns a
// manifest of what it wrote, with unnamed entries. It stops at the first error; errors of w
// are wrapped in [WriteError].
func Write(ctx context.Context, w io.WriterAt, chunks iter.Seq2[Chunk, error], p Progress) (*Manifest, error) {
	m := &Manifest{}
	for s, err := range ahead(ctx, summed(chunks)) {
		if err != nil {
			return nil, err
		}
		if err := s.write(w); err != nil {
			return nil, err
		}
		m.Entries = append(m.Entries, Entry{"", s.Off, int64(len(s.Data)), hex.EncodeToString(s.sha256[:])})
		m.Size = max(m.Size, s.Off+int64(len(s.Data)))
		p.Add(int64(len(s.Data)))
	}
	return m, nil
}

// WriteError is an error of a disk or file that was written to.
type WriteError struct {
	Off int64
	Err error
}

func (e *WriteError) Error() string { return fmt.Sprintf("writing at byte %d: %v", e.Off, e.Err) }
func (e *WriteError) Unwrap() error { return e.Err }

// Kind returns the kind of Err, "permission" or "write", like WriteKind of
// [imgtool/image/fault], which this package must not import.
func (e *WriteError) Kind() string {
	var inner interface {
		error
		Kind() string
	}
	switch {
	case errors.As(e.Err, &inner):
		return inner.Kind()
	case errors.Is(e.Err, fs.ErrPermission):
		return "permission"
	}
	return "write"
}

// ahead runs a sequence in another goroutine, one item ahead of its consumer. When the
// consumer takes an item, it has finished with the previous one.
func ahead[T any](ctx context.Context, items iter.Seq2[T, error]) iter.Seq2[T, error] {
	type item struct {
		v   T
		err error
	}
	return func(yield func(T, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		pipe := make(chan item)
		done := make(chan struct{})
		go func() {
			defer close(done)
			defer close(pipe)
			defer func() {
				// A panic must not end the program in the middle of a write.
				if r := recover(); r != nil {
					select {
					case pipe <- item{err: fmt.Errorf("internal error: %v", r)}:
					case <-ctx.Done():
					}
				}
			}()
			for v, err := range items {
				select {
				case pipe <- item{v, err}:
				case <-ctx.Done():
					return
				}
			}
		}()
		defer func() { cancel(); <-done }()
		var none T
		for {
			select {
			case <-ctx.Done():
				yield(none, context.Cause(ctx))
				return
			case it, ok := <-pipe:
				if !ok {
					// Both channels were ready.
					if err := ctx.Err(); err != nil {
						yield(none, context.Cause(ctx))
					}
					return
				}
				if !yield(it.v, it.err) || it.err != nil {
					return
				}
			}
		}
	}
}
