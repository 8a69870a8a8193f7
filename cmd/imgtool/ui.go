package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/term"

	"imgtool/flash"
	"imgtool/flash/deploy"
	"imgtool/image"
	"imgtool/image/compress"
	"imgtool/image/fault"
	"imgtool/image/sanitize"
	"imgtool/image/volume"
)

// ui writes everything that users see. Data go to stdout, messages to stderr: without
// capitals and full stops, except in whole paragraphs. On a terminal a phase is a bar that
// disappears when it is done; in a log it is a line when it begins and one every ten seconds;
// with --json it is an object a line. It is the reporter of the packages that do the work.
//
// Text from outside is sanitized here: in each argument of printf, Infof and Warnf, each line
// of an error and of a question, and each string of JSON, so that no name or message can
// control a terminal. Only write, data and machineConsole pass bytes on unchanged. A test checks that
// nothing else in the program writes to stdout or stderr.
type ui struct {
	in             io.Reader
	stdout, stderr io.Writer
	json           bool
	unpacked       compress.Budget // for scratch files

	started  bool // the command line is valid
	terminal bool

	mu    sync.Mutex
	phase *phase
	ahead []deploy.Phase         // expected phases, in order
	state string                 // what an interrupt leaves behind, apart from disks
	left  map[string]flash.State // what disks contain that are not written completely

	writing atomic.Int32 // disks are being written: a closed terminal does not interrupt
	last    func()       // called before an interrupted program ends, or nil
}

func (u *ui) start() {
	u.started = true
	u.terminal = !u.json && isTerminal(u.stderr) && os.Getenv("TERM") != "dumb"
}

// isTerminal reports whether a reader or writer is a terminal.
func isTerminal(file any) bool {
	f, ok := file.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// opening returns how commands open images.
func (u *ui) opening() volume.Options {
	return volume.Options{Stdin: u.in, Scratch: &u.unpacked, Reporter: u}
}

// Infof shows a message.
func (u *ui) Infof(format string, args ...any) {
	u.EndPhase()
	u.message("message", "", format, args)
}

// Warnf shows a warning.
func (u *ui) Warnf(format string, args ...any) {
	u.EndPhase()
	u.message("warning", "imgtool: warning: ", format, args)
}

// warn shows a warning that is formatted already.
func (u *ui) warn(text string) { u.Warnf("%s", text) }

// message writes a line with a prefix, or a JSON event.
func (u *ui) message(event, prefix, format string, args []any) {
	if u.json {
		u.event(map[string]any{"event": event, "message": fmt.Sprintf(format, args...)})
		return
	}
	u.line(prefix+format, args...)
}

// line writes a line to stderr.
func (u *ui) line(format string, args ...any) {
	io.WriteString(u.stderr, sanitize.Sprintf(format+"\n", args...))
}

// printf writes text to stdout. Line ends in arguments are escaped.
func (u *ui) printf(format string, args ...any) error {
	_, err := io.WriteString(u.stdout, sanitize.Sprintf(format, args...))
	return err
}

// listing returns a buffered printf for many lines. It must be flushed.
func (u *ui) listing() *listing { return &listing{bufio.NewWriter(u.stdout)} }

type listing struct{ w *bufio.Writer }

func (l *listing) printf(format string, args ...any) {
	l.w.WriteString(sanitize.Sprintf(format, args...))
}

// Flush writes the rest. It returns the first error of writing.
func (l *listing) Flush() error { return l.w.Flush() }

// text writes text of several lines to stdout.
func (u *ui) text(s string) error {
	_, err := io.WriteString(u.stdout, sanitize.Text(s))
	return err
}

// write writes data to stdout: unchanged, or sanitized if it is a terminal.
func (u *ui) write(data []byte) error {
	if u.toTerminal() {
		return u.text(string(data))
	}
	_, err := u.stdout.Write(data)
	return err
}

// data returns a writer that does the same for data in pieces. It must be closed.
func (u *ui) data() io.WriteCloser {
	if u.toTerminal() {
		return sanitize.NewWriter(u.stdout)
	}
	return struct {
		io.Writer
		io.Closer
	}{u.stdout, io.NopCloser(nil)}
}

// toTerminal reports whether stdout is a terminal.
func (u *ui) toTerminal() bool {
	out := u.stdout
	if r, ok := out.(*results); ok {
		out = r.to
	}
	return isTerminal(out)
}

// machineConsole returns the terminal as the console of an emulated machine, which may send
// any control characters.
func (u *ui) machineConsole() io.Writer { return u.stdout }

// leaves sets what an interrupt leaves behind from now on.
func (u *ui) leaves(state string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.state = state
}

// SetLeft sets what a disk contains if the program ends now; empty: what it should.
func (u *ui) SetLeft(disk string, left flash.State) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.left == nil {
		u.left = map[string]flash.State{}
	}
	if u.left[disk] = left; left == "" {
		delete(u.left, disk)
	}
}

// beforeEnd sets a function that is called if the command does not end after an interrupt.
func (u *ui) beforeEnd(do func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.last = do
}

