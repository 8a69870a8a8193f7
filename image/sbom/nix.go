package sbom

import (
	"regexp"
	"slices"
	"strings"
)

// storePath matches the name of a store path: 32 digits in Nix's base 32, a dash and a name.
var storePath = regexp.MustCompile(`^([0-9a-df-np-sv-z]{32})-([0-9A-Za-z+._?=-]+)$`)

// nixOutputs are usual names of outputs other than "out", which follow the version.
var nixOutputs = []string{"bin", "debug", "dev", "devdoc", "doc", "info", "lib", "man", "static"}

// nix adds the store paths.
func (s *scanner) nix() {
	const store = "nix/store"
	dir, err := s.tree.Resolve(store, true)
	if err != nil {
		return
	}
	for entry := range s.tree.List(dir) {
		m := storePath.FindStringSubmatch(entry)
		if m == nil {
			continue
		}
		name, version, output := splitNix(m[2])
		s.add(Info{Kind: "nix", Name: name, Version: version, Comment: "store path /" + store + "/" + entry,
			PURL: purl("nix", "", name, version, map[string]string{"output": output, "outputhash": m[1]})})
	}
}

// splitNix splits the name of a store path. The version begins after the first dash that is not
// followed by a letter, as for Nix's parseDrvName.
func splitNix(text string) (name, version, output string) {
	for i := 1; i+1 < len(text); i++ {
		if c := text[i+1] | 0x20; text[i] != '-' || c >= 'a' && c <= 'z' {
			continue
		}
		name, version = text[:i], text[i+1:]
		if last := strings.LastIndexByte(version, '-'); last > 0 && slices.Contains(nixOutputs, version[last+1:]) {
			version, output = version[:last], version[last+1:]
		}
		return name, version, output
	}
	return text, "", ""
}
