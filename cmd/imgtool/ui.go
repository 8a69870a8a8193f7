package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"imgtool/image"
	"imgtool/image/compress"
)

// ui is the one place that talks to people. Data goes to out, all else to err:
// no capitals and no full stop, except in whole paragraphs. On a terminal a
// phase is a bar that goes away when it is done; in a log it is a line when it
// begins and one every ten seconds; with --json it is an object a line.
type ui struct {
	in       io.Reader
	out, err io.Writer
	json     bool
	unpacked compress.Budget // for scratch files

	started  bool // the command line was understood
	terminal bool

	mu    sync.Mutex
	phase *phase
	state string // what an interrupt leaves behind
}

// phase is what is going on.
type phase struct {
	name        string
	done, total int64
	begin, last time.Time
	bar         *progressbar.ProgressBar
}

func (u *ui) start() {
	u.started = true
	f, ok := u.err.(*os.File)
	u.terminal = ok && !u.json && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb"
}

func (u *ui) say(format string, args ...any) {
	u.endPhase()
	if u.json {
		u.event(map[string]any{"event": "message", "message": fmt.Sprintf(format, args...)})
		return
	}
	fmt.Fprintf(u.err, format+"\n", args...)
}

// leaves says what an interrupt leaves behind from now on.
func (u *ui) leaves(state string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.state = state
}

func (u *ui) interrupted() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.state == "" {
		return errors.New("interrupted")
	}
	return errors.New("interrupted: " + u.state)
}

func (u *ui) warn(message string) {
	u.endPhase()
	if u.json {
		u.event(map[string]any{"event": "warning", "message": message})
		return
	}
	fmt.Fprintln(u.err, "imgtool: warning: "+message)
}

func (u *ui) fail(err error, status int) {
	var advice string
	var h *hinted
	if errors.As(err, &h) {
		advice = h.hint
	}
	message := err.Error()
	if u.json {
		e := map[string]any{"event": "error", "error": message, "status": status}
		if advice != "" {
			e["hint"] = advice
		}
		var wrong *image.MismatchError
		if errors.As(err, &wrong) {
			e["offset"], e["length"], e["expected"], e["got"] = wrong.Off, wrong.Len, wrong.Want, wrong.Got
		}
		u.event(e)
		return
	}
	for line := range strings.SplitSeq(message, "\n") {
		fmt.Fprintln(u.err, "imgtool: "+line)
	}
	if advice != "" {
		fmt.Fprintln(u.err, "imgtool: "+advice)
	}
	if status == exitUsage {
		fmt.Fprintln(u.err, "imgtool: see imgtool --help")
	}
}

func (u *ui) event(e map[string]any) {
	b, _ := json.Marshal(e)
	fmt.Fprintf(u.err, "%s\n", b)
}