// end calls the function that beforeEnd has set.
func (u *ui) end() {
	u.mu.Lock()
	do := u.last
	u.mu.Unlock()
	if do != nil {
		do()
	}
}

// interrupted returns the error of an interrupted command, with what it leaves behind.
func (u *ui) interrupted() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	var left []string
	for _, disk := range slices.Sorted(maps.Keys(u.left)) {
		left = append(left, deploy.LeftText(disk, u.left[disk]))
	}
	if u.state != "" {
		left = append(left, u.state)
	}
	if len(left) == 0 {
		return errors.New("interrupted")
	}
	return errors.New("interrupted: " + strings.Join(left, "; "))
}

func (u *ui) fail(err error, status int) {
	advice := fault.Hint(err)
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
		u.mu.Lock()
		if len(u.left) > 0 {
			e["disks"] = u.left
		}
		u.mu.Unlock()
		u.event(e)
		return
	}
	for _, line := range errorLines(err) {
		u.line("imgtool: %s", line)
	}
	if advice != "" {
		u.line("imgtool: %s", advice)
	}
	if status == exitUsage {
		u.line("imgtool: see imgtool --help")
	}
}

// errorLines returns the text of an error, a line for each of several joined errors. Other
// line ends in it come from names and messages.
func errorLines(err error) []string {
	text := err.Error()
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var lines, whole []string
		for _, e := range joined.Unwrap() {
			lines, whole = append(lines, errorLines(e)...), append(whole, e.Error())
		}
		if strings.Join(whole, "\n") == text {
			return lines
		}
	} else if inner := errors.Unwrap(err); inner != nil {
		if before, ok := strings.CutSuffix(text, inner.Error()); ok {
			lines := errorLines(inner)
			return append([]string{before + lines[0]}, lines[1:]...)
		}
	}
	return []string{text}
}

func (u *ui) event(e map[string]any) {
	b, _ := json.Marshal(e)
	u.stderr.Write(append(sanitize.JSON(b), '\n'))
}

// print writes a result as JSON.
func (u *ui) print(v any) error {
	text, err := encode(v, "  ")
	if err == nil {
		_, err = u.stdout.Write(append(text, '\n'))
	}
	return err
}

// encode returns v as JSON, in one line if indent is empty.
func encode(v any, indent string) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", indent)
	err := e.Encode(v)
	return sanitize.JSON(bytes.TrimSuffix(b.Bytes(), []byte("\n"))), err
}

// confirm asks a question, and returns an error unless the answer is "yes". Names in the
// question must be sanitized.
func (u *ui) confirm(ctx context.Context, question string) error {
	line, err := u.answer(ctx, question+"\nType yes to go on: ", "pass --yes to write without a question")
	if err == nil && line != "yes" {
		err = fault.New(fault.Refused, "nothing is written: the answer was not yes")
	}
	return err
}

// choose lets the user choose from a list, and returns the index.
func (u *ui) choose(ctx context.Context, title string, list []string) (int, error) {
	var b strings.Builder
	fmt.Fprintln(&b, title)
	for i, s := range list {
		b.WriteString(sanitize.Sprintf("%3d  %s\n", i+1, s))
	}
	fmt.Fprint(&b, "Type a number: ")
	line, err := u.answer(ctx, b.String(), "name the disk; there is "+strings.Join(list, "; and "))
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(line)
	if err != nil || n < 1 || n > len(list) {
		return 0, fault.New(fault.Usage, "%q is not a number from 1 to %d", line, len(list))
	}
	return n - 1, nil
}

// answer returns the line that the user types. without says what to do if standard input is
// not a terminal.
func (u *ui) answer(ctx context.Context, question, without string) (string, error) {
	if !isTerminal(u.in) {
		return "", fault.New(fault.Usage, "standard input is not a terminal: %s", without)
	}
	line, err := u.await(ctx, question, func() (string, error) { return readLine(u.in) })
	return strings.TrimSpace(line), err
}

// secret returns an answer that is not shown.
func (u *ui) secret(ctx context.Context, question, without string) (string, error) {
	if !isTerminal(u.in) {
		return "", fault.New(fault.Usage, "standard input is not a terminal: %s", without)
	}
	fd := int(u.in.(*os.File).Fd())
	shown, err := term.GetState(fd)
	if err != nil {
		return "", err
	}
	// After an interrupt too, the terminal must show what is typed.
	defer func() {
		term.Restore(fd, shown)
		u.line("")
	}()
	return u.await(ctx, question, func() (string, error) {
		b, err := term.ReadPassword(fd)
		return string(b), err
	})
}

func (u *ui) await(ctx context.Context, question string, read func() (string, error)) (string, error) {
	u.EndPhase()
	io.WriteString(u.stderr, sanitize.Text(question))
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
		u.line("")
		return "", context.Cause(ctx)
	case a := <-answers:
		return a.line, a.err
	}
}

// readLine reads a line, and nothing after it.
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
