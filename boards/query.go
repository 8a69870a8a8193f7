package boards

import (
	"slices"

	"imgtool/layouts"
)

// MediaNames returns the names of the media.
func (b *Board) MediaNames() (names []string) {
	for _, m := range b.Media {
		names = append(names, m.Name)
	}
	return names
}

// Repart returns the definitions for systemd-repart of the medium with deferred partitions.
// It returns nil if no medium has any.
func (b *Board) Repart() []layouts.Definition {
	for _, m := range b.Media {
		if all := m.Layout.Repart(); all != nil {
			return all
		}
	}
	return nil
}

// Options returns the names of the build options that steps depend on.
func (b *Board) Options() (names []string) {
	for _, t := range b.Trees {
		for _, s := range t.Steps {
			if s.Unless != "" && !slices.Contains(names, s.Unless) {
				names = append(names, s.Unless)
			}
		}
	}
	return names
}

func (b *Board) treeNames() (names []string) {
	for _, t := range b.Trees {
		names = append(names, t.Name)
	}
	return names
}
