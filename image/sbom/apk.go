package sbom

import (
	"fmt"
	"strings"
)

// apkDatabases are where apk(8) lists the installed packages; newer versions have it in usr.
var apkDatabases = []string{"lib/apk/db/installed", "usr/lib/apk/db/installed"}

func (s *scanner) apk() error {
	for _, file := range apkDatabases {
		text, err := s.read(file)
		if err != nil {
			return err
		}
		if text == nil {
			continue
		}
		// lib may be a link to usr/lib: the first path that exists is all of it.
		return s.apkFile(file, string(text))
	}
	return nil
}

// apkFile adds the packages of a database: fields of one letter, a blank line after each
// package.
func (s *scanner) apkFile(file, text string) error {
	if err := checkLines(file, text); err != nil {
		return err
	}
	n := 0
	for block := range strings.SplitSeq(text, "\n\n") {
		fields := map[string]string{}
		for line := range strings.Lines(block) {
			if key, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok && fields[key] == "" {
				fields[key] = value
			}
		}
		if len(fields) == 0 {
			continue
		}
		n++
		name, version := fields["P"], fields["V"]
		if name == "" || version == "" {
			return fmt.Errorf("%s: package %d (%.60q) has no name or no version", file, n, name)
		}
		p := Info{Kind: "apk", Name: name, Version: version, Arch: fields["A"], Homepage: fields["U"], License: spdxLicense(fields["L"]), Supplier: person(fields["m"])}
		upstream := ""
		if origin := fields["o"]; origin != "" {
			p.Source = origin + " " + version
			if origin != name {
				upstream = origin
			}
		}
		p.PURL = s.os.purl("apk", "alpine", name, version, map[string]string{"arch": p.Arch, "upstream": upstream})
		s.add(p)
	}
	return nil
}
