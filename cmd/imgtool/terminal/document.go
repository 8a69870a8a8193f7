package terminal

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"imgtool/image"
	"imgtool/image/fault"
	"imgtool/image/sanitize"
	"imgtool/image/sign"
)

// document is the one JSON document that a command leaves on standard output with --json. It is
// written at the end, when it is known whether the command failed: what the command passed to
// [UI.Print] or else wrote as data, and with an error the fields of the error.
type document struct {
	mu     sync.Mutex
	result []byte // what Print was given, as JSON
	data   *data  // what was written otherwise, or nil
	taken  bool   // it was written, or is written by a List

	listing atomic.Bool // a List is being written
}

// data is the output of a command whose result is not JSON, as fields of the document: its size
// and either text or base64.
type data struct {
	size    int64
	start   []byte         // all, if that is at most maxText
	encoder io.WriteCloser // of base64, once there is more
}

// maxText is the size up to which data are text in the document, if they are UTF-8.
const maxText = 1 << 20

// A field is a name in a JSON object and its value.
type field struct {
	name  string
	value any
}

// out is standard output as commands write data to it.
type out struct{ u *UI }

func (o out) Write(p []byte) (int, error) {
	if !o.u.documented() {
		return o.u.stdout.Write(p)
	}
	return o.u.collect(p)
}

// documented reports whether standard output is a JSON document.
func (u *UI) documented() bool { return u.JSON && !u.Completing }

// collect takes data for the document.
func (u *UI) collect(p []byte) (int, error) {
	u.doc.mu.Lock()
	defer u.doc.mu.Unlock()
	if u.doc.taken {
		return 0, errEnded
	}
	if u.doc.data == nil {
		u.doc.data = &data{}
	}
	d := u.doc.data
	d.size += int64(len(p))
	if d.encoder == nil {
		if d.start = append(d.start, p...); len(d.start) <= maxText {
			return len(p), nil
		}
		if _, err := io.WriteString(u.stdout, "{\n  \"base64\": \""); err != nil {
			return 0, err
		}
		d.encoder = base64.NewEncoder(base64.StdEncoding, u.stdout)
		_, err := d.encoder.Write(d.start)
		return len(p), err
	}
	return d.encoder.Write(p)
}

var errEnded = errors.New("the program ends")

// Print sets the result of the command, which is printed as JSON when it ends.
func (u *UI) Print(v any) (err error) {
	u.doc.mu.Lock()
	defer u.doc.mu.Unlock()
	if u.doc.result != nil {
		return errors.New("a command has one result")
	}
	u.doc.result, err = Encode(v, "  ")
	return err
}

// WriteJSON writes a result that is JSON anyway.
func (u *UI) WriteJSON(text []byte) error {
	if u.documented() {
		return u.Print(json.RawMessage(text))
	}
	return u.Write(text)
}

// List begins a result that is a list, and that is printed one element at a time.
func (u *UI) List() *List {
	u.doc.mu.Lock()
	defer u.doc.mu.Unlock()
	l := &List{u: u, w: bufio.NewWriter(u.stdout), late: u.doc.taken}
	u.doc.taken = true
	u.doc.listing.Store(true)
	return l
}

// List is a JSON list on standard output.
type List struct {
	u    *UI
	w    *bufio.Writer
	n    int
	late bool // the document was written already, because the program ends
}

// Add adds an element.
func (l *List) Add(v any) error {
	if l.late {
		return errEnded
	}
	line, err := Encode(v, "")
	if err != nil {
		return err
	}
	separator := "[\n"
	if l.n > 0 {
		separator = ",\n"
	}
	l.n++
	l.w.WriteString(separator)
	_, err = l.w.Write(line)
	return err
}

// Close ends the list.
func (l *List) Close() error {
	if l.late {
		return errEnded
	}
	if l.n == 0 {
		l.w.WriteString("[")
	}
	l.w.WriteString("\n]\n")
	defer l.u.doc.listing.Store(false)
	return l.w.Flush()
}

// Conclude writes the document of --json, with the error that ends the command, or nil. It returns
// the first error of writing to standard output. It ends the program if the reader is gone.
func (u *UI) Conclude(err error, status int) error {
	if !u.documented() {
		return u.Lost()
	}
	u.doc.mu.Lock()
	defer u.doc.mu.Unlock()
	if u.doc.taken {
		return u.Lost()
	}
	u.doc.taken = true
	var more []field
	switch {
	case err != nil:
		more = u.failure(err, status)
	case status != 0 || u.doc.result == nil && u.doc.data == nil:
		more = []field{{"status", status}}
	}
	if d := u.doc.data; d != nil && d.encoder != nil {
		d.encoder.Close()
		io.WriteString(u.stdout, "\"")
		for _, f := range append([]field{{"size", d.size}}, more...) {
			name, _ := Encode(f.name, "")
			value, _ := Encode(f.value, "")
			io.WriteString(u.stdout, ",\n  "+string(name)+": "+string(value))
		}
		io.WriteString(u.stdout, "\n}\n")
		return u.Lost()
	}
	u.stdout.Write(append(u.doc.with(more), '\n'))
	return u.Lost()
}

