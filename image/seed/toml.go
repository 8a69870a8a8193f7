package seed

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// The device reads TOML 1.0 with integers of any size, and accepts a lone CR as a line end.
// go-toml's parser accepts TOML 1.1 (line ends and final commas in inline tables, the escapes
// \x and \e), stops at the first error, and does not tell escaped from literal @{, so the
// package has its own reader.

const (
	maxNesting = 64   // no list or inline table of a valid document is nested deeper than 5
	maxDigits  = 4300 // of an integer; the limit of the device's parser
	maxErrors  = 50
	maxValues  = 1 << 20 // bounds memory; the device has no such limit
)

type reader struct {
	src     string
	pos     int
	line    int
	counted int // offset whose line is line
	section int // number of headers so far
	nesting int
	values  int // number of values and parts of keys
	root    *value
	faults  []Fault
	lost    bool // keys or tables could not be read, so missing keys are not faults

	// Of a template; see fill.go.
	columns  map[string]string // values by column; nil: not a template
	edits    []edit
	holes    []hole // in the current string
	unfilled bool   // a column in the current string has no value
	notes    []Fault
}

// syntaxError is the panic value of a syntax error.
type syntaxError struct {
	pos    int
	format string
	args   []any
}

func (r *reader) fail(format string, args ...any) {
	panic(syntaxError{r.pos, format, args})
}

// failFrom reports an error at an earlier position, such as where a list without an end begins.
func (r *reader) failFrom(begin int, format string, args ...any) {
	panic(syntaxError{begin, format, args})
}

func (r *reader) fault(line int, key []string, format string, args ...any) {
	r.faults = append(r.faults, newFault(line, dotted(key...), false, format, args...))
}

func (r *reader) lineAt(pos int) int {
	if pos < r.counted {
		return 1 + strings.Count(r.src[:pos], "\n")
	}
	r.line += strings.Count(r.src[r.counted:pos], "\n")
	r.counted = pos
	return r.line
}

var newlines = strings.NewReplacer("\r\n", "\n", "\r", "\n")

// newReader reads a document, or with columns a template. Parts with syntax errors are faults
// and are left out.
func newReader(src []byte, columns map[string]string) *reader {
	if !utf8.Valid(src) {
		good := 0
		for good < len(src) {
			c, n := utf8.DecodeRune(src[good:])
			if c == utf8.RuneError && n == 1 {
				break
			}
			good += n
		}
		line := 1 + strings.Count(newlines.Replace(string(src[:good])), "\n")
		return &reader{root: newTable(1), lost: true, faults: []Fault{newFault(line, "", false, "byte %#02x is not UTF-8; the file must be UTF-8 text", src[good])}}
	}
	r := &reader{src: newlines.Replace(string(src)), line: 1, root: newTable(1), columns: columns}
	if strings.HasPrefix(r.src, "\ufeff") {
		r.fault(1, nil, "the file begins with a byte order mark, which the device does not take")
		r.pos = len("\ufeff")
	}
	here := r.root
	for len(r.faults) < maxErrors && r.pos < len(r.src) {
		here = r.statement(here)
	}
	return r
}

// statement reads a key with its value, a header or an empty line, and returns the table that
// the next key belongs to. After an error it continues at the next line that looks like a
// statement.
func (r *reader) statement(here *value) (next *value) {
	next = here
	header := false
	defer func() {
		if e := recover(); e != nil {
			err, ok := e.(syntaxError)
			if !ok {
				panic(e)
			}
			r.nesting = 0
			r.fault(r.lineAt(err.pos), nil, err.format, err.args...)
			if header {
				// The next keys belong to a table of unknown name.
				next = newTable(0)
				r.lost = true
			}
			r.resume(err.pos)
		}
	}()
	r.space()
	switch c := r.peek(); {
	case c == '\n' || c == '#' || r.pos == len(r.src):
	case c == '[':
		header = true
		next = r.header()
	default:
		r.keyValue(here)
	}
	r.space()
	r.comment()
	if r.pos < len(r.src) && r.src[r.pos] != '\n' {
		r.fail("%s is unexpected; a line ends after its value", r.what())
	}
	r.pos++
	return next
}

// resume skips to the next line that looks like a statement.
func (r *reader) resume(pos int) {
	r.pos = pos
	for {
		i := strings.IndexByte(r.src[min(r.pos, len(r.src)):], '\n')
		if i < 0 {
			r.pos = len(r.src)
			return
		}
		r.pos += i + 1
		line, _, _ := strings.Cut(r.src[r.pos:], "\n")
		line = strings.TrimLeft(line, " \t")
		name := strings.TrimLeft(line, bareKey+`."'`)
		if strings.HasPrefix(line, "[") && !strings.HasPrefix(line, `["`) || len(name) < len(line) && strings.HasPrefix(strings.TrimLeft(name, " \t"), "=") {
			return
		}
	}
}

const bareKey = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"

func (r *reader) peek() byte {
	if r.pos < len(r.src) {
		return r.src[r.pos]
	}
	return 0
}

func (r *reader) has(prefix string) bool { return strings.HasPrefix(r.src[r.pos:], prefix) }

