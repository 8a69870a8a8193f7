package seed

import (
	"fmt"
	"math/big"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"
)

// The device reads TOML 1.0 with integers of any size, and takes a lone CR for a
// line end. The module's TOML library reads 1.1 and 64 bits, and stops at the
// first fault; so this is a reader of its own.

// kind is what a value is.
type kind int

const (
	broken kind = iota // not readable, and said so already
	text
	integer
	boolean
	float
	date
	list
	table
	null // of JSON alone
)

func (k kind) String() string {
	return [...]string{"broken", "a string", "an integer", "a boolean", "a float", "a date or time", "a list", "a table", "null"}[k]
}

// value is a value with the line where it stands.
type value struct {
	kind    kind
	line    int
	text    string
	integer *big.Int
	boolean bool
	shown   string // what messages have instead, if a unit's values are in it: the template's words
	items   []*value
	keys    []string // of a table, in their order
	table   map[string]*value

	declared  bool // by a [header] of its own
	sectionOf int  // the section whose dotted keys made it
	inline    bool // nothing can be added
}

func newTable(line int) *value { return &value{kind: table, line: line, table: map[string]*value{}} }

func (v *value) put(key string, w *value) {
	v.keys = append(v.keys, key)
	v.table[key] = w
}

// at is the value at a path of tables, or nil.
func (v *value) at(path ...string) *value {
	for _, key := range path {
		if v == nil || v.kind != table {
			return nil
		}
		v = v.table[key]
	}
	return v
}

// show quotes a part of a string for messages.
func (v *value) show(part string) string {
	if v.shown != "" {
		part = v.shown
	}
	return strconv.Quote(clip(part))
}

// quoted is show for the arguments of messages.
func (v *value) quoted(part string) shown { return shown(v.show(part)) }

// or is what messages have for what comes of a value; nil is none.
func (v *value) or(what any) shown {
	if v != nil && v.shown != "" {
		return shown(v.shown)
	}
	return shown(fmt.Sprint(what))
}

const (
	maxNesting = 64   // no list or inline table of a valid document is nested deeper than 5
	maxDigits  = 4300 // of an integer: the device's parser takes no more
	maxErrors  = 50
	maxValues  = 1 << 20 // ours, so that a large document takes little memory
)

// reader reads a document.
type reader struct {
	src     string
	pos     int
	line    int
	counted int // line is that of this offset
	section int // counts headers
	nesting int
	values  int // and parts of keys
	root    *value
	faults  []Fault
	lost    bool // keys or tables could not be read, so missing ones say nothing

	// Of a template; see fill.go.
	columns  map[string]string // nil: the document stands as it is
	edits    []edit
	holes    []hole // in the string that is read
	unfilled bool   // one of them has no value
	notes    []Fault
}

// syntaxError is a place that cannot be read.
type syntaxError struct {
	pos    int
	format string
	args   []any
}

func (r *reader) fail(format string, args ...any) {
	panic(syntaxError{r.pos, format, args})
}

// failFrom gives up what runs to the end of the file from a place on.
func (r *reader) failFrom(begin int, format string, args ...any) {
	panic(syntaxError{begin, format, args})
}

func (r *reader) fault(line int, key []string, format string, args ...any) {
	r.faults = append(r.faults, newFault(line, dotted(key...), false, format, args...))
}

// lineAt is the line of an offset.
func (r *reader) lineAt(pos int) int {
	if pos < r.counted {
		return 1 + strings.Count(r.src[:pos], "\n")
	}
	r.line += strings.Count(r.src[r.counted:pos], "\n")
	r.counted = pos
	return r.line
}

var newlines = strings.NewReplacer("\r\n", "\n", "\r", "\n")

// newReader reads a document; what it cannot read is a fault, and is left out. With
// columns it is a template.
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
		return &reader{root: newTable(1), lost: true, faults: []Fault{newFault(line, "", false, "byte %#02x is no UTF-8; the file must be UTF-8 text", src[good])}}
	}
	r := &reader{src: newlines.Replace(string(src)), line: 1, root: newTable(1), columns: columns}
	if strings.HasPrefix(r.src, "\ufeff") {
		r.fault(1, nil, "the file begins with a byte order mark; the device takes none")
		r.pos = len("\ufeff")
	}
	here := r.root
	for len(r.faults) < maxErrors && r.pos < len(r.src) {
		here = r.statement(here)
	}
	return r
}

