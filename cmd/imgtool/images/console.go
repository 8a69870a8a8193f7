package images

import (
	"bytes"
	"context"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"imgtool/image/vm"
)

func runTerminal(ctx context.Context, m vm.Machine, replies []vm.Reply, u *ui) error {
	u.Infof("type Ctrl-A x to leave")
	r, err := m.Start(ctx)
	if err != nil {
		return err
	}
	fd := int(u.In.(*os.File).Fd())
	before, err := term.MakeRaw(fd)
	if err != nil {
		r.Kill()
		return err
	}
	defer term.Restore(fd, before)
	go io.Copy(r.Keyboard, u.In)
	if _, err := r.Watch(u.Console(), nil, replies...); err != io.EOF {
		return err
	}
	return nil
}

// runHeadless prints the console, as events with --json.
func runHeadless(ctx context.Context, m vm.Machine, opt vmOptions, replies []vm.Reply, u *ui) error {
	if !u.JSON {
		out := u.Data()
		defer out.Close()
		_, err := m.RunUntil(ctx, opt.pattern, opt.timeout, out, replies...)
		return err
	}
	begin := time.Now()
	line, err := m.RunUntil(ctx, opt.pattern, opt.timeout, &consoleEvents{u: u}, replies...)
	if err != nil {
		return err
	}
	return u.Print(map[string]any{"line": line, "seconds": time.Since(begin).Seconds()})
}

// consoleEvents prints every line of a console as an event.
type consoleEvents struct {
	u    *ui
	rest []byte
}

func (c *consoleEvents) Write(p []byte) (int, error) {
	c.rest = append(c.rest, p...)
	for {
		line, rest, ended := bytes.Cut(c.rest, []byte("\n"))
		if !ended {
			return len(p), nil
		}
		c.u.Event(map[string]any{"event": "console", "line": strings.TrimRight(string(line), "\r")})
		c.rest = rest
	}
}
