package boards

import (
	"fmt"
	"io"
	"slices"
)

// Kinds are kinds of inputs, and the bytes by which each is recognised. One of them must
// match.
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

func checkKind(input, kind string) error {
	if kind != "" && Kinds[kind] == nil {
		return fmt.Errorf("%s: unknown kind %q", input, kind)
	}
	return nil
}

// Inputs returns the names of the inputs that the board uses, in the order of the
// definition. The root file system, rootfs, is the last.
func (b *Board) Inputs() []string {
	var names []string
	seen := map[string]bool{}
	add := func(name string) {
		if !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
	}
	for _, m := range b.Media {
		for _, blob := range m.Blobs {
			add(blob.Input)
		}
	}
	for _, f := range b.Boot {
		add(f.Input)
	}
	root := slices.ContainsFunc(b.Trees, func(t Tree) bool { return t.From == "rootfs" })
	for _, m := range b.Media {
		for _, p := range m.Layout.Partitions {
			if p.Content == "input" {
				add(p.Input)
			}
			root = root || p.Content == "rootfs"
		}
	}
	for _, o := range b.Optional {
		add(o.Input)
	}
	if root {
		add("rootfs")
	}
	return names
}

// KindOf returns the kind of an input, or "".
func (b *Board) KindOf(input string) string {
	for _, m := range b.Media {
		for _, blob := range m.Blobs {
			if blob.Input == input {
				return blob.Kind
			}
		}
	}
	for _, f := range b.Boot {
		if f.Input == input {
			return f.Kind
		}
	}
	for _, o := range b.Optional {
		if o.Input == input {
			return o.Kind
		}
	}
	return ""
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
