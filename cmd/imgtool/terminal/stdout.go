package terminal

import (
	"errors"
	"io"
	"io/fs"
	"sync"
	"sync/atomic"
	"syscall"

	"imgtool/image/fault"
	"imgtool/image/sanitize"
)

// results is standard output. It keeps the first error and drops what follows, so commands
// need not check each write.
type results struct {
	to     io.Writer
	broken func() // called when the reader is gone, or nil

	written atomic.Int64 // bytes

	mu  sync.Mutex
	err error
}

func (r *results) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return 0, r.err
	}
	n, err := r.to.Write(p)
	r.written.Add(int64(n))
	if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
		err = pathErr.Err
	}
	if err != nil {
		r.err = fault.New(fault.Write, "writing to standard output: %w", err)
		r.die()
	}
	return n, r.err
}

// die ends the program if the reader of standard output is gone, unless something is going on
// that must not be interrupted.
func (r *results) die() {
	if r.broken != nil && errors.Is(r.err, syscall.EPIPE) {
		r.broken()
	}
}

// Stdout returns a writer to standard output, whose text is sanitized.
func (u *UI) Stdout() io.Writer { return sanitize.NewWriter(out{u}) }

// Lost returns the first error of writing to standard output, or nil. It ends the program if
// the reader is gone.
func (u *UI) Lost() error {
	u.stdout.mu.Lock()
	defer u.stdout.mu.Unlock()
	if u.stdout.err != nil {
		u.stdout.die()
	}
	return u.stdout.err
}
