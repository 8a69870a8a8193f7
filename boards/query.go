package boards

import (
	"slices"

	"imgtool/layouts"
)

// MediaNames are the names of the media.
func (b *Board) MediaNames() (names []string) {
	for _, m := range b.Media {
		names = append(names, m.Name)
	}
	return names
}

// Repart are the definitions for systemd-repart of the medium with partitions that the
// device makes, or nothing if none has.
func (b *Board) Repart() []layouts.Definition {
	for _, m := range b.Media {
		if all := m.Placing.Repart(); all != nil {
			return all
		}
	}
	return nil
}

// Options are what can be asked for beside a profile.
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
