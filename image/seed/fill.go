package seed

import (
	"maps"
	"math/big"
	"regexp"
	"slices"
	"strings"
)

// A template is a document with per-unit values. In a string in double quotes, @{COLUMN} is
// replaced by the escaped text in that column; outside of quotes, by an integer, true or false.
// Since keys cannot contain @{}, a value adds no line and no key. Comments are not changed.
// The text @{ is written \u0040{.

type edit struct {
	from, to int
	text     string
}

// hole is a range of bytes in a string, which a per-unit value fills.
type hole struct {
	from, to int
	name     string
}

// Fill replaces the columns of a template by the values of a unit. The faults are syntax errors
// of the template, and columns that are missing or empty. They contain the names of columns, but
// no values.
func Fill(template []byte, columns map[string]string) ([]byte, []Fault) {
	return newReader(template, columns).filled()
}

// CheckFilled is [Fill] followed by [Check]. Faults refer to lines and text of the template.
func CheckFilled(template []byte, columns map[string]string) ([]byte, *Config, []Fault) {
	r := newReader(template, columns)
	text, faults := r.filled()
	if text == nil && len(r.faults) > 0 {
		// Report the other faults, too.
		_, faults = judge(nil, r)
	}
	if text == nil {
		return nil, nil, faults
	}
	c, faults := judge(text, r)
	// The text must have the same verdict as the template that was checked.
	if again, _ := Check(text); (again == nil) != (c == nil) {
		panic("seed: internal error: a filled template differs from the template that was read")
	}
	return text, c, faults
}

func (r *reader) filled() ([]byte, []Fault) {
	if len(r.faults) > 0 {
		return nil, r.faults
	}
	b := make([]byte, 0, len(r.src))
	at := 0
	for _, e := range r.edits {
		b = append(b, r.src[at:e.from]...)
		b = append(b, e.text...)
		at = e.to
	}
	if b = append(b, r.src[at:]...); len(b) > MaxUpload {
		return nil, []Fault{newFault(1, "", false, "with its values it has %d bytes; the device takes up to %d", len(b), MaxUpload)}
	}
	return b, nil
}

// atColumn reports whether a column is next. In a document that is not a template, it adds a
// warning and returns false.
func (r *reader) atColumn() bool {
	if !r.has("@{") {
		return false
	}
	if r.columns != nil {
		return true
	}
	if name := column.FindString(r.src[r.pos:]); name != "" && len(r.notes) < maxErrors {
		r.notes = append(r.notes, newFault(r.lineAt(r.pos), "", true, "%s is kept as it is: no values were given", shown(name)))
	}
	return false
}

var (
	column = regexp.MustCompile(`^@\{[^@{}"\\\x00-\x1f\x7f]+\}`)
	// No place of a configuration takes an integer of more than 64 bits.
	bareValue = regexp.MustCompile(`^(true|false|-?(0|[1-9][0-9]{0,17}))$`)
)

// noColumn reports a column in a place where it is not allowed, and skips its @.
func (r *reader) noColumn(where string) {
	name := column.FindString(r.src[r.pos:])
	if name == "" {
		name = "@{"
	}
	r.fault(r.lineAt(r.pos), nil, "%s %s", name, where)
	r.unfilled = true
	r.pos++
}

// column reads @{COLUMN} and returns its value.
func (r *reader) column() (name, value string, ok bool) {
	line := r.lineAt(r.pos)
	name = column.FindString(r.src[r.pos:])
	if name == "" {
		r.fault(line, nil, `@{ is not followed by the name of a column and a }; for the text itself write \u0040{`)
		r.pos += len("@{")
		return "@{", "", false
	}
	r.pos += len(name)
	value, ok = r.columns[name[2:len(name)-1]]
	switch {
	case !ok:
		r.fault(line, nil, "%s is not a column; the columns are %s", name, strings.Join(slices.Sorted(maps.Keys(r.columns)), ", "))
	case value == "":
		r.fault(line, nil, "%s is empty; each unit must have a value", name)
		ok = false
	}
	return name, value, ok
}

// hole appends the value of a column to a string.
func (r *reader) hole(b []byte, long bool) []byte {
	from := r.pos
	name, value, ok := r.column()
	if !ok {
		r.unfilled = true
		return b
	}
	r.holes = append(r.holes, hole{len(b), len(b) + len(value), name})
	escaped := quote(value)
	escaped = escaped[1 : len(escaped)-1]
	// A backslash at the end of the previous line would remove white space.
	if spaces := len(escaped) - len(strings.TrimLeft(escaped, " ")); long {
		escaped = strings.Repeat(`\u0020`, spaces) + escaped[spaces:]
	}
	r.edits = append(r.edits, edit{from, r.pos, escaped})
	return append(b, value...)
}

// fillIn sets v.shown of the string that was just read if it contains per-unit values.
func (r *reader) fillIn(v *value) {
	if r.unfilled {
		v.kind = broken
		return
	}
	var b strings.Builder
	at := 0
	for _, h := range r.holes {
		b.WriteString(v.text[at:h.from])
		b.WriteString(h.name)
		at = h.to
	}
	if at > 0 {
		v.shown = b.String() + v.text[at:]
	}
}

// bare reads a column outside of quotes: an integer, true or false.
func (r *reader) bare(v *value) {
	from := r.pos
	name, value, ok := r.column()
	if v.shown = name; !ok {
		return
	}
	if !bareValue.MatchString(value) {
		r.fault(r.lineAt(from), nil, "%s is neither an integer nor true or false; a string must be in quotes, as in \"%s\"", name, name)
		return
	}
	r.edits = append(r.edits, edit{from, r.pos, value})
	switch value {
	case "true", "false":
		v.kind, v.boolean = boolean, value == "true"
	default:
		v.kind = integer
		v.integer, _ = new(big.Int).SetString(value, 10)
	}
}
