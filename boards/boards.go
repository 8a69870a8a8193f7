// Package boards is what each board is flashed with, as data: its media and
// their layouts, the blobs its boot ROM reads, the files and the script on its
// boot partitions, and where inputs come from when none are given.
package boards

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"imgtool/layouts"
)

//go:embed *.toml edits/*.toml
var builtin embed.FS

// Names are the boards that come with the program.
func Names() []string {
	files, _ := fs.Glob(builtin, "*.toml")
	var names []string
	for _, f := range files {
		// The rest is boards with another layout, NAME.LAYOUT.toml.
		if name := strings.TrimSuffix(f, ".toml"); !strings.Contains(name, ".") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Layouts are the other layouts a board that comes with the program can have.
func Layouts(board string) []string {
	files, _ := fs.Glob(builtin, board+".*.toml")
	for i, f := range files {
		files[i] = strings.TrimSuffix(strings.TrimPrefix(f, board+"."), ".toml")
	}
	return files
}

// Get returns a board that comes with the program.
func Get(name string) (*Board, error) {
	text, err := builtin.ReadFile(name + ".toml")
	if err != nil {
		return nil, fmt.Errorf("there is no board %q; there are %s, or give the path of a definition such as ./mine.toml", name, strings.Join(Names(), ", "))
	}
	return Parse("boards/"+name+".toml", text, nil)
}

// Parse reads and checks a definition. Layouts that do not come with the program
// are looked for in beside, which may be nil.
func Parse(file string, text []byte, beside fs.FS) (*Board, error) {
	b := &Board{Source: text}
	if err := layouts.Decode(file, text, b); err != nil {
		return nil, err
	}
	if err := b.normalizeUnit(); err != nil {
		return nil, err
	}
	for i := range b.Media {
		if err := b.Media[i].load(beside); err != nil {
			return nil, fmt.Errorf("%s: medium %q: %w", file, b.Media[i].Name, err)
		}
	}
	for i := range b.Trees {
		for j := range b.Trees[i].Steps {
			if err := b.Trees[i].Steps[j].load(beside); err != nil {
				return nil, fmt.Errorf("%s: tree %q: %w", file, b.Trees[i].Name, err)
			}
		}
	}
	if err := b.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	for _, l := range b.Conf.Lists {
		if err := b.SetList(l.Key, l.Default); err != nil {
			return nil, fmt.Errorf("%s: [[conf.list]] %s: %w", file, l.Key, err)
		}
	}
	return b, nil
}

func (s *Step) load(beside fs.FS) (err error) {
	if strings.HasSuffix(s.Edits, ".toml") && beside != nil {
		s.Text, err = fs.ReadFile(beside, s.Edits)
	} else {
		s.Text, err = builtin.ReadFile("edits/" + s.Edits + ".toml")
	}
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("edits: there is no file %q", s.Edits)
	}
	if err != nil {
		return fmt.Errorf("edits: %w", err)
	}
	return nil
}

func (m *Medium) load(beside fs.FS) (err error) {
	if strings.HasSuffix(m.Layout, ".toml") && beside != nil {
		if m.PlacingSource, err = fs.ReadFile(beside, m.Layout); err != nil {
			return fmt.Errorf("layout: %w", err)
		}
		m.Placing, err = layouts.Parse(m.Layout, m.PlacingSource)
		return err
	}
	if m.PlacingSource, err = layouts.Source(m.Layout); err != nil {
		return err
	}
	m.Placing, err = layouts.Get(m.Layout)
	return err
}
