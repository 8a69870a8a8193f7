// Package fstab reads and edits /etc/fstab, see fstab(5). Edits keep all other bytes: comments,
// the order, and the blanks between fields.
package fstab

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Entry is the entry of a file system.
type Entry struct {
	Spec    string // the device, LABEL= or UUID=
	Where   string // the mount point; "none" or "swap" for swap
	Type    string
	Options string
	Dump    string // "0" if missing, as Pass
	Pass    string
}

func (e Entry) fields() []string { return []string{e.Spec, e.Where, e.Type, e.Options, e.Dump, e.Pass} }

// Table is a file.
type Table struct {
	lines []string // without the line ends
}

// Parse parses a table. Lines of fewer than two fields are not entries.
func Parse(text string) *Table {
	t := &Table{}
	for l := range strings.Lines(text) {
		t.lines = append(t.lines, strings.TrimSuffix(l, "\n"))
	}
	return t
}

// String returns the text of the table.
func (t *Table) String() string {
	if len(t.lines) == 0 {
		return ""
	}
	return strings.Join(t.lines, "\n") + "\n"
}

// Entries returns the entries in their order.
func (t *Table) Entries() []Entry {
	var all []Entry
	for _, l := range t.lines {
		if e, ok := entry(l); ok {
			all = append(all, e)
		}
	}
	return all
}

var field = regexp.MustCompile(`[^ \t]+`)

func entry(line string) (Entry, bool) {
	f := field.FindAllString(line, -1)
	if len(f) < 2 || f[0][0] == '#' {
		return Entry{}, false
	}
	for len(f) < 6 {
		f = append(f, [...]string{2: "auto", 3: "defaults", 4: "0", 5: "0"}[len(f)])
	}
	for i := range f {
		f[i] = unescape(f[i])
	}
	return Entry{f[0], f[1], f[2], f[3], f[4], f[5]}, true
}

// isSwap reports whether the entry is for swap. Several entries may have its mount point.
func (e Entry) isSwap() bool { return e.Where == "none" || e.Where == "swap" }

func same(a, b Entry) bool {
	if a.isSwap() || b.isSwap() {
		return a.isSwap() && b.isSwap() && a.Spec == b.Spec
	}
	clean := func(where string) string { return "/" + strings.Trim(where, "/") }
	return clean(a.Where) == clean(b.Where)
}

// find returns the index of the line with the mount point of e, or for swap with its device,
// or -1.
func (t *Table) find(e Entry) (int, error) {
	at := -1
	for i, l := range t.lines {
		if have, ok := entry(l); ok && same(have, e) {
			if at >= 0 {
				return 0, fmt.Errorf("lines %d and %d are both for %s", at+1, i+1, e.Where)
			}
			at = i
		}
	}
	return at, nil
}

// Lookup returns the entry of a mount point, or for swap ("none" or "swap") of a device.
// Two such entries are an error.
func (t *Table) Lookup(where, spec string) (e Entry, ok bool, err error) {
	i, err := t.find(Entry{Spec: spec, Where: where})
	if err != nil || i < 0 {
		return Entry{}, false, err
	}
	e, _ = entry(t.lines[i])
	return e, true, nil
}

// Put changes the entry with the mount point of e, or adds it at the end. It adds a comment
// before it, unless the comment exists.
func (t *Table) Put(e Entry, comment string) error {
	for _, s := range e.fields() {
		if s == "" || strings.ContainsAny(s, "\n\x00") {
			return fmt.Errorf("%q cannot be a field", s)
		}
	}
	if strings.HasPrefix(e.Spec, "#") {
		return fmt.Errorf("the device %q would be a comment", e.Spec)
	}
	if strings.ContainsAny(comment, "\n\x00") {
		return fmt.Errorf("the comment %q has more than one line", comment)
	}
	i, err := t.find(e)
	if err != nil {
		return err
	}
	if i < 0 {
		i = len(t.lines)
		t.lines = append(t.lines, "")
	}
	t.lines[i] = change(t.lines[i], e)
	if comment = "# " + comment; comment != "# " && (i == 0 || t.lines[i-1] != comment) {
		t.lines = slices.Insert(t.lines, i, comment)
	}
	return nil
}

// change sets the fields of a line and keeps the blanks between them.
func change(line string, e Entry) string {
	old, _ := entry(line)
	have := old.fields()
	at := field.FindAllStringIndex(line, -1)
	var b strings.Builder
	end := 0
	for i, f := range e.fields() {
		switch {
		case i >= len(at):
			if i > 0 {
				b.WriteByte(' ')
			}
			b.WriteString(escape(f))
		case f == have[i]:
			b.WriteString(line[end:at[i][1]])
			end = at[i][1]
		default:
			b.WriteString(line[end:at[i][0]] + escape(f))
			end = at[i][1]
		}
	}
	return b.String() + line[end:]
}

// Remove removes the entry that Lookup finds, and reports whether there was one.
func (t *Table) Remove(where, spec string) (bool, error) {
	i, err := t.find(Entry{Spec: spec, Where: where})
	if err != nil || i < 0 {
		return false, err
	}
	t.lines = slices.Delete(t.lines, i, i+1)
	return true, nil
}

var escapes = strings.NewReplacer(" ", `\040`, "\t", `\011`, `\`, `\134`)

func escape(s string) string { return escapes.Replace(s) }

var escaped = regexp.MustCompile(`\\[0-3][0-7]{2}`)

func unescape(s string) string {
	return escaped.ReplaceAllStringFunc(s, func(e string) string {
		n, _ := strconv.ParseUint(e[1:], 8, 8)
		return string([]byte{byte(n)})
	})
}
