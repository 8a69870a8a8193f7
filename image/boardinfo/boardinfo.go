// Package boardinfo describes what an image's manifest records of the board's definition:
// where a seed and per-unit data go, which media the board has and what it boots from.
// With it an image can be re-seeded, inspected, flashed and booted without the definition.
//
// [Info] is the record. Definitions use [Unit] as it is.
package boardinfo

import (
	"fmt"
	"io/fs"
	"regexp"
	"slices"

	"imgtool/image/suggest"
)

// Info is the record of a board's definition in the manifest of one medium's image.
type Info struct {
	Arch   string   `json:"arch"`              // as Debian and OCI name it
	Media  []Medium `json:"media"`             // all media of the board; the first is the one it boots from
	Seed   *Seed    `json:"seed,omitempty"`    // nil: this image takes no seed
	NoSeed string   `json:"no_seed,omitempty"` // why the board takes none, and what to do instead
	Unit   *Unit    `json:"unit,omitempty"`    // nil: the board has no per-unit data
	Blobs  []Blob   `json:"blobs,omitempty"`   // of this medium
}

// Medium is a disk of the board.
type Medium struct {
	Name string `json:"name"`
	Kind string `json:"kind,omitempty"` // of Kinds; empty: unknown
}

// Kinds are the kinds of media that a host can tell apart by their bus.
var Kinds = []string{"emmc", "sd", "nvme"}

// Seed is the place of a seed on a boot partition.
type Seed struct {
	Number    int    `json:"number"`    // of the partition
	Partition string `json:"partition"` // its name
	Path      string `json:"path"`
	Format    string `json:"format,omitempty"` // atomixos, or empty for any TOML

	// The boot partition of the other slot. A device that has it ignores a seed.
	SlotB string `json:"slot_b,omitempty"`
}

// Blob is an input outside of the partitions.
type Blob struct {
	Input    string   `toml:"input" json:"input"`
	Sector   int64    `toml:"sector" json:"sector"`        // of 512 bytes
	Kind     string   `toml:"kind" json:"kind,omitempty"`  // of boards.Kinds; empty: any
	Commands []string `toml:"-" json:"commands,omitempty"` // U-Boot commands that recovery needs, if it is U-Boot
}

// NameRule describes a [GoodName].
const NameRule = "1 to 64 lower-case letters, digits and any of - . _"

var goodName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)

// GoodName reports whether a name of a board, medium, tree, file or variable is valid.
func GoodName(name string) bool { return goodName.MatchString(name) }

// plain matches names of partitions and inputs.
var plain = regexp.MustCompile(`^[\x21-\x2e\x30-\x39\x3b-\x7e]{1,64}$`)

// Check checks a record that was read from a file.
func (i *Info) Check() error {
	if !GoodName(i.Arch) {
		return fmt.Errorf("invalid arch %.80q", i.Arch)
	}
	if len(i.Media) == 0 {
		return fmt.Errorf("no media")
	}
	for _, m := range i.Media {
		if err := m.Check(); err != nil {
			return err
		}
	}
	if s := i.Seed; s != nil {
		switch {
		case s.Number < 1 || s.Number > 128 || !plain.MatchString(s.Partition) || s.SlotB != "" && !plain.MatchString(s.SlotB):
			return fmt.Errorf("seed: invalid partition %d, %.80q", s.Number, s.Partition)
		case !fs.ValidPath(s.Path) || s.Path == ".":
			return fmt.Errorf("seed: invalid path %.80q", s.Path)
		}
		if err := CheckSeedFormat(s.Format); err != nil {
			return err
		}
	}
	for _, b := range i.Blobs {
		if !plain.MatchString(b.Input) || b.Sector < 1 || b.Sector > 1<<40 {
			return fmt.Errorf("blob %.80q at sector %d is out of range", b.Input, b.Sector)
		}
	}
	if i.Unit == nil {
		return nil
	}
	return i.Unit.Check()
}

// Check checks the name and the kind.
func (m Medium) Check() error {
	if !GoodName(m.Name) {
		return fmt.Errorf("invalid medium name %.80q: it must be %s", m.Name, NameRule)
	}
	if m.Kind != "" && !slices.Contains(Kinds, m.Kind) {
		return fmt.Errorf("medium %s: %s", m.Name, suggest.Unknown("kind", m.Kind, Kinds))
	}
	return nil
}

// CheckSeedFormat checks the name of a format of seeds.
func CheckSeedFormat(format string) error {
	if format != "" && format != "atomixos" {
		return fmt.Errorf("seed: unknown format %.80q (known: atomixos; leave it out for any TOML)", format)
	}
	return nil
}

// MediaNames returns the names of the board's media.
func (i *Info) MediaNames() (names []string) {
	for _, m := range i.Media {
		names = append(names, m.Name)
	}
	return names
}

// KindOf returns the kind of a medium, or "" if it is unknown.
func (i *Info) KindOf(medium string) string {
	for _, m := range i.Media {
		if m.Name == medium {
			return m.Kind
		}
	}
	return ""
}
