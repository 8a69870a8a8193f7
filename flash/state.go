package flash

import (
	"bytes"
	"context"
	"errors"
	"sync/atomic"
	"time"

	"imgtool/image"
)

// State is the content of a disk after a [Run] that failed or was interrupted, as read
// back from the disk.
type State string

const (
	Unknown     State = "unknown"            // it cannot be read, or a write in flight may change it
	Unchanged   State = "unchanged"          // every place written to has its old content
	NoTable     State = "no partition table" // the first block is zeros
	PartWritten State = "partly written"     // the first block is not zeros, and other places may have changed
)

// FailedError is a [Run] that failed or was interrupted, and the state of the disk.
type FailedError struct {
	Err   error
	State State
}

func (e *FailedError) Error() string { return e.Err.Error() }
func (e *FailedError) Unwrap() error { return e.Err }

// StateAfter returns the state in the [*FailedError] in err, and whether err has it.
func StateAfter(err error) (State, bool) {
	if failed, ok := errors.AsType[*FailedError](err); ok {
		return failed.State, true
	}
	return Unknown, false
}

// save keeps the old content of a place before the first write to it.
func (r *run) save(off int64, old []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.before[off]; !ok {
		r.before[off] = bytes.Clone(old)
	}
}

// saveGuard keeps the old content of the guard. A disk that cannot be read there may still
// be writable.
func (r *run) saveGuard() {
	b := make([]byte, guard)
	if n, _ := r.dev.ReadAt(b, 0); n == len(b) {
		r.save(0, b)
	}
}

// Watch reads the state of the disk of a [Run] that does not return although its context
// ended, for example while it waits for an image from a pipe.
type Watch struct{ run atomic.Pointer[run] }

// State returns the state of the disk. It must be called after the context of the Run
// ended: Run starts no more writes then.
func (w *Watch) State() State {
	r := w.run.Load()
	if r == nil {
		return Unchanged
	}
	if r.finishing.Load() {
		return Unknown // Run is still writing or removing the tables
	}
	return r.state(true)
}

// After a cancellation, state waits up to drainTime for operations in flight, and then up
// to readTime for each read.
const (
	drainTime = time.Second
	readTime  = 500 * time.Millisecond
)

// state reads back the state of the disk. After a cancellation it must not take long.
func (r *run) state(canceled bool) State {
	if !r.dev.wrote.Load() {
		return Unchanged
	}
	if !r.dev.drain(drainTime) {
		return Unknown // a write may still reach the disk
	}
	dev := r.dev
	dev.ctx = context.Background()
	if canceled {
		dev.Stall = readTime
	}
	now := make([]byte, guard)
	if n, _ := dev.ReadAt(now, 0); n < len(now) {
		return Unknown
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.spread.Load() {
		same := len(r.before) > 0 && r.before[0] != nil
		for off, old := range r.before {
			b := make([]byte, len(old))
			if n, _ := dev.ReadAt(b, off); n < len(b) {
				return Unknown
			}
			same = same && bytes.Equal(b, old)
		}
		if same {
			return Unchanged
		}
	}
	if image.IsZero(now) {
		return NoTable
	}
	return PartWritten
}
