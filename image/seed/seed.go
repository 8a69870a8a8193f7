// Package seed checks and renders config.toml, the seed configuration of an AtomixOS device.
//
// A device that finds a bad seed on its first boot never reads it again. [Check] is therefore
// as strict as the device, and reports all faults at once. The device takes a document only if
// the Quadlet units that it renders from it are valid, so Check renders them too. [Fill] and
// [CheckFilled] fill in templates with per-unit values, [Change] changes one place of a
// document, and [Config.Render] returns the files that the device writes.
//
// The package opens no files. Package seedfile reads seeds from files, and package bundle
// reads and writes archives.
package seed

import (
	"cmp"
	"fmt"
	"slices"
)

// MaxUpload is the largest document or bundle that the device takes, in bytes.
const MaxUpload = 32 << 20

// Fault is an error in a document. With Warning it is something that the device takes, but
// handles in another way than written.
type Fault struct {
	Line    int    `json:"line"`
	Key     string `json:"key,omitempty"` // path of the value, such as containers.container.web.Container.Image; empty for the file
	Text    string `json:"text"`
	Warning bool   `json:"warning"`

	public string // Text without quotes from the document
}

func (f Fault) String() string {
	if f.Key == "" {
		return fmt.Sprintf("%d: %s", f.Line, f.Text)
	}
	return fmt.Sprintf("%d: %s: %s", f.Line, f.Key, f.Text)
}

// Public is String without values of the document, for readers who must not see the
// document.
func (f Fault) Public() string {
	f.Text = f.public
	return f.String()
}

// shown is a part of a message that quotes the document, and is hidden by Fault.Public.
type shown string

// hidden replaces shown parts in Fault.Public.
const hidden = "(not shown)"

// newFault returns a fault with a formatted text. Arguments of type shown are not public.
func newFault(line int, key string, warning bool, format string, args ...any) Fault {
	public := slices.Clone(args)
	for i, arg := range args {
		if _, ok := arg.(shown); ok {
			public[i] = hidden
		}
	}
	return Fault{Line: line, Key: key, Text: fmt.Sprintf(format, args...), Warning: warning, public: fmt.Sprintf(format, public...)}
}

// Config is a valid document.
type Config struct {
	text     []byte
	root     *value
	lan      lan
	units    []unit
	warnings []Fault
}

// Check checks a document. The faults are sorted by line. The Config is nil unless all faults
// are warnings.
func Check(text []byte) (*Config, []Fault) { return judge(text, newReader(text, nil)) }

// judge checks a document that was read. text is the document that the device gets.
func judge(text []byte, r *reader) (*Config, []Fault) {
	c := &checker{root: r.root, lost: r.lost, faults: append(r.faults, r.notes...)}
	c.walk("", r.root, document)
	c.users()
	net := c.network()
	c.activation()
	c.upgrade()
	units := c.containers()
	slices.SortStableFunc(c.faults, func(a, b Fault) int { return cmp.Compare(a.Line, b.Line) })
	if slices.ContainsFunc(c.faults, func(f Fault) bool { return !f.Warning }) {
		return nil, c.faults
	}
	return &Config{text: text, root: r.root, lan: net, units: units, warnings: c.faults}, c.faults
}
