package boards

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"imgtool/image/fault"
	"imgtool/image/hostfile"
)

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
		return nil, fault.New(fault.Usage, "%s has no other layout", name)
	case !slices.Contains(others, layout):
		return nil, fault.New(fault.Usage, "%s has no layout %q; it has %s", name, layout, strings.Join(others, ", "))
	}
	return Get(name + "." + layout)
}