// statement reads a line, or more if its value has more, and returns the table
// that the next belongs to. After an error it goes on where one seems to begin.
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
				// What follows belongs to a table of unknown name.
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
		r.fail("%s is not expected here; a line ends after its value", r.what())
	}
	r.pos++
	return next
}

// resume goes to the next line that looks like a statement.
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

// what names what stands here.
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
			r.fail("%s cannot be in a comment", r.what())
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

// header reads [a.b] or [[a.b]] and returns that table.
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
		r.fail("%s is not expected here; %q closes the name of a table", r.what(), closing)
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
			return refuse("%s stands in line %d already, and is no table that can be added to", k, w.line)
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
			return refuse("is there already, in line %d", w.line)
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
		return refuse("is there already, in line %d", w.line)
	}
	w.declared = true
	w.line = line
	return w
}

// keyValue reads key = value into a table.
func (r *reader) keyValue(here *value) {
	line := r.lineAt(r.pos)
	known := false
	var key []string
	defer func() {
		// A key without a value is not a missing one.
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
		r.fail("%s is not expected here; a key is followed by = and a value", r.what())
	}
	known = true
	r.space()
	v := r.value()
	v.line = line
	refuse := func(old *value) { r.fault(line, key, "is there already, in line %d", old.line) }
	if at := r.nest(here, key, line, refuse); at != nil {
		last := key[len(key)-1]
		if old := at.table[last]; old != nil {
			refuse(old)
			return
		}
		at.put(last, v)
	}
}

