package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/creack/pty"
	"github.com/hinshun/vt10x"
)

const columns = 80

// A frame is what a terminal shows from a moment on.
type frame struct {
	at   time.Duration
	rows [][]vt10x.Glyph
}

func (f frame) text() string {
	var s strings.Builder
	for _, row := range f.rows {
		for _, g := range row {
			s.WriteRune(max(g.Char, ' '))
		}
		s.WriteByte('\n')
	}
	return s.String()
}

// record runs a command in a terminal and returns what the terminal showed.
func record(program, dir string, p picture) ([]frame, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, p.command[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TERM=xterm-256color", "LC_ALL=C.UTF-8", "NO_COLOR=")
	screen := vt10x.New(vt10x.WithSize(columns, p.rows))
	io.WriteString(screen, "$ "+strings.Join(p.command, " ")+"\r\n")
	f, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: uint16(p.rows), Cols: columns})
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var mu sync.Mutex
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 4096)
		for {
			n, err := f.Read(b)
			mu.Lock()
			screen.Write(b[:n])
			mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	begin := time.Now()
	frames := []frame{{0, shot(screen, p.rows)}}
	for ended := false; !ended; {
		select {
		case <-done:
			ended = true
		case <-time.After(200 * time.Millisecond):
		}
		mu.Lock()
		now := frame{time.Since(begin), shot(screen, p.rows)}
		mu.Unlock()
		if !slices.EqualFunc(now.rows, frames[len(frames)-1].rows, slices.Equal) {
			frames = append(frames, now)
		}
		text := now.text()
		if len(p.answers) > 0 && strings.Contains(text, p.answers[0].after) {
			time.Sleep(time.Second)
			io.WriteString(f, p.answers[0].text)
			p.answers = p.answers[1:]
		}
		if p.end != "" && strings.Contains(text, p.end) {
			cmd.Process.Kill()
			<-done
			cmd.Wait()
			return frames, nil
		}
	}
	if err := cmd.Wait(); err != nil || len(p.answers) > 0 || p.end != "" {
		return nil, errors.Join(err, fmt.Errorf("unexpected end:\n%s", frames[len(frames)-1].text()))
	}
	return frames, nil
}

func shot(screen vt10x.Terminal, rows int) [][]vt10x.Glyph {
	all := make([][]vt10x.Glyph, rows)
	for y := range all {
		for x := range columns {
			all[y] = append(all[y], screen.Cell(x, y))
		}
	}
	return all
}
