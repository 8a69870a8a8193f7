package rauc

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// groups are the groups of a manifest and their keys, in all versions of RAUC up to 1.15.
// The groups [meta.*] and [rollout] have any keys.
var groups = map[string][]string{
	"update":  {"compatible", "version", "description", "build", "min-rauc-version"},
	"bundle":  {"format", "verity-hash", "verity-salt", "verity-size", "crypt-key"},
	"handler": {"filename", "args"},
	"hooks":   {"filename", "hooks"},
	"image":   {"sha256", "size", "filename", "type", "hooks", "adaptive", "version", "description", "build", "convert", "converted"},
}

// patterns are the names of files from which some version of RAUC knows the type of an image.
var patterns = []string{"*.ext4", "*.vfat", "*.img", "*.squashfs", "*.squashfs-*", "*.ubifs", "*.tar*", "*.tgz", "*.catar", "*.caidx", "*.caibx"}

// unknown reports a group or a key that no version of RAUC knows.
func (f keyFile) unknown() error {
	for _, g := range f {
		name, label, dot := strings.Cut(g.name, ".")
		if g.name == "rollout" || name == "meta" && label != "" && !strings.Contains(label, ".") {
			continue
		}
		keys, ok := groups[name]
		if !ok || dot != (name == "image") {
			return fmt.Errorf("its manifest has a group [%s]", g.name)
		}
		for _, v := range g.values {
			if !slices.Contains(keys, v.key) && !strings.HasSuffix(v.key, "]") { // GLib ignores translations
				return fmt.Errorf("its manifest has a key %q in [%s]", v.key, g.name)
			}
		}
	}
	return nil
}

// Refused reports why RAUC refuses a manifest that was read from a bundle. It is less
// strict than [Manifest.Check], which is for new bundles.
func (m *Manifest) Refused() error {
	if m.unknown != nil {
		return fmt.Errorf("%w, which RAUC does not know", m.unknown)
	}
	if err := known("hook", m.Hooks, BundleHooks); err != nil {
		return fmt.Errorf("its manifest: %w", err)
	}
	hooks := len(m.Hooks)
	for _, i := range m.Images {
		if err := i.refused(); err != nil {
			return fmt.Errorf("its manifest: [image.%s]: %w", i.Name(), err)
		}
		hooks += len(i.Hooks)
	}
	if hooks > 0 && m.HookFile == "" {
		return fmt.Errorf("its manifest names hooks, but no file with them")
	}
	return nil
}

func (i *Image) refused() error {
	if err := known("hook", i.Hooks, ImageHooks); err != nil {
		return err
	}
	switch {
	case slices.Contains(i.Hooks, "install") || strings.Contains(i.Class, "/"): // an artifact has no type
		return nil
	case i.File == "" && i.Type != "emptyfs":
		return fmt.Errorf("it has no filename")
	case i.Type == "" && !slices.ContainsFunc(patterns, func(p string) bool { ok, _ := path.Match(p, i.File); return ok }):
		return fmt.Errorf("the type of %s is not known from its name, and not stated", i.File)
	}
	return nil
}
