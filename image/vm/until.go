package vm

import (
	"context"
	"io"
	"regexp"
	"time"

	"imgtool/image/fault"
)

// RunUntil runs the machine until a line of its console matches, and returns the line. If
// until is nil, it runs until the machine powers off. The console is written to out.
func (m *Machine) RunUntil(ctx context.Context, until *regexp.Regexp, timeout time.Duration, out io.Writer, replies ...Reply) (line string, err error) {
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	late := fault.New(fault.Gone, "the machine did not power off in %s", timeout)
	var done func(string) bool
	if until != nil {
		late = fault.New(fault.Gone, "no line matched %q in %s", until, timeout)
		done = until.MatchString
	}
	r, err := m.Start(limited)
	if err == nil {
		line, err = r.Watch(out, done, replies...)
		if err == nil {
			r.Kill()
		}
	}
	switch {
	case err == nil:
		return line, nil
	case ctx.Err() != nil:
		return "", err
	case limited.Err() != nil:
		return "", late
	case err == io.EOF && until != nil:
		return "", fault.New(fault.Gone, "the machine ended, and no line matched %q", until)
	case err == io.EOF && r != nil:
		return "", nil
	}
	return "", err
}