func (r *reader) take(prefix string) bool {
	if !r.has(prefix) {
		return false
	}
	r.pos += len(prefix)
	return true
}

// what describes the next character for messages.
func (r *reader) what() any {
	if r.pos >= len(r.src) {
		return "the end of the file"
	}
	if r.src[r.pos] == '\n' {
		return "the end of the line"
	}
	c, _ := utf8.DecodeRuneInString(r.src[r.pos:])
	return shown(strconv.QuoteRune(c))
}

func (r *reader) space() {
	for r.pos < len(r.src) && (r.src[r.pos] == ' ' || r.src[r.pos] == '\t') {
		r.pos++
	}
}

// comment skips a comment, if there is one, up to the end of its line.
func (r *reader) comment() {
	if r.peek() != '#' {
		return
	}
	for r.pos < len(r.src) && r.src[r.pos] != '\n' {
		if control(r.src[r.pos]) {
			r.fail("%s is not allowed in a comment", r.what())
		}
		r.pos++
	}
}

// blank skips white space, line ends and comments.
func (r *reader) blank() {
	for {
		r.space()
		r.comment()
		if !r.take("\n") {
			return
		}
	}
}

func control(c byte) bool { return c < ' ' && c != '\t' || c == 0x7f }

// header reads [a.b] or [[a.b]] and returns the table.
func (r *reader) header() *value {
	line := r.lineAt(r.pos)
	closing := "]"
	r.pos++
	if r.take("[") {
		closing = "]]"
	}
	r.space()
	key := r.key()
	if !r.take(closing) {
		r.fail("%s is unexpected; the name of a table ends with %q", r.what(), closing)
	}
	r.section++
	refuse := func(format string, args ...any) *value {
		r.fault(line, key, format, args...)
		r.lost = true
		return newTable(line)
	}
	v := r.root
	last := len(key) - 1
	for _, k := range key[:last] {
		w := v.table[k]
		if w == nil {
			w = newTable(line)
			v.put(k, w)
		}
		if w.kind == list && !w.inline {
			w = w.items[len(w.items)-1]
		}
		if w.kind != table || w.inline {
			return refuse("%s is already in line %d, and is not a table that can be extended", k, w.line)
		}
		v = w
	}
	w := v.table[key[last]]
	if closing == "]]" {
		if w == nil {
			w = &value{kind: list, line: line, declared: true}
			v.put(key[last], w)
		}
		if w.kind != list || w.inline {
			return refuse("is already in line %d", w.line)
		}
		item := newTable(line)
		item.declared = true
		w.items = append(w.items, item)
		return item
	}
	switch {
	case w == nil:
		w = newTable(line)
		v.put(key[last], w)
	case w.kind != table || w.declared || w.sectionOf != 0 || w.inline:
		return refuse("is already in line %d", w.line)
	}
	w.declared = true
	w.line = line
	return w
}

func (r *reader) keyValue(here *value) {
	line := r.lineAt(r.pos)
	known := false
	var key []string
	defer func() {
		// A key with a syntax error in its value is not missing.
		if e := recover(); e != nil {
			if known {
				if at := r.nest(here, key, line, nil); at != nil && at.table[key[len(key)-1]] == nil {
					at.put(key[len(key)-1], &value{kind: broken, line: line})
				}
			} else {
				r.lost = true
			}
			panic(e)
		}
	}()
	key = r.key()
	if !r.take("=") {
		r.fail("%s is unexpected; a key is followed by = and a value", r.what())
	}
	known = true
	r.space()
	v := r.value()
	v.line = line
	refuse := func(old *value) { r.fault(line, key, "is already in line %d", old.line) }
	if at := r.nest(here, key, line, refuse); at != nil {
		last := key[len(key)-1]
		if old := at.table[last]; old != nil {
			refuse(old)
			return
		}
		at.put(last, v)
	}
}

// nest returns the table that contains the last part of a dotted key, or nil.
func (r *reader) nest(v *value, key []string, line int, refuse func(*value)) *value {
	for _, k := range key[:len(key)-1] {
		w := v.table[k]
		if w == nil {
			w = newTable(line)
			v.put(k, w)
		}
		// Dotted keys can extend only tables that dotted keys of the same section created.
		if w.kind != table || w.inline || w.declared || w.sectionOf != 0 && w.sectionOf != r.section+1 {
			if refuse != nil {
				refuse(w)
			}
			return nil
		}
		w.sectionOf = r.section + 1
		v = w
	}
	return v
}

// key reads a dotted key and the space after it.
func (r *reader) key() []string {
	var key []string
	for {
		r.count()
		switch c := r.peek(); {
		case c == '"':
			key = append(key, r.basic(false))
		case c == '\'':
			key = append(key, r.literal())
		default:
			rest := strings.TrimLeft(r.src[r.pos:], bareKey)
			n := len(r.src) - r.pos - len(rest)
			if n == 0 {
				r.fail("%s is unexpected; a key is letters, digits, _ and -, or in quotes", r.what())
			}
			key = append(key, r.src[r.pos:r.pos+n])
			r.pos += n
		}
		r.space()
		if !r.take(".") {
			return key
		}
		r.space()
	}
}
