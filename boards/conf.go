package boards

import (
	"fmt"
	"slices"
	"strings"

	"imgtool/image/suggest"
	"imgtool/layouts"
)

// Conf maps the settings of a factory_provision.conf to parts of the board.
type Conf struct {
	Sizes  map[string]string `toml:"sizes"`  // setting to medium/partition
	Labels map[string]string `toml:"labels"` // setting to medium/partition
	Vars   map[string]string `toml:"vars"`   // setting to variable of edits

	// Sizes that may be empty. The partition is then left out, and these variables of
	// edits are set.
	Empty map[string]map[string]string `toml:"empty"`

	Lists []List  `toml:"list"`
	Fixed []Fixed `toml:"fixed"`

	// For factory --live: settings with files that must exist, files that must not exist,
	// and disks.
	Require []string `toml:"require"`
	Forbid  []string `toml:"forbid"`
	Devices []string `toml:"devices"`
}

// List is a setting with a list of values. Each value adds a step to a tree.
type List struct {
	Key     string   `toml:"key"`
	Tree    string   `toml:"tree"`
	Text    string   `toml:"text"`    // edits, with @ITEM@ for the value
	Default []string `toml:"default"` // values without the setting
	Profile string   `toml:"profile"` // only for this profile
}

// Fixed is a setting that may have only one value.
type Fixed struct {
	Key string   `toml:"key"`
	Is  []string `toml:"is"`
}

// Partition returns a partition by medium/partition.
func (b *Board) Partition(name string) (*layouts.Partition, error) {
	medium, part, _ := strings.Cut(name, "/")
	for _, m := range b.Media {
		for i := range m.Layout.Partitions {
			if p := &m.Layout.Partitions[i]; m.Name == medium && p.Name == part {
				return p, nil
			}
		}
	}
	return nil, fmt.Errorf("%s has no partition %s", b.Name, name)
}

// LeaveOut removes a partition, medium/partition, from a layout.
func (b *Board) LeaveOut(name string) error {
	medium, part, _ := strings.Cut(name, "/")
	for _, m := range b.Media {
		if m.Name == medium {
			return m.Layout.LeaveOut(part)
		}
	}
	return fmt.Errorf("%s has no medium %s", b.Name, medium)
}

// SetList replaces the values of a [[conf.list]]. The step of each is added to the end of the
// list's tree.
func (b *Board) SetList(key string, values []string) error {
	for _, l := range b.Conf.Lists {
		if l.Key != key {
			continue
		}
		i := slices.IndexFunc(b.Trees, func(t Tree) bool { return t.Name == l.Tree })
		if i < 0 {
			return fmt.Errorf("%s has no tree %s", b.Name, l.Tree)
		}
		t := &b.Trees[i]
		t.Steps = slices.DeleteFunc(t.Steps, func(s Step) bool { return s.Edits == key })
		for _, value := range values {
			if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == '"' || r == '\\' || r == '@' }) {
				return fmt.Errorf("%q has a control character, a quote, a backslash or an @", value)
			}
			t.Steps = append(t.Steps, Step{Edits: key, Profile: l.Profile, Text: []byte(strings.ReplaceAll(l.Text, "@ITEM@", value))})
		}
	}
	return nil
}

func (b *Board) checkConf() error {
	for _, names := range []map[string]string{b.Conf.Sizes, b.Conf.Labels} {
		for key, name := range names {
			if _, err := b.Partition(name); err != nil {
				return fmt.Errorf("[conf] %s: %w", key, err)
			}
		}
	}
	for key := range b.Conf.Empty {
		if b.Conf.Sizes[key] == "" {
			return fmt.Errorf("[conf.empty] has %s, which [conf.sizes] does not have", key)
		}
	}
	for _, l := range b.Conf.Lists {
		if !slices.ContainsFunc(b.Trees, func(t Tree) bool { return t.Name == l.Tree }) {
			return fmt.Errorf("[[conf.list]] %s: unknown tree %q", l.Key, l.Tree)
		}
		if l.Profile != "" && !slices.Contains(Profiles, l.Profile) {
			return fmt.Errorf("[[conf.list]] %s: %s", l.Key, suggest.Unknown("profile", l.Profile, Profiles))
		}
	}
	return nil
}
