package flash

import (
	"bytes"
	"context"
	"errors"
	"sync/atomic"
	"time"
)

// Left is what a disk holds after a Run that failed or was interrupted. It is read back
// from the disk.
type Left string

const (
	Unknown     Left = "unknown"            // it cannot be read, or a write may still reach it
	Unchanged   Left = "unchanged"          // each place that was to be written is as before
	NoTable     Left = "no partition table" // its first block is zeros
	PartWritten Left = "partly written"     // its first block is not zeros, and other places may be changed
)

// FailedError is a Run that failed or was interrupted, and what it left on the disk.
type FailedError struct {
	Err  error
	Left Left
}

func (e *FailedError) Error() string { return e.Err.Error() }
func (e *FailedError) Unwrap() error { return e.Err }

// LeftBy is what a Run that ended in err left on the disk, and whether err says so.
func LeftBy(err error) (Left, bool) {
	if failed, ok := errors.AsType[*FailedError](err); ok {
		return failed.Left, true
	}
	return Unknown, false
}

// note keeps what was at a place before the first write to it.
func (r *run) note(off int64, before []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.before[off]; !ok {
		r.before[off] = bytes.Clone(before)
	}
}

// noteGuard keeps what is in the guard. A disk that cannot be read there may still be
// written.
func (r *run) noteGuard() {
	b := make([]byte, guard)
	if n, _ := r.dev.ReadAt(b, 0); n == len(b) {
		r.note(0, b)
	}
}

func (r *run) setSpread() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.spread = true
}

// Watch looks at the disk of a Run that does not end although its context did, as when
// the image is read from a pipe that brings nothing.
type Watch struct{ run atomic.Pointer[run] }

// Left is what the disk holds. It is to be called after the context of the Run ended:
// nothing more is written then.
func (w *Watch) Left() Left {
	r := w.run.Load()
	if r == nil {
		return Unchanged
	}
	r.mu.Lock()
	finishing := r.finishing
	r.mu.Unlock()
	if finishing {
		return Unknown // it is done or undone
	}
	return r.left(true)
}

// How long an interrupted run waits for operations that have not ended, and then for each
// of those that look what is on the disk.
const (
	drainTime = time.Second
	lookTime  = 500 * time.Millisecond
)

// left reads back what is on the disk. interrupted says that there is little time.
func (r *run) left(interrupted bool) Left {
	if !r.dev.wrote.Load() {
		return Unchanged
	}
	if !r.dev.drain(drainTime) {
		return Unknown // a write may still reach the disk
	}
	dev := r.dev
	dev.ctx = context.Background()
	if interrupted {
		dev.Stall = lookTime
	}
	now := make([]byte, guard)
	if n, _ := dev.ReadAt(now, 0); n < len(now) {
		return Unknown
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.spread {
		same := len(r.before) > 0 && r.before[0] != nil
		for off, before := range r.before {
			b := make([]byte, len(before))
			if n, _ := dev.ReadAt(b, off); n < len(b) {
				return Unknown
			}
			same = same && bytes.Equal(b, before)
		}
		if same {
			return Unchanged
		}
	}
	if bytes.Count(now, []byte{0}) == len(now) {
		return NoTable
	}
	return PartWritten
}
