// Package fault gives errors a kind, from which a program derives its exit
// status, and a hint about what to do next.
//
// An error has a kind if it, or an error it wraps, has a method Kind() string.
// The outermost kind counts.
package fault

import (
	"errors"
	"fmt"
	"io/fs"
)

// Kinds of errors. An error without a kind means bad input.
const (
	Usage       = "usage"       // invalid command-line usage
	Input       = "input"       // an input is missing, malformed or does not fit
	Refused     = "refused"     // a safety check forbids it: a disk in use, a device that refuses
	Permission  = "permission"  // the user lacks the rights
	Corrupt     = "corrupt"     // an input is damaged or unreadable
	Write       = "write"       // writing an output failed
	Mismatch    = "mismatch"    // what was read back differs from what was written or expected
	Gone        = "gone"        // a disk or device is missing or stopped answering
	WrongBoard  = "wrong board" // the disk or device belongs to another board
	RolledBack  = "rolled back" // a device went back to its former configuration
	Unknown     = "unknown"     // whether the operation took effect is unknown
	Interrupted = "interrupted" // the user stopped it
	Internal    = "internal"    // a mistake in the program
)

type fault struct {
	error
	kind string
}

func (e *fault) Unwrap() error { return e.error }
func (e *fault) Kind() string  { return e.kind }

// New returns an error of a kind. The text is formatted as by [fmt.Errorf].
func New(kind, format string, args ...any) error {
	return &fault{fmt.Errorf(format, args...), kind}
}

// As returns err with a kind, or nil if err is nil.
func As(kind string, err error) error {
	if err == nil {
		return nil
	}
	return &fault{err, kind}
}

// Kind returns the outermost kind in the chain of err, or "" if it has none.
func Kind(err error) string {
	var e interface {
		error
		Kind() string
	}
	if errors.As(err, &e) {
		return e.Kind()
	}
	return ""
}

type hinted struct {
	error
	hint string
}

func (e *hinted) Unwrap() error { return e.error }

// WithHint adds advice on what to do about err, after the advice it has already.
func WithHint(err error, format string, args ...any) error {
	text := fmt.Sprintf(format, args...)
	if before := Hint(err); before != "" {
		text = before + "; " + text
	}
	return &hinted{err, text}
}

// Hint returns the advice that [WithHint] added to err, or "".
func Hint(err error) string {
	if e, ok := errors.AsType[*hinted](err); ok {
		return e.hint
	}
	return ""
}

type reasoned struct {
	error
	reason string
}

func (e *reasoned) Unwrap() error { return e.error }

// WithReason adds a word that tells err apart from other errors of its kind, for programs that
// read the output of --json, such as expired.
func WithReason(reason string, err error) error {
	if err == nil {
		return nil
	}
	return &reasoned{err, reason}
}

// Reason returns the word that [WithReason] added to err, or "".
func Reason(err error) string {
	if e, ok := errors.AsType[*reasoned](err); ok {
		return e.reason
	}
	return ""
}

// WriteKind is the kind of an error of writing: its own if it has one, else [Permission] or
// [Write].
func WriteKind(err error) string {
	switch kind := Kind(err); {
	case kind != "":
		return kind
	case errors.Is(err, fs.ErrPermission):
		return Permission
	}
	return Write
}