// print writes a result as JSON.
func (u *ui) print(v any) error {
	e := json.NewEncoder(u.out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// encodeLine is v as JSON in one line, for lists that are printed as they come.
func encodeLine(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// phases draws the phases of a long work.
func (u *ui) phases(name string, total int64) image.Progress {
	u.endPhase()
	u.mu.Lock()
	defer u.mu.Unlock()
	p := &phase{name: name, total: total, begin: time.Now(), last: time.Now()}
	u.phase = p
	switch {
	case u.terminal:
		if total == 0 {
			total = -1
		}
		p.bar = progressbar.NewOptions64(total, progressbar.OptionSetWriter(u.err), progressbar.OptionSetDescription(fmt.Sprintf("%-12s", name)),
			progressbar.OptionShowBytes(true), progressbar.OptionUseIECUnits(true), progressbar.OptionShowTotalBytes(true), progressbar.OptionSetPredictTime(true),
			progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish(), progressbar.OptionFullWidth())
	case u.json:
		u.progress(p)
	case total > 0:
		fmt.Fprintf(u.err, "%s: %s\n", name, human(total))
	default:
		fmt.Fprintln(u.err, name)
	}
	return func(n int64) {
		u.mu.Lock()
		defer u.mu.Unlock()
		p.done += n
		every := 10 * time.Second
		if u.json {
			every = 300 * time.Millisecond
		}
		switch now := time.Now(); {
		case p.bar != nil:
			p.bar.Add64(n)
		case now.Sub(p.last) < every:
		case u.json:
			p.last = now
			u.progress(p)
		default:
			p.last = now
			line := fmt.Sprintf("%s: %s", p.name, human(p.done))
			if p.total > 0 {
				line += fmt.Sprintf(" of %s, %d %%, %s left", human(p.total), 100*p.done/p.total, p.left().Round(time.Second))
			}
			fmt.Fprintln(u.err, line)
		}
	}
}

func (p *phase) left() time.Duration {
	if p.done <= 0 || p.total < p.done {
		return 0
	}
	return time.Duration(float64(time.Since(p.begin)) / float64(p.done) * float64(p.total-p.done))
}

func (u *ui) progress(p *phase) {
	e := map[string]any{"event": "progress", "phase": p.name, "bytes": p.done}
	if p.total > 0 {
		e["total"] = p.total
	}
	if s := time.Since(p.begin).Seconds(); s > 0.1 {
		e["rate"] = int64(float64(p.done) / s)
		e["eta_s"] = int64(p.left().Seconds())
	}
	u.event(e)
}

func (u *ui) endPhase() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.phase == nil {
		return
	}
	if u.phase.bar != nil {
		u.phase.bar.Clear()
	} else if u.json {
		u.progress(u.phase)
	}
	u.phase = nil
}

// ask asks a person a question that only "yes" answers well.
func (u *ui) ask(ctx context.Context, question string) (bool, error) {
	line, err := u.answer(ctx, question+"\nType yes to go on: ", "pass --yes to write without a question")
	return line == "yes", err
}

// choose lets a person choose one of a list, and returns which.
func (u *ui) choose(ctx context.Context, title string, list []string) (int, error) {
	var b strings.Builder
	fmt.Fprintln(&b, title)
	for i, s := range list {
		fmt.Fprintf(&b, "%3d  %s\n", i+1, s)
	}
	fmt.Fprint(&b, "Type the number of one: ")
	line, err := u.answer(ctx, b.String(), "name the disk; there is "+strings.Join(list, "; and "))
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(line)
	if err != nil || n < 1 || n > len(list) {
		return 0, usagef("%q is none of 1 to %d", line, len(list))
	}
	return n - 1, nil
}

// answer is the line a person types; without says what to do if there is nobody.
func (u *ui) answer(ctx context.Context, question, without string) (string, error) {
	f, ok := u.in.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return "", usagef("nobody is there to answer: %s", without)
	}
	line, err := u.await(ctx, question, func() (string, error) { return readLine(u.in) })
	return strings.TrimSpace(line), err
}

// secret is an answer that is not shown.
func (u *ui) secret(ctx context.Context, question, without string) (string, error) {
	f, ok := u.in.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return "", usagef("nobody is there to answer: %s", without)
	}
	shown, err := term.GetState(int(f.Fd()))
	if err != nil {
		return "", err
	}
	// Interrupted, the terminal must show again what is typed.
	defer func() {
		term.Restore(int(f.Fd()), shown)
		fmt.Fprintln(u.err)
	}()
	return u.await(ctx, question, func() (string, error) {
		b, err := term.ReadPassword(int(f.Fd()))
		return string(b), err
	})
}

func (u *ui) await(ctx context.Context, question string, read func() (string, error)) (string, error) {
	u.endPhase()
	fmt.Fprint(u.err, question)
	type answer struct {
		line string
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		line, err := read()
		answers <- answer{line, err}
	}()
	select {
	case <-ctx.Done():
		fmt.Fprintln(u.err)
		return "", context.Cause(ctx)
	case a := <-answers:
		return a.line, a.err
	}
}

// readLine reads no further than the end of the line.
func readLine(r io.Reader) (string, error) {
	var line []byte
	for b := make([]byte, 1); ; {
		n, err := r.Read(b)
		if n == 1 && b[0] == '\n' || err == io.EOF {
			return string(line), nil
		}
		if err != nil {
			return "", err
		}
		line = append(line, b[:n]...)
	}
}

func human(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.2f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%d bytes", n)
}
