package boards

import (
	"fmt"
	"io"
	"slices"

	"imgtool/layouts"
)

// Kinds are kinds of inputs, each with the bytes by which it is recognised. At least one Magic
// must match.
var Kinds = map[string][]Magic{
	"rockchip-idb": {{0, "\x3b\x8c\xdc\xfc"}},
	"fit":          {{0, "\xd0\x0d\xfe\xed"}},
	"dtb":          {{0, "\xd0\x0d\xfe\xed"}},
	"arm64-image":  {{56, "ARM\x64"}}, // Documentation/arch/arm64/booting.rst
	"initrd": {{0, "070701"}, {0, "070702"}, {0, "\x1f\x8b"}, {0, "\x28\xb5\x2f\xfd"}, {0, "\xfd7zXZ\x00"},
		{0, "BZh"}, {0, "\x02\x21\x4c\x18"}, {0, "\x5d\x00\x00"}, {0, "\x89LZO"}, {0, "\x27\x05\x19\x56"}},
}

// Magic is bytes at an offset.
type Magic struct {
	Off   int64
	Bytes string
}

// LooksLike reports whether r is of a kind. The kind "" matches everything.
func LooksLike(kind string, r io.ReaderAt) bool {
	for _, m := range Kinds[kind] {
		got := make([]byte, len(m.Bytes))
		if n, _ := r.ReadAt(got, m.Off); n == len(got) && string(got) == m.Bytes {
			return true
		}
	}
	return kind == ""
}

// uses returns the uses of inputs, except as a root file system, in the order of the definition.
func (b *Board) uses() (all []File) {
	for _, m := range b.Media {
		for _, blob := range m.Blobs {
			all = append(all, File{Input: blob.Input, Kind: blob.Kind})
		}
	}
	all = append(all, b.Boot...)
	for _, m := range b.Media {
		for _, p := range m.Layout.Partitions {
			if p.Content == "input" {
				all = append(all, File{Input: p.Input})
			}
		}
	}
	for _, o := range b.Optional {
		all = append(all, File{Input: o.Input, Kind: o.Kind})
	}
	return all
}

// Inputs returns the names of the inputs that the board uses, in the order of the
// definition. The root file system, rootfs, is the last.
func (b *Board) Inputs() (names []string) {
	for _, use := range b.uses() {
		if !slices.Contains(names, use.Input) {
			names = append(names, use.Input)
		}
	}
	root := slices.ContainsFunc(b.Trees, func(t Tree) bool { return t.From == "rootfs" }) || b.HasSquashfs()
	if root && !slices.Contains(names, "rootfs") {
		names = append(names, "rootfs")
	}
	return names
}

// KindOf returns the kind of an input, or "".
func (b *Board) KindOf(input string) string {
	for _, use := range b.uses() {
		if use.Input == input && use.Kind != "" {
			return use.Kind
		}
	}
	return ""
}

func (b *Board) checkKinds() error {
	for _, use := range b.uses() {
		if use.Kind != "" && Kinds[use.Kind] == nil {
			return fmt.Errorf("%s: unknown kind %q", use.Input, use.Kind)
		}
	}
	return nil
}

// IsOptional reports whether an input may be missing, and the warning if it is.
func (b *Board) IsOptional(input string) (without string, ok bool) {
	for _, o := range b.Optional {
		if o.Input == input {
			return o.Without, true
		}
	}
	return "", false
}

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

// HasProfiles reports whether the profiles of the board differ.
func (b *Board) HasProfiles() bool {
	return slices.ContainsFunc(b.Trees, func(t Tree) bool { return slices.ContainsFunc(t.Steps, func(s Step) bool { return s.Profile != "" }) }) ||
		slices.ContainsFunc(b.Conf.Lists, func(l List) bool { return l.Profile != "" })
}

// HasSlots reports whether a medium has a second slot.
func (b *Board) HasSlots() bool {
	return b.hasPartition(func(p layouts.Partition) bool { return p.Slot == "b" })
}

// HasSquashfs reports whether a medium has a compressed root file system.
func (b *Board) HasSquashfs() bool {
	return b.hasPartition(func(p layouts.Partition) bool { return p.Content == "rootfs" })
}

func (b *Board) hasPartition(such func(layouts.Partition) bool) bool {
	return slices.ContainsFunc(b.Media, func(m Medium) bool { return slices.ContainsFunc(m.Layout.Partitions, such) })
}

func (b *Board) treeNames() (names []string) {
	for _, t := range b.Trees {
		names = append(names, t.Name)
	}
	return names
}
