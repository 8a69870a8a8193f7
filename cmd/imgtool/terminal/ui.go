// Package terminal has the user interface of imgtool: messages, progress, questions and
// results, on a terminal, in a log or as JSON, and the signals that end a command.
package terminal

import (
	"bufio"
	"context"
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
	"imgtool/image/compress"
	"imgtool/image/fault"
	"imgtool/image/oci"
	"imgtool/image/sanitize"
	"imgtool/image/volume"
)

// UI writes everything that users see. Data go to stdout, messages to stderr: without
// capitals and full stops, except in whole paragraphs. On a terminal a phase is a bar that
// disappears when it is done; in a log it is a line when it begins and one every ten seconds;
// with --json it is an object a line. It is the reporter of the packages that do the work.
//
// Text from outside is sanitized here: in each argument of Printf, Infof and Warnf, each line
// of an error and of a question, and each string of JSON, so that no name or message can
// control a terminal. Only Write, Data and Console pass bytes on unchanged. A test checks that
// nothing else in the program writes to stdout or stderr.
type UI struct {
	In       io.Reader
	JSON     bool
	Plain    bool            // write lines and draw nothing
	Unpacked compress.Budget // for scratch files
	Started  bool            // the command line is valid
	Context  context.Context // ends when the program is interrupted

	Fetched  atomic.Int64 // bytes that came from servers
	Registry oci.Options  // of images in registries

	Completing bool // a shell asks what can be typed

	stdout   *results
	stderr   io.Writer
	terminal bool

	mu     sync.Mutex
	phase  *phase
	before *phase   // the phase that ended last
	rows   []*phase // of several disks
	steps  *steps   // nil unless phases were announced
	screen block
	state  string                 // what an interrupt leaves behind, apart from disks
	left   map[string]flash.State // what disks contain that are not written completely

	writing atomic.Int32 // disks are being written: a closed terminal does not interrupt
	last    func()       // called before an interrupted program ends, or nil
	doc     document
}

// New returns a UI. Its standard input, output and error are usually the program's.
func New(stdin io.Reader, stdout, stderr io.Writer) *UI {
	return &UI{In: stdin, stdout: &results{to: stdout}, stderr: stderr}
}

// Start is called when the command line is valid.
func (u *UI) Start() {
	u.Started = true
	name := os.Getenv("TERM")
	u.terminal = !u.JSON && !u.Plain && isTerminal(u.stderr) && name != "" && name != "dumb" && os.Getenv("NO_COLOR") == ""
}

func isTerminal(file any) bool {
	f, ok := file.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// Opening returns how commands open images.
func (u *UI) Opening() volume.Options {
	return volume.Options{Stdin: u.In, Scratch: &u.Unpacked, Reporter: u, Context: u.Context, Count: func(n int64) { u.Fetched.Add(n) }, Registry: u.Registry}
}

// Infof shows a message.
func (u *UI) Infof(format string, args ...any) {
	u.EndPhase()
	u.message("message", "", format, args)
}

// Warnf shows a warning.
func (u *UI) Warnf(format string, args ...any) {
	u.EndPhase()
	u.message("warning", "imgtool: warning: ", format, args)
}

// Warn shows a warning that is formatted already.
func (u *UI) Warn(text string) { u.Warnf("%s", text) }

// message writes a line with a prefix, or a JSON event.
func (u *UI) message(event, prefix, format string, args []any) {
	if u.JSON {
		u.Event(map[string]any{"event": event, "message": fmt.Sprintf(format, args...)})
		return
	}
	u.Line(prefix+format, args...)
}

// Line writes a line to stderr.
func (u *UI) Line(format string, args ...any) {
	io.WriteString(u.stderr, sanitize.Sprintf(format+"\n", args...))
}

// Printf writes text to stdout. Line ends in arguments are escaped.
func (u *UI) Printf(format string, args ...any) error {
	_, err := io.WriteString(out{u}, sanitize.Sprintf(format, args...))
	return err
}

// Listing returns a buffer for many lines. It must be flushed.
func (u *UI) Listing() *Lines { return &Lines{bufio.NewWriter(out{u})} }

// Lines are lines for standard output.
type Lines struct{ w *bufio.Writer }

// Printf adds text. Line ends in arguments are escaped.
func (l *Lines) Printf(format string, args ...any) {
	l.w.WriteString(sanitize.Sprintf(format, args...))
}

// Flush writes the rest. It returns the first error of writing.
func (l *Lines) Flush() error { return l.w.Flush() }

// Text writes text of several lines to stdout.
func (u *UI) Text(s string) error {
	_, err := io.WriteString(out{u}, sanitize.Text(s))
	return err
}

// Write writes data to stdout: unchanged, or sanitized if it is a terminal.
func (u *UI) Write(data []byte) error {
	if u.ToTerminal() {
		return u.Text(string(data))
	}
	_, err := out{u}.Write(data)
	return err
}

// Data returns a writer that does the same for data in pieces. It must be closed.
func (u *UI) Data() io.WriteCloser {
	if u.ToTerminal() {
		return sanitize.NewWriter(out{u})
	}
	return struct {
		io.Writer
		io.Closer
	}{out{u}, io.NopCloser(nil)}
}

// ToTerminal reports whether data go to a terminal.
func (u *UI) ToTerminal() bool {
	return !u.documented() && isTerminal(u.stdout.to)
}

// Console returns the terminal as the console of an emulated machine, which may send
// any control characters.
func (u *UI) Console() io.Writer { return u.stdout }

// Leaves sets what an interrupt leaves behind from now on.
func (u *UI) Leaves(state string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.state = state
}

// SetLeft sets what a disk contains if the program ends now; empty: what it should.
func (u *UI) SetLeft(disk string, left flash.State) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.left == nil {
		u.left = map[string]flash.State{}
	}
	if u.left[disk] = left; left == "" {
		delete(u.left, disk)
	}
}

