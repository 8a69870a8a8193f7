// Package boards describes boards as data: media and their layouts, the blobs that the boot
// ROM reads, the files and the script on boot partitions, per-unit data, and default sources
// of inputs.
//
// [Load] returns a [Board] by its name or reads its definition, a TOML file that
// docs/reference/boards.md describes.
package boards

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"imgtool/image/fault"
	"imgtool/image/hostfile"
	"imgtool/image/suggest"
	"imgtool/layouts"
)

//go:embed *.toml edits/*.toml
var builtin embed.FS

// Names returns the names of the built-in boards.
func Names() []string {
	files, _ := fs.Glob(builtin, "*.toml")
	var names []string
	for _, f := range files {
		// NAME.LAYOUT.toml is a board with another layout.
		if name := strings.TrimSuffix(f, ".toml"); !strings.Contains(name, ".") {
			names = append(names, name)
		}
	}
	slices.Sort(names) // the files sort differently, because of their ending
	return names
}

// Layouts returns the other layouts of a built-in board.
func Layouts(board string) []string {
	files, _ := fs.Glob(builtin, board+".*.toml")
	for i, f := range files {
		files[i] = strings.TrimSuffix(strings.TrimPrefix(f, board+"."), ".toml")
	}
	return files
}

// Get returns a built-in board.
func Get(name string) (*Board, error) {
	text, err := builtin.ReadFile(name + ".toml")
	if err != nil {
		return nil, fault.New(fault.Usage, "unknown board %q%s (known: %s; or the path of a definition such as ./mine.toml)", name,
			suggest.DidYouMean(name, Names()), strings.Join(Names(), ", "))
	}
	return Parse("boards/"+name+".toml", text, nil)
}

// Parse reads and checks a definition. Layouts and edits whose names end in .toml are read
// from beside, if that is not nil.
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
	if err := b.RAUC.load(beside); err != nil {
		return nil, fmt.Errorf("%s: [rauc]: %w", file, err)
	}
	if err := b.Trust.load(file, beside); err != nil {
		return nil, fmt.Errorf("%s: [trust]: %w", file, err)
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
		return fmt.Errorf("edits: no file %q", s.Edits)
	}
	if err != nil {
		return fmt.Errorf("edits: %w", err)
	}
	return nil
}

func (m *Medium) load(beside fs.FS) (err error) {
	if strings.HasSuffix(m.LayoutName, ".toml") && beside != nil {
		if m.LayoutSource, err = fs.ReadFile(beside, m.LayoutName); err != nil {
			return fmt.Errorf("layout: %w", err)
		}
		m.Layout, err = layouts.Parse(m.LayoutName, m.LayoutSource)
		return err
	}
	if m.LayoutSource, err = layouts.Source(m.LayoutName); err != nil {
		return err
	}
	m.Layout, err = layouts.Get(m.LayoutName)
	return err
}

// Load returns a built-in board by its name, or reads the definition at a path such as
// ./mine.toml. Layouts and edits that end in .toml are read from the same directory.
func Load(name string) (*Board, error) {
	if name == "" {
		return nil, fault.New(fault.Usage, "say which board: --board NAME, one of %s, or --board ./FILE.toml", strings.Join(Names(), ", "))
	}
	if !strings.HasSuffix(name, ".toml") && !strings.ContainsRune(name, filepath.Separator) {
		return Get(name)
	}
	text, err := hostfile.ReadStream(name, hostfile.Text)
	if err != nil {
		return nil, fmt.Errorf("board definition: %w", err)
	}
	return Parse(name, text, hostfile.DirFS(filepath.Dir(name)))
}

// LoadLayout returns a board as [Load] does, or if layout is not empty a built-in board
// with another of its layouts.
func LoadLayout(name, layout string) (*Board, error) {
	if layout == "" || name == "" {
		return Load(name)
	}
	others := Layouts(name)
	switch {
	case len(others) == 0:
		return nil, fault.New(fault.Usage, "%s has no other layout than its own: leave out --layout", name)
	case !slices.Contains(others, layout):
		return nil, fault.New(fault.Usage, "%s has no layout %q%s (it has %s)", name, layout, suggest.DidYouMean(layout, others), strings.Join(others, ", "))
	}
	return Get(name + "." + layout)
}