// with returns the document with more fields. If the result is a list, it is a field then.
func (d *document) with(more []field) []byte {
	if len(more) == 0 && d.data == nil {
		return d.result
	}
	fields := members(d.result)
	if fields == nil && d.result != nil {
		fields = []field{{"result", json.RawMessage(d.result)}}
	}
	if d.data != nil {
		if utf8.Valid(d.data.start) {
			fields = append(fields, field{"text", string(d.data.start)})
		} else {
			fields = append(fields, field{"base64", d.data.start})
		}
		fields = append(fields, field{"size", d.data.size})
	}
	for _, f := range more {
		fields = set(fields, f)
	}
	var b bytes.Buffer
	for i, f := range fields {
		b.WriteString(map[bool]string{true: "{", false: ","}[i == 0])
		name, _ := Encode(f.name, "")
		value, _ := Encode(f.value, "")
		b.Write(name)
		b.WriteByte(':')
		b.Write(value)
	}
	b.WriteByte('}')
	var indented bytes.Buffer
	json.Indent(&indented, b.Bytes(), "", "  ")
	return indented.Bytes()
}

// members returns the fields of a JSON object in their order, or nil if it is something else.
func members(object []byte) (fields []field) {
	d := json.NewDecoder(bytes.NewReader(object))
	if start, err := d.Token(); err != nil || start != json.Delim('{') {
		return nil
	}
	for d.More() {
		name, err := d.Token()
		var value json.RawMessage
		if err == nil {
			err = d.Decode(&value)
		}
		if err != nil {
			return nil
		}
		fields = append(fields, field{name.(string), value})
	}
	return fields
}

// set returns fields with one replaced or added.
func set(fields []field, f field) []field {
	for i := range fields {
		if fields[i].name == f.name {
			fields[i] = f
			return fields
		}
	}
	return append(fields, f)
}

// failure returns the fields that describe an error.
func (u *UI) failure(err error, status int) []field {
	fields := []field{{"status", status}}
	add := func(name, value string) {
		if value != "" {
			fields = append(fields, field{name, value})
		}
	}
	add("kind", strings.ReplaceAll(fault.Kind(err), " ", "_"))
	add("reason", fault.Reason(err))
	add("error", fault.Replacer(err).Replace(err.Error()))
	add("hint", fault.Hint(err))
	if refused, ok := errors.AsType[*sign.Error](err); ok && len(refused.Signatures) > 0 {
		fields = append(fields, field{"signatures", refused.Signatures})
	}
	var wrong *image.MismatchError
	if errors.As(err, &wrong) {
		fields = append(fields, field{"offset", wrong.Off}, field{"length", wrong.Len})
		add("expected", wrong.Want)
		add("got", wrong.Got)
		add("partition", wrong.Partition)
		add("file", wrong.File)
		if wrong.File != "" && wrong.FileOff >= 0 {
			fields = append(fields, field{"file_offset", wrong.FileOff})
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.left) > 0 {
		fields = append(fields, field{"disks", u.left})
	}
	return fields
}

// Event writes a JSON object for machines to stderr.
func (u *UI) Event(e map[string]any) {
	b, _ := json.Marshal(e)
	u.stderr.Write(append(sanitize.JSON(b), '\n'))
}

// Encode returns v as JSON, in one line if indent is empty.
func Encode(v any, indent string) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", indent)
	err := e.Encode(v)
	return sanitize.JSON(bytes.TrimSuffix(b.Bytes(), []byte("\n"))), err
}

// Abort ends a command that does not end by itself, and returns the exit status. It does not wait
// for a reader of standard output that takes nothing.
func (u *UI) Abort(err error, status int) int {
	concluded := make(chan bool)
	go func() {
		u.Conclude(err, status)
		close(concluded)
	}()
	const patience = time.Second
	select {
	case <-concluded:
	case <-time.After(patience):
	}
	for before := int64(-1); u.doc.listing.Load() && before != u.stdout.written.Load(); time.Sleep(patience) {
		before = u.stdout.written.Load()
	}
	u.Fail(err, status)
	return status
}
