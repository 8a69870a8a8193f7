package boards

import (
	"fmt"
	"slices"
	"strings"

	"imgtool/layouts"
)

// Conf is what of a shell file with settings changes a board, by its variables.
type Conf struct {
	Sizes  map[string]string `toml:"sizes"`  // to medium/partition
	Labels map[string]string `toml:"labels"` // to medium/partition
	Vars   map[string]string `toml:"vars"`   // to variables of edits

	// Sizes that may be empty: then the partition is left out, and these variables
	// of edits are set.
	Empty map[string]map[string]string `toml:"empty"`

	Lists []List  `toml:"list"`
	Fixed []Fixed `toml:"fixed"`

	// Of a unit that runs: variables that list files it must have, files it must not
	// have, and disks.
	Require []string `toml:"require"`
	Forbid  []string `toml:"forbid"`
	Devices []string `toml:"devices"`
}

// List is a setting each of whose values is a step of a tree.
type List struct {
	Key     string   `toml:"key"`
	Tree    string   `toml:"tree"`
	Text    string   `toml:"text"`    // edits, with @ITEM@ for the value
	Default []string `toml:"default"` // the values where the setting is not made
	Profile string   `toml:"profile"` // for this profile only
}

// Fixed is a setting whose value the board's definition is made for.
type Fixed struct {
	Key string   `toml:"key"`
	Is  []string `toml:"is"`
}

// Partition is one of a medium's layout, as medium/partition.
func (b *Board) Partition(name string) (*layouts.Partition, error) {
	medium, part, _ := strings.Cut(name, "/")
	for _, m := range b.Media {
		for i := range m.Placing.Partitions {
			if p := &m.Placing.Partitions[i]; m.Name == medium && p.Name == part {
				return p, nil
			}
		}
	}
	return nil, fmt.Errorf("%s has no partition %s", b.Name, name)
}

// LeaveOut takes a partition, given as medium/partition, out of a medium's layout.
func (b *Board) LeaveOut(name string) error {
	medium, part, _ := strings.Cut(name, "/")
	for _, m := range b.Media {
		if m.Name == medium {
			return m.Placing.LeaveOut(part)
		}
	}
	return fmt.Errorf("%s has no medium %s", b.Name, medium)
}

// SetList makes the values of a [[conf.list]] those given, in place of all that were
// there: each is a step of the list's tree, after all others.
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
				return fmt.Errorf("%q has a character that cannot be in it: a control character, a quote, a backslash or an @", value)
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
			return fmt.Errorf("[[conf.list]] %s is for the tree %q, which there is not", l.Key, l.Tree)
		}
		if l.Profile != "" && !slices.Contains(Profiles, l.Profile) {
			return fmt.Errorf("[[conf.list]] %s: profile %q is not known; there are %s", l.Key, l.Profile, strings.Join(Profiles, ", "))
		}
	}
	return nil
}
