package main

import (
	"bytes"
	"strings"
)

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
		c.u.event(map[string]any{"event": "console", "line": strings.TrimRight(string(line), "\r")})
		c.rest = rest
	}
}