// nest is the table that holds the last part of a dotted key, or nil.
func (r *reader) nest(v *value, key []string, line int, refuse func(*value)) *value {
	for _, k := range key[:len(key)-1] {
		w := v.table[k]
		if w == nil {
			w = newTable(line)
			v.put(k, w)
		}
		// Dotted keys add to what dotted keys of the same section made.
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

// key reads a key with its dots, and the space after it.
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
				r.fail("%s is not expected here; a key is letters, digits, _ and -, or in quotes", r.what())
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

func (r *reader) value() *value {
	r.count()
	v := &value{line: r.lineAt(r.pos)}
	switch c := r.peek(); {
	case r.has(`"""`):
		v.kind, v.text = text, r.long(`"`)
		r.fillIn(v)
	case r.has(`'''`):
		v.kind, v.text = text, r.long(`'`)
		r.fillIn(v)
	case c == '"':
		v.kind, v.text = text, r.basic(true)
		r.fillIn(v)
	case r.columns != nil && r.has("@{"):
		r.bare(v)
	case c == '\'':
		v.kind, v.text = text, r.literal()
		r.fillIn(v)
	case r.take("true"):
		v.kind, v.boolean = boolean, true
	case r.take("false"):
		v.kind = boolean
	case c == '[':
		r.deeper()
		r.list(v)
		r.nesting--
	case c == '{':
		r.deeper()
		r.inlineTable(v)
		r.nesting--
	default:
		r.number(v)
	}
	return v
}

// count gives up a document of too many values.
func (r *reader) count() {
	if r.values++; r.values > maxValues {
		r.pos = len(r.src)
		r.fail("there are more than %d values; no configuration is that large", maxValues)
	}
}

func (r *reader) deeper() {
	if r.nesting++; r.nesting > maxNesting {
		r.fail("lists and tables are nested deeper than %d", maxNesting)
	}
}

func (r *reader) list(v *value) {
	v.kind, v.inline = list, true
	begin := r.pos
	unended := func() {
		if r.pos >= len(r.src) {
			r.failFrom(begin, "the list that begins here has no end")
		}
	}
	r.pos++
	for {
		r.blank()
		if r.take("]") {
			return
		}
		unended()
		v.items = append(v.items, r.value())
		r.blank()
		if r.take("]") {
			return
		}
		unended()
		if !r.take(",") {
			r.fail("%s is not expected here; the items of a list are parted by commas", r.what())
		}
	}
}

func (r *reader) inlineTable(v *value) {
	v.kind, v.table = table, map[string]*value{}
	r.pos++
	r.space()
	if !r.take("}") {
		for {
			line := r.lineAt(r.pos)
			key := r.key()
			if !r.take("=") {
				r.fail("%s is not expected here; a key is followed by = and a value", r.what())
			}
			r.space()
			w := r.value()
			at := v
			for _, k := range key[:len(key)-1] {
				if at.table[k] == nil {
					at.put(k, newTable(line))
				}
				if at = at.table[k]; at.kind != table || at.inline {
					r.fail("%s is there already", dotted(key...))
				}
			}
			last := key[len(key)-1]
			if at.table[last] != nil {
				r.fail("%s is there already", dotted(key...))
			}
			at.put(last, w)
			r.space()
			if r.take("}") {
				break
			}
			if !r.take(",") {
				r.fail("%s is not expected here; a table in braces is on one line, its keys parted by commas", r.what())
			}
			r.space()
			if r.peek() == '}' {
				r.fail("there is a comma before the }, which TOML 1.0 does not take")
			}
		}
	}
	v.inline = true
}

func (r *reader) literal() string {
	r.holes, r.unfilled = nil, false
	start := r.pos + 1
	for r.pos++; ; r.pos++ {
		switch c := r.peek(); {
		case r.pos >= len(r.src) || c == '\n':
			r.fail("the string that begins with ' has no end in its line")
		case c == '\'':
			r.pos++
			return r.src[start : r.pos-1]
		case r.atColumn():
			r.noColumn("in single quotes, where nothing can be escaped: use double quotes")
		case control(c):
			r.fail("%s cannot be in a string", r.what())
		}
	}
}

// basic reads a string, which may be a value or not.
func (r *reader) basic(isValue bool) string {
	r.holes, r.unfilled = nil, false
	var b []byte
	start := r.pos + 1
	for r.pos++; ; {
		switch c := r.peek(); {
		case r.pos >= len(r.src) || c == '\n':
			r.fail(`the string that begins with " has no end in its line`)
		case c == '"':
			b = append(b, r.src[start:r.pos]...)
			r.pos++
			return string(b)
		case c == '\\':
			b = append(b, r.src[start:r.pos]...)
			b = r.escape(b)
			start = r.pos
		case !isValue && r.atColumn():
			r.noColumn("in a key: only a value can be a unit's own")
		case r.atColumn():
			b = append(b, r.src[start:r.pos]...)
			b = r.hole(b, false)
			start = r.pos
		case control(c):
			r.fail("%s cannot be in a string", r.what())
		default:
			r.pos++
		}
	}
}

// long reads a string in three quotes.
func (r *reader) long(quote string) string {
	begin := r.pos
	r.holes, r.unfilled = nil, false
	r.pos += 3
	r.take("\n")
	var b []byte
	for {
		switch c := r.peek(); {
		case r.pos >= len(r.src):
			r.failFrom(begin, "the string that begins here with %s has no end", strings.Repeat(quote, 3))
		case c == quote[0]:
			n := 0
			for n < 5 && r.take(quote) {
				n++
			}
			if n >= 3 {
				// Up to two quotes before the end belong to the string.
				return string(append(b, strings.Repeat(quote, n-3)...))
			}
			b = append(b, strings.Repeat(quote, n)...)
		case c == '\\' && quote == `"`:
			rest := strings.TrimLeft(r.src[r.pos+1:], " \t")
			if strings.HasPrefix(rest, "\n") {
				rest = strings.TrimLeft(rest, " \t\n")
				r.pos = len(r.src) - len(rest)
				continue
			}
			b = r.escape(b)
		case quote == "'" && r.atColumn():
			r.noColumn("in single quotes, where nothing can be escaped: use double quotes")
			b = append(b, c)
		case r.atColumn():
			b = r.hole(b, true)
		case control(c) && c != '\n':
			r.fail("%s cannot be in a string", r.what())
		default:
			b = append(b, c)
			r.pos++
		}
	}
}

// escape reads what begins with a backslash.
func (r *reader) escape(b []byte) []byte {
	at := r.pos
	r.pos++
	c := r.peek()
	r.pos++
	if i := strings.IndexByte(`btnfr"\`, c); i >= 0 {
		return append(b, "\b\t\n\f\r\"\\"[i])
	}
	n := 0
	switch c {
	case 'u':
		n = 4
	case 'U':
		n = 8
	}
	if n > 0 && r.pos+n <= len(r.src) {
		hex := r.src[r.pos : r.pos+n]
		if code, err := strconv.ParseUint(hex, 16, 32); err == nil && code <= utf8.MaxRune && utf8.ValidRune(rune(code)) {
			r.pos += n
			return utf8.AppendRune(b, rune(code))
		}
	}
	r.pos = at
	r.fail(`there is no such escape; there are \b \t \n \f \r \" \\ \uXXXX \UXXXXXXXX`)
	return nil
}

// number reads an integer, a float, a date or a time. The document takes none of
// the last three anywhere, so they are not read further than to name them.
func (r *reader) number(v *value) {
	start := r.pos
	end := start
	for end < len(r.src) && strings.IndexByte(bareKey+"+.:", r.src[end]) >= 0 {
		end++
	}
	word := r.src[start:end]
	digits := func(s string, base int) (string, bool) {
		if s == "" || strings.HasPrefix(s, "_") || strings.HasSuffix(s, "_") || strings.Contains(s, "__") {
			return "", false
		}
		s = strings.ReplaceAll(s, "_", "")
		for _, c := range []byte(s) {
			if d := strings.IndexByte("0123456789abcdef", c|0x20); d < 0 || d >= base || base <= 10 && c > '9' {
				return "", false
			}
		}
		return s, true
	}
	bad := func() {
		if word == "" {
			r.fail("%s is not expected here; a value is a string in quotes, an integer, true, false, a list or a table", r.what())
		}
		r.fail("%q is no value; text stands in quotes", shown(clip(word)))
	}
	sign, number := "", word
	if strings.HasPrefix(word, "+") || strings.HasPrefix(word, "-") {
		sign, number = strings.TrimPrefix(word[:1], "+"), word[1:]
	}
	base := 10
	if sign == "" && number == word {
		for _, p := range []struct {
			prefix string
			base   int
		}{{"0x", 16}, {"0o", 8}, {"0b", 2}} {
			if s, ok := strings.CutPrefix(word, p.prefix); ok {
				base, number = p.base, s
			}
		}
	}
	plain, ok := digits(number, base)
	switch {
	case ok && base == 10 && len(plain) > 1 && plain[0] == '0':
		r.fail("%q begins with a zero, which an integer may not", shown(clip(word)))
	case ok && len(plain) > 5*maxDigits, ok && base == 10 && len(plain) > maxDigits:
		r.fail("an integer of %d digits; the device takes up to %d", len(plain), maxDigits)
	case ok:
		v.kind = integer
		v.integer, _ = new(big.Int).SetString(sign+plain, base)
		if base != 10 && len(v.integer.String()) > maxDigits {
			r.fail("an integer of more than %d digits, which is all the device takes", maxDigits)
		}
	case isDate(word):
		v.kind = date
		// A space may part a date from its time.
		if len(word) == 10 && end+2 < len(r.src) && r.src[end] == ' ' && r.src[end+1] >= '0' && r.src[end+1] <= '9' {
			for end++; end < len(r.src) && strings.IndexByte(bareKey+"+.:", r.src[end]) >= 0; end++ {
			}
		}
	case aFloat.MatchString(number):
		v.kind = float
	default:
		bad()
	}
	r.pos = end
}

var aFloat = regexp.MustCompile(`^(inf|nan|(0|[1-9](_?[0-9])*)(\.[0-9](_?[0-9])*)?([eE][+-]?[0-9](_?[0-9])*)?)$`)

func isDate(s string) bool {
	shape := func(pattern string) bool {
		if len(s) < len(pattern) {
			return false
		}
		for i, p := range []byte(pattern) {
			if p == '0' && (s[i] < '0' || s[i] > '9') || p != '0' && s[i] != p {
				return false
			}
		}
		return true
	}
	return shape("0000-00-00") || shape("00:00:00")
}

// clip shortens a text for a message.
func clip(s string) string {
	const most = 60
	if len(s) <= most {
		return s
	}
	for i := range s {
		if i > most {
			return s[:i] + "…"
		}
	}
	return s
}

// dotted writes the parts of a key with dots, quoting those that need it.
func dotted(key ...string) string {
	var b strings.Builder
	for i, k := range key {
		if i > 0 {
			b.WriteByte('.')
		}
		if k == "" || strings.Trim(k, bareKey) != "" {
			k = strconv.Quote(k)
		}
		b.WriteString(k)
	}
	return b.String()
}
