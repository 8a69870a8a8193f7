package seed

import (
	"maps"
	"math/big"
	"regexp"
	"slices"
	"strings"
)

// A template is a document with values that each unit has its own of. In a string
// of double quotes @{COLUMN} is the text in that column, escaped; outside of quotes
// it is an integer, true or false. A value can be nothing else, and no part of a
// key, so it adds no line and no key; what stands in a comment is left alone. \u0040{
// is the text @{ itself.

// edit is a part of a template that is replaced.
type edit struct {
	from, to int
	text     string
}

// hole is where in a string a value stands.
type hole struct {
	from, to int
	name     string
}

// Fill is a template with the values of a unit, by their columns. Its faults are
// those of the template: what cannot be read, and columns that are not there or
// empty. Faults name columns, and never values.
func Fill(template []byte, columns map[string]string) ([]byte, []Fault) {
	return newReader(template, columns).filled()
}

// CheckFilled is Fill and then Check, with lines and words of the template.
func CheckFilled(template []byte, columns map[string]string) ([]byte, *Config, []Fault) {
	r := newReader(template, columns)
	text, faults := r.filled()
	if text == nil && len(r.faults) > 0 {
		// What else is wrong is said at once.
		_, faults = judge(nil, r)
	}
	if text == nil {
		return nil, nil, faults
	}
	c, faults := judge(text, r)
	// What goes to the device is what is judged.
	if again, _ := Check(text); (again == nil) != (c == nil) {
		panic("seed: internal error: a template that is filled in is not what it was read as")
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

// atColumn says whether @{ stands here, which in a document that is no template is
// noted.
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
	// Of an integer no more than 64 bits are of use anywhere.
	bareValue = regexp.MustCompile(`^(true|false|-?(0|[1-9][0-9]{0,17}))$`)
)

// noColumn goes on behind the @ of @{, which cannot be here.
func (r *reader) noColumn(where string) {
	name := column.FindString(r.src[r.pos:])
	if name == "" {
		name = "@{"
	}
	r.fault(r.lineAt(r.pos), nil, "%s %s", name, where)
	r.unfilled = true
	r.pos++
}

// column reads @{COLUMN} and returns the value.
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

// hole puts the value of a column into a string.
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
	// A backslash at the end of the line before would swallow white space.
	if spaces := len(escaped) - len(strings.TrimLeft(escaped, " ")); long {
		escaped = strings.Repeat(`\u0020`, spaces) + escaped[spaces:]
	}
	r.edits = append(r.edits, edit{from, r.pos, escaped})
	return append(b, value...)
}

// fillIn marks a string that was just read if values are in it.
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

// bare reads a column that stands for an integer, true or false.
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
