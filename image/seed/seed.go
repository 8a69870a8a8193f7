// Package seed is config.toml, the seed configuration of an AtomixOS device: its
// rules, what the device makes of it, and the bundles it comes in.
//
// A device that is given a bad seed on its first boot never looks at it again, so
// Check is as strict as the device and says all that is wrong at once. The device
// takes a document only if the units rendered from it pass too; Check renders
// them. The package opens no file and knows no disk.
package seed

import (
	"cmp"
	"fmt"
	"slices"
)

// MaxUpload is the largest document or bundle that the device takes, in bytes.
const MaxUpload = 32 << 20

// Fault is something wrong in a document, or with Warning something the device
// takes but does not do as written.
type Fault struct {
	Line    int    `json:"line"`
	Key     string `json:"key"` // such as containers.container.web.Container.Image; empty for the file
	Text    string `json:"text"`
	Warning bool   `json:"warning"`

	public string // Text without what it quotes of the document
}

func (f Fault) String() string {
	if f.Key == "" {
		return fmt.Sprintf("%d: %s", f.Line, f.Text)
	}
	return fmt.Sprintf("%d: %s: %s", f.Line, f.Key, f.Text)
}

// Public is String without anything that the document gives as a value, for those
// who may not read the document.
func (f Fault) Public() string {
	f.Text = f.public
	return f.String()
}

// shown is a part of a message that quotes the document.
type shown string

// hidden stands for it in Fault.Public.
const hidden = "(not shown)"

// newFault makes a fault of a message, the arguments of which that are shown are
// not public.
func newFault(line int, key string, warning bool, format string, args ...any) Fault {
	public := slices.Clone(args)
	for i, arg := range args {
		if _, ok := arg.(shown); ok {
			public[i] = hidden
		}
	}
	return Fault{Line: line, Key: key, Text: fmt.Sprintf(format, args...), Warning: warning, public: fmt.Sprintf(format, public...)}
}

// Config is a document the device takes.
type Config struct {
	text     []byte
	root     *value
	lan      lan
	units    []unit
	warnings []Fault
}

// Check checks a document. The faults are in the order of their lines; if one of
// them is more than a warning there is no Config.
func Check(text []byte) (*Config, []Fault) { return judge(text, newReader(text, nil)) }

// judge judges what was read, and is text on the device.
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
