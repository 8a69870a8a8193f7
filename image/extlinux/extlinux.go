// Package extlinux reads, edits and checks extlinux.conf for CBoot 32.4.4, the boot loader of
// NVIDIA's Xavier modules. Syslinux and U-Boot have other rules: [Lint] checks the rules of
// CBoot. Edits keep all other bytes of a file.
package extlinux

import (
	"fmt"
	"slices"
	"strings"
)

// The keys of CBoot. It compares them with the beginning of a line, in upper case.
const (
	Timeout   = "TIMEOUT"
	Default   = "DEFAULT"
	MenuTitle = "MENU TITLE"
	LabelKey  = "LABEL"
	MenuLabel = "MENU LABEL"
	Linux     = "LINUX"
	Initrd    = "INITRD"
	FDT       = "FDT"
	Append    = "APPEND"
)

var keys = []string{Timeout, Default, MenuTitle, LabelKey, MenuLabel, Linux, Initrd, FDT, Append}

// the keys of a label, in the order in which they are written
var entryKeys = []string{MenuLabel, Linux, Initrd, FDT, Append}

// Config is a file.
type Config struct {
	lines []line
}

// line is a line. Its bytes are before, key, gap, value and rest.
type line struct {
	before string // blanks; the whole line if it has no key
	key    string
	gap    string
	value  string
	rest   string // blanks, a comment, the line end
}

func (l line) String() string { return l.before + l.key + l.gap + l.value + l.rest }

// Parse parses a file. It keeps lines without a known key.
func Parse(text string) *Config {
	c := &Config{}
	for l := range strings.Lines(text) {
		c.lines = append(c.lines, parseLine(l))
	}
	return c
}

const blanks = " \t\r\n"

func parseLine(text string) line {
	body, _, _ := strings.Cut(text, "#") // anywhere, also in a value
	body = strings.TrimRight(body, blanks)
	word := strings.TrimLeft(body, blanks)
	for _, key := range keys {
		if after, ok := strings.CutPrefix(word, key); ok {
			value := strings.TrimLeft(after, blanks)
			return line{
				before: body[:len(body)-len(word)],
				key:    key,
				gap:    after[:len(after)-len(value)],
				value:  value,
				rest:   text[len(body):],
			}
		}
	}
	return line{before: text}
}

// String returns the text of the file.
func (c *Config) String() string {
	var b strings.Builder
	for _, l := range c.lines {
		b.WriteString(l.String())
	}
	return b.String()
}

// Get returns a value outside of labels: TIMEOUT, DEFAULT or MENU TITLE.
func (c *Config) Get(key string) (string, bool) {
	for _, l := range c.lines {
		if l.key == key {
			return l.value, true
		}
	}
	return "", false
}

// Set sets a value outside of labels, in its line or in a new line at the top.
func (c *Config) Set(key, value string) error {
	if err := check(value); err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	for i := range c.lines {
		if c.lines[i].key == key {
			c.lines[i].set(value)
			return nil
		}
	}
	c.lines = slices.Insert(c.lines, 0, line{key: key, gap: " ", value: value, rest: "\n"})
	return nil
}

func (l *line) set(value string) {
	l.value = value
	if l.gap == "" {
		l.gap = " "
	}
}

// check refuses a value that CBoot would read differently.
func check(value string) error {
	switch {
	case value == "" || strings.Trim(value, blanks) != value:
		return fmt.Errorf("%q cannot be a value: it is empty, or begins or ends with a blank", value)
	case strings.ContainsAny(value, "#\n\x00"):
		return fmt.Errorf("%q cannot be a value: it has a #, a line end or a zero byte", value)
	}
	return nil
}

// Labels returns the names of the labels in their order.
func (c *Config) Labels() []string {
	var names []string
	for _, l := range c.lines {
		if l.key == LabelKey {
			names = append(names, l.value)
		}
	}
	return names
}

// span returns the first line of a label, which must exist once, and the line after its last
// key: blank lines and comments after that are not a part of the label.
func (c *Config) span(name string) (from, to int, err error) {
	from, inside := -1, false
	for i, l := range c.lines {
		if l.key == LabelKey {
			if inside = l.value == name; inside && from >= 0 {
				return 0, 0, fmt.Errorf("there are two labels %s", name)
			} else if inside {
				from = i
			}
		}
		if inside && l.key != "" {
			to = i + 1
		}
	}
	if from < 0 {
		if names := c.Labels(); len(names) > 0 {
			return 0, 0, fmt.Errorf("no label %s; the file has %s", name, strings.Join(names, ", "))
		}
		return 0, 0, fmt.Errorf("no label %s: the file has no labels", name)
	}
	return from, to, nil
}

