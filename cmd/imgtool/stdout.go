package main

import (
	"errors"
	"io"
	"io/fs"
	"sync"
	"syscall"

	"imgtool/image/fault"
)

// results is standard output. It keeps the first error and drops what follows, so commands
// need not check each write.
type results struct {
	to     io.Writer
	broken func() // called when the reader is gone, or nil

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

// failed returns the first error of writing, or nil.
func (r *results) failed() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}