// BeforeEnd sets a function that is called if the command does not end after an interrupt.
func (u *UI) BeforeEnd(do func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.last = do
}

// End calls the function that BeforeEnd has set.
func (u *UI) End() {
	u.mu.Lock()
	do := u.last
	u.mu.Unlock()
	if do != nil {
		do()
	}
}

// Interrupted returns the error of an interrupted command, with what it leaves behind.
func (u *UI) Interrupted() error {
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

// Fail shows the error that ends the command, and advice.
func (u *UI) Fail(err error, status int) {
	if u.JSON {
		e := map[string]any{"event": "error"}
		for _, f := range u.failure(err, status) {
			e[f.name] = f.value
		}
		u.Event(e)
		return
	}
	advice, plain := fault.Hint(err), fault.Replacer(err)
	for _, line := range errorLines(err) {
		u.Line("imgtool: %s", plain.Replace(line))
	}
	if advice != "" {
		u.Line("imgtool: %s", advice)
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

// Confirm asks a question until the answer is yes or no, and returns an error unless it is yes.
// Names in the question must be sanitized.
func (u *UI) Confirm(ctx context.Context, question string) error {
	prompt := u.wrapped(question) + "\nType yes to go on [y/N] "
	for {
		line, err := u.Answer(ctx, prompt, "pass --yes to write without a question")
		if err != nil {
			return err
		}
		switch strings.ToLower(line) {
		case "y", "yes":
			return nil
		case "", "n", "no":
			return fault.New(fault.Refused, "nothing is written: the answer was not yes")
		}
		prompt = "Answer y for yes, or n for no: "
	}
}

// Paragraph shows a message that is wrapped between words on a terminal.
func (u *UI) Paragraph(text string) {
	if !u.drawing() {
		u.Infof("%s", text)
		return
	}
	u.EndPhase()
	io.WriteString(u.stderr, u.wrapped(sanitize.Line(text))+"\n")
}

// wrapped breaks the lines of a text that are longer than the terminal is wide.
func (u *UI) wrapped(text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		lines[i] = Wrap(line, widthOf(u.stderr)-4, "   ")
	}
	return strings.Join(lines, "\n")
}

// Choose lets the user choose from a list until the answer is one of its numbers, and returns
// the index.
func (u *UI) Choose(ctx context.Context, title string, list []string) (int, error) {
	var b strings.Builder
	fmt.Fprintln(&b, title)
	for i, s := range list {
		fmt.Fprintf(&b, "%3d  %s\n", i+1, Wrap(sanitize.Line(s), widthOf(u.stderr)-6, "     "))
	}
	fmt.Fprintf(&b, "Type a number, or nothing to stop: ")
	for prompt := b.String(); ; prompt = fmt.Sprintf("Type a number from 1 to %d, or nothing to stop: ", len(list)) {
		line, err := u.Answer(ctx, prompt, "name the disk; there is "+strings.Join(list, "; and "))
		if err != nil {
			return 0, err
		}
		if line == "" {
			return 0, fault.New(fault.Refused, "nothing is written: no disk was chosen")
		}
		if n, err := strconv.Atoi(line); err == nil && n >= 1 && n <= len(list) {
			return n - 1, nil
		}
	}
}

// Answer returns the line that the user types. without says what to do if standard input is
// not a terminal.
func (u *UI) Answer(ctx context.Context, question, without string) (string, error) {
	if !isTerminal(u.In) {
		return "", fault.New(fault.Usage, "standard input is not a terminal: %s", without)
	}
	line, err := u.await(ctx, question, func() (string, error) { return readLine(u.In) })
	if err == io.EOF {
		u.newLine()
		err = fault.New(fault.Refused, "nothing is written: the question was not answered")
	}
	return strings.TrimSpace(line), err
}

// Secret returns an answer that is not shown.
func (u *UI) Secret(ctx context.Context, question, without string) (string, error) {
	if !isTerminal(u.In) {
		return "", fault.New(fault.Usage, "standard input is not a terminal: %s", without)
	}
	fd := int(u.In.(*os.File).Fd())
	shown, err := term.GetState(fd)
	if err != nil {
		return "", err
	}
	// After an interrupt too, the terminal must show what is typed.
	defer func() {
		term.Restore(fd, shown)
		u.newLine()
	}()
	return u.await(ctx, question, func() (string, error) {
		b, err := term.ReadPassword(fd)
		return string(b), err
	})
}

func (u *UI) await(ctx context.Context, question string, read func() (string, error)) (string, error) {
	u.EndPhase()
	if u.JSON {
		u.Event(map[string]any{"event": "question", "message": strings.TrimSpace(question)})
	} else {
		io.WriteString(u.stderr, sanitize.Text(question))
	}
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
		u.newLine()
		return "", context.Cause(ctx)
	case a := <-answers:
		return a.line, a.err
	}
}

// newLine ends the line of a question that has no answer.
func (u *UI) newLine() {
	if !u.JSON {
		u.Line("")
	}
}

// readLine reads a line, and nothing after it. The error at the end of the input, as by Ctrl-D, is
// [io.EOF].
func readLine(r io.Reader) (string, error) {
	var line []byte
	for b := make([]byte, 1); ; {
		n, err := r.Read(b)
		if n == 1 && b[0] == '\n' || err == io.EOF && len(line) > 0 {
			return string(line), nil
		}
		if err != nil {
			return "", err
		}
		line = append(line, b[:n]...)
	}
}