// Value returns the value of a key of a label, such as LINUX.
func (c *Config) Value(label, key string) (string, bool, error) {
	from, to, err := c.span(label)
	for _, l := range c.lines[from:to] {
		if l.key == key {
			return l.value, true, nil
		}
	}
	return "", false, err
}

// SetValue sets the value of a key of a label, in its line or in a new line at the usual place.
func (c *Config) SetValue(label, key, value string) error {
	if err := check(value); err != nil {
		return fmt.Errorf("label %s: %s: %w", label, key, err)
	}
	from, to, err := c.span(label)
	if err != nil {
		return err
	}
	at, indent := from+1, "      "
	for i := from + 1; i < to; i++ {
		k := slices.Index(entryKeys, c.lines[i].key)
		if c.lines[i].key == key {
			c.lines[i].set(value)
			return nil
		}
		if k < 0 {
			continue
		}
		indent = c.lines[i].before
		if k < slices.Index(entryKeys, key) {
			at = i + 1
		}
	}
	c.endLine(at - 1)
	c.lines = slices.Insert(c.lines, at, line{before: indent, key: key, gap: " ", value: value, rest: "\n"})
	return nil
}

// endLine adds a line end to line i if it has none.
func (c *Config) endLine(i int) {
	if i < 0 || strings.HasSuffix(c.lines[i].String(), "\n") {
		return
	}
	if c.lines[i].key == "" {
		c.lines[i].before += "\n"
	} else {
		c.lines[i].rest += "\n"
	}
}

// Copy makes a label with the values of the label from, or of the first label if from is "".
// It replaces an existing label of that name in its place, and adds a new label at the end.
func (c *Config) Copy(name, from string) error {
	if err := check(name); err != nil {
		return fmt.Errorf("label %s: %w", name, err)
	}
	names := c.Labels()
	if from == "" {
		if len(names) == 0 {
			return fmt.Errorf("no label to copy as %s: the file has no labels", name)
		}
		from = names[0]
	}
	if from == name {
		return fmt.Errorf("label %s cannot be a copy of itself", name)
	}
	first, end, err := c.span(from)
	if err != nil {
		return err
	}
	fresh := []line{{before: c.lines[first].before, key: LabelKey, gap: " ", value: name, rest: "\n"}}
	for _, key := range entryKeys {
		for _, l := range c.lines[first:end] {
			if l.key == key {
				// Without its comment, which describes the other label.
				fresh = append(fresh, line{before: l.before, key: key, gap: l.gap, value: l.value, rest: "\n"})
				break
			}
		}
	}
	if slices.Contains(names, name) {
		at, end, err := c.span(name)
		if err == nil {
			c.lines = slices.Replace(c.lines, at, end, fresh...)
		}
		return err
	}
	last := len(c.lines) - 1
	c.endLine(last)
	if strings.Trim(c.lines[last].String(), blanks) != "" {
		c.lines = append(c.lines, line{before: "\n"})
	}
	c.lines = append(c.lines, fresh...)
	return nil
}

// Remove removes a label and its keys. It keeps the comments and blank lines after them.
func (c *Config) Remove(name string) error {
	at, end, err := c.span(name)
	c.lines = slices.Delete(c.lines, at, end)
	return err
}

// Args is a kernel command line in tokens. CBoot and these edits have no quotes: a token ends
// at a blank.
type Args []string

// ParseArgs splits a command line at its blanks.
func ParseArgs(s string) Args { return strings.Fields(s) }

func (a Args) String() string { return strings.Join(a, " ") }

// Replace replaces the last token old. Without that token it does nothing if the new token
// exists, and otherwise returns an error.
func (a Args) Replace(old, token string) error {
	for i := len(a) - 1; i >= 0; i-- {
		if a[i] == old {
			a[i] = token
			return nil
		}
	}
	if slices.Contains(a, token) {
		return nil
	}
	return fmt.Errorf("no token %s in %q", old, a)
}

// Set sets the value of a token key=value, or adds it at the end. Several tokens with the key
// are an error.
func (a Args) Set(key, value string) (Args, error) {
	is := func(token string) bool { return strings.HasPrefix(token, key+"=") }
	at := slices.IndexFunc(a, is)
	switch {
	case at < 0:
		return append(a, key+"="+value), nil
	case slices.ContainsFunc(a[at+1:], is):
		return nil, fmt.Errorf("several tokens %s= in %q", key, a)
	}
	a[at] = key + "=" + value
	return a, nil
}

// Without removes the tokens that are name, or that have name as their key.
func (a Args) Without(name string) Args {
	return slices.DeleteFunc(a, func(token string) bool {
		return token == name || strings.HasPrefix(token, name+"=")
	})
}
