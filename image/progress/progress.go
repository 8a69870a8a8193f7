// Package progress is how long-running work informs its user: messages, warnings
// and the phases of the work. The program decides how to show them.
package progress

import "imgtool/image"

// A Reporter receives what happens during an operation. Its methods may be called
// from several goroutines.
type Reporter interface {
	// Infof reports a fact that the user should know, formatted as by [fmt.Sprintf].
	Infof(format string, args ...any)

	// Warnf reports a problem that does not stop the operation.
	Warnf(format string, args ...any)

	// Phase begins a phase that processes total bytes, or an unknown number if
	// total is 0, and ends the one before. The bytes are added to the result.
	Phase(name string, total int64) image.Progress

	// EndPhase ends the phase, if there is one. Messages end it too.
	EndPhase()
}

// Discard is a Reporter that reports nothing.
var Discard Reporter = discard{}

type discard struct{}

func (discard) Infof(string, ...any)               {}
func (discard) Warnf(string, ...any)               {}
func (discard) Phase(string, int64) image.Progress { return nil }
func (discard) EndPhase()                          {}
