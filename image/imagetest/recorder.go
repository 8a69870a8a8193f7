package imagetest

import (
	"fmt"
	"strings"
	"sync"

	"imgtool/image"
)

// Recorder is a reporter (see package progress) that keeps messages and warnings, a line each.
type Recorder struct {
	mu   sync.Mutex
	text strings.Builder
}

func (r *Recorder) add(format string, args []any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(&r.text, format+"\n", args...)
}

func (r *Recorder) Infof(format string, args ...any)   { r.add(format, args) }
func (r *Recorder) Warnf(format string, args ...any)   { r.add("warning: "+format, args) }
func (r *Recorder) Phase(string, int64) image.Progress { return nil }
func (r *Recorder) EndPhase()                          {}

func (r *Recorder) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}
