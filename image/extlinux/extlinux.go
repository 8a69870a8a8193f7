// Package extlinux reads, changes and judges extlinux.conf as CBoot 32.4.4 takes
// it, the boot loader of NVIDIA's Xavier modules. Its rules are not those of
// Syslinux or U-Boot; Lint has them one by one. What is not changed stays as it
// is, to the byte.
package extlinux

import (
	"fmt"
	"slices"
	"strings"
)

// Keys that CBoot knows. They are upper-case and matched by how a line begins.
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

// what a label is made of, in the order it is written.
var entryKeys = []string{MenuLabel, Linux, Initrd, FDT, Append}

// Config is the lines of a file.
type Config struct {
	lines []line
}

// line is all of a line: its bytes are before, key, gap, value and rest.
type line struct {
	before string // blanks; the whole line when there is no key
	key    string
	gap    string
	value  string
	rest   string // blanks, a comment, the line end
}

func (l line) String() string { return l.before + l.key + l.gap + l.value + l.rest }

// Parse reads a file. Anything is one: lines with no known key are kept.
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

// String is the text of the file.
func (c *Config) String() string {
	var b strings.Builder
	for _, l := range c.lines {
		b.WriteString(l.String())
	}
	return b.String()
}

// Get returns a value that is for all labels: TIMEOUT, DEFAULT or MENU TITLE.
func (c *Config) Get(key string) (string, bool) {
	for _, l := range c.lines {
		if l.key == key {
			return l.value, true
		}
	}
	return "", false
}

// Set sets a value that is for all labels: in the line that has it, or in a new
// one at the top.
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

// check refuses what would not be read as it was written.
func check(value string) error {
	switch {
	case value == "" || strings.Trim(value, blanks) != value:
		return fmt.Errorf("%q is no value: it is empty or has blanks around it", value)
	case strings.ContainsAny(value, "#\n\x00"):
		return fmt.Errorf("%q is no value: it has a #, a line end or a zero byte", value)
	}
	return nil
}

// span is where label n begins and ends in the lines.
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

// Labels are the names of the labels in their order.
func (c *Config) Labels() []string {
	var names []string
	for _, l := range c.lines {
		if l.key == LabelKey {
			names = append(names, l.value)
		}
	}
	return names
}

// index is the place of a label, which must be there once.
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

// Value returns what a label has for a key, such as LINUX.
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

// SetValue sets what a label has for a key: in the line that has it, or in a new
// one, where labels have it.
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

// endLine makes line i end before another follows.
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

// Copy makes a label that has what another has: the first one where from is "".
// A label of this name that is there is replaced in its place; a new one comes
// last.
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
				// Not its comment, which is about the other label.
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
		// Blank lines and comments below a label are no part of it.
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

// Remove takes away a label and what is in it, and leaves the comments and blank
// lines below.
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

// Args is a kernel command line in tokens. The kernel knows quotes, CBoot and
// these edits do not: a token ends at a blank.
type Args []string

// ParseArgs cuts a command line at its blanks.
func ParseArgs(s string) Args { return strings.Fields(s) }

func (a Args) String() string { return strings.Join(a, " ") }

// Replace puts a token in the place of the last one that is old. Where there is
// none but the new one is there, all is as wanted.
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

// Set makes key=value the value of the one token with this key, or adds it at
// the end.
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

// Without takes away each token that is, or whose key is, name.
func (a Args) Without(name string) Args {
	return slices.DeleteFunc(a, func(token string) bool {
		return token == name || strings.HasPrefix(token, name+"=")
	})
}
