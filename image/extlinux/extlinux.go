// Package extlinux reads, edits and checks extlinux.conf for CBoot 32.4.4, the boot loader of
// NVIDIA's Xavier modules. Its rules differ from those of Syslinux and U-Boot: [Lint] checks
// each of them. Edits keep all other bytes of a file.
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
		return fmt.Errorf("%q is no value: it is empty or has blanks around it", value)
	case strings.ContainsAny(value, "#\n\x00"):
		return fmt.Errorf("%q is no value: it has a #, a line end or a zero byte", value)
	}
	return nil
}

// span returns the first line of label n and the line after its last one.
func (c *Config) span(n int) (from, to int) {
	to = len(c.lines)
	for i, l := range c.lines {
		if l.key != LabelKey {
			continue
		}
		if n == 0 {
			from = i
		} else if n < 0 {
			return from, i
		}
		n--
	}
	return from, to
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

// index returns the index of a label, which must exist once.
func (c *Config) index(name string) (int, error) {
	names := c.Labels()
	i := slices.Index(names, name)
	switch {
	case i < 0 && len(names) == 0:
		return 0, fmt.Errorf("there is no label %s, and no other", name)
	case i < 0:
		return 0, fmt.Errorf("there is no label %s; there are %s", name, strings.Join(names, ", "))
	case slices.Contains(names[i+1:], name):
		return 0, fmt.Errorf("there are two labels %s", name)
	}
	return i, nil
}

// Value returns the value of a key of a label, such as LINUX.
func (c *Config) Value(label, key string) (string, bool, error) {
	n, err := c.index(label)
	if err != nil {
		return "", false, err
	}
	from, to := c.span(n)
	for _, l := range c.lines[from:to] {
		if l.key == key {
			return l.value, true, nil
		}
	}
	return "", false, nil
}

// SetValue sets the value of a key of a label, in its line or in a new line at the usual place.
func (c *Config) SetValue(label, key, value string) error {
	if err := check(value); err != nil {
		return fmt.Errorf("label %s: %s: %w", label, key, err)
	}
	n, err := c.index(label)
	if err != nil {
		return err
	}
	from, to := c.span(n)
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

// Copy makes a label with the values of another, of the first one if from is "". It replaces
// an existing label of that name in its place, and adds a new one at the end.
func (c *Config) Copy(name, from string) error {
	if err := check(name); err != nil {
		return fmt.Errorf("label %s: %w", name, err)
	}
	names := c.Labels()
	if from == "" {
		if len(names) == 0 {
			return fmt.Errorf("there is no label to copy as %s", name)
		}
		from = names[0]
	}
	if from == name {
		return fmt.Errorf("label %s cannot be a copy of itself", name)
	}
	n, err := c.index(from)
	if err != nil {
		return err
	}
	first, end := c.span(n)
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
		if n, err = c.index(name); err != nil {
			return err
		}
		at, end := c.span(n)
		// Blank lines and comments after a label are not a part of it.
		for end > at+1 && c.lines[end-1].key == "" {
			end--
		}
		c.lines = slices.Replace(c.lines, at, end, fresh...)
		return nil
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
	n, err := c.index(name)
	if err != nil {
		return err
	}
	at, end := c.span(n)
	for end > at+1 && c.lines[end-1].key == "" {
		end--
	}
	c.lines = slices.Delete(c.lines, at, end)
	return nil
}

// Args is a kernel command line in tokens. CBoot and these edits have no quotes: a token ends
// at a blank.
type Args []string

// ParseArgs splits a command line at its blanks.
func ParseArgs(s string) Args { return strings.Fields(s) }

func (a Args) String() string { return strings.Join(a, " ") }

// Replace replaces the last token old. It does nothing if there is none, but the new one
// exists.
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
	return fmt.Errorf("there is no token %s in %q", old, a)
}

// Set sets the value of a token key=value, or adds it at the end. Several tokens with the key
// are an error.
func (a Args) Set(key, value string) (Args, error) {
	at := -1
	for i, token := range a {
		if strings.HasPrefix(token, key+"=") {
			if at >= 0 {
				return nil, fmt.Errorf("there are several tokens %s= in %q", key, a)
			}
			at = i
		}
	}
	if at < 0 {
		return append(a, key+"="+value), nil
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
