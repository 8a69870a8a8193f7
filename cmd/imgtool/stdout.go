package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"syscall"
)

// results is standard output. A command need not look whether it could write there: the
// first error is kept, and what would follow is dropped.
type results struct {
	to     io.Writer
	broken func() // called when its reader is gone, or nil

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
		r.err = &resultsError{err}
		r.die()
	}
	return n, r.err
}

// die ends the program if the first error was that its reader is gone, unless something
// is going on that must not be interrupted.
func (r *results) die() {
	if r.broken != nil && errors.Is(r.err, syscall.EPIPE) {
		r.broken()
	}
}

// failed is the first error of writing, or nil.
func (r *results) failed() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// resultsError is a result that could not be written.
type resultsError struct{ err error }

func (e *resultsError) Error() string { return fmt.Sprintf("writing to standard output: %v", e.err) }
func (e *resultsError) Unwrap() error { return e.err }
