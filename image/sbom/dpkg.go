package sbom

import (
	"fmt"
	"iter"
	"path"
	"strings"

	"imgtool/image/tree"
)

// The databases of dpkg(1): one file, and in distroless images a file for each package.
const (
	dpkgStatus = "var/lib/dpkg/status"
	dpkgParts  = "var/lib/dpkg/status.d"
)

func (s *scanner) dpkg() error {
	text, err := s.read(dpkgStatus)
	if err == nil {
		err = s.dpkgFile(dpkgStatus, string(text), true)
	}
	if err != nil {
		return err
	}
	dir, err := s.tree.Resolve(dpkgParts, true)
	if err != nil {
		return err
	}
	for name, n := range s.tree.List(dir) {
		if n.Type() != tree.Regular || path.Ext(name) == ".md5sums" {
			continue
		}
		file := dpkgParts + "/" + name
		text, err := readNode(file, n)
		if err == nil {
			err = s.dpkgFile(file, string(text), false)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// dpkgFile adds the packages of a file. With hasStatus, each has a field Status, and packages are
// left out that are not unpacked: of a removed package only the configuration remains.
func (s *scanner) dpkgFile(file, text string, hasStatus bool) error {
	if err := checkLines(file, text); err != nil {
		return err
	}
	n := 0
	for fields := range paragraphs(text) {
		n++
		name, version := fields["Package"], fields["Version"]
		if hasStatus {
			if status := strings.Fields(fields["Status"]); len(status) == 3 && (status[2] == "not-installed" || status[2] == "config-files") {
				continue
			}
		}
		if name == "" || version == "" {
			return fmt.Errorf("%s: package %d (%.60q) has no name or no version", file, n, name)
		}
		p := Info{Kind: "deb", Name: name, Version: version, Arch: fields["Architecture"], Homepage: fields["Homepage"], Supplier: person(fields["Maintainer"])}
		source, sourceVersion, given := strings.Cut(fields["Source"], " (")
		if source == "" {
			source = name
		}
		if sourceVersion = strings.TrimSuffix(sourceVersion, ")"); !given {
			sourceVersion = version
		}
		p.Source = source + " " + sourceVersion
		upstream := ""
		if source != name || sourceVersion != version {
			upstream = source + "@" + sourceVersion
		}
		p.PURL = s.os.purl("deb", "debian", name, version, map[string]string{"arch": p.Arch, "upstream": upstream})
		p.License = s.copyright("usr/share/doc/" + name + "/copyright")
		s.add(p)
	}
	return nil
}

// checkLines returns an error if a line of a database is not that of a field: the file is damaged, and
// its packages would be missing.
func checkLines(file, text string) error {
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimRight(line, "\r\n")
		if strings.TrimSpace(line) != "" && !strings.ContainsAny(line[:1], " \t#") && !strings.Contains(line, ":") {
			return fmt.Errorf("%s: line %d is not a field and its value, but %.60q: the file is damaged", file, n, line)
		}
	}
	return nil
}

// maxCopyright is the size of the largest copyright file that is read, in bytes.
const maxCopyright = 1 << 20

// copyright returns the license in a copyright file, or "". Packages of one source share it.
func (s *scanner) copyright(path string) string {
	n, err := s.tree.Open(path)
	if err != nil || n.Type() != tree.Regular || n.Size() > maxCopyright {
		return ""
	}
	license, ok := s.licenses[n]
	if !ok {
		if text, err := readNode(path, n); err == nil {
			license = copyrightLicense(string(text))
		}
		s.licenses[n] = license
	}
	return license
}

func person(maintainer string) string {
	if maintainer == "" {
		return ""
	}
	// SPDX writes "Person: NAME (EMAIL)".
	return "Person: " + strings.NewReplacer("<", "(", ">", ")").Replace(maintainer)
}

// paragraphs yields the paragraphs of a Debian control file. Lines that continue a field are
// separated by newlines.
func paragraphs(text string) iter.Seq[map[string]string] {
	return func(yield func(map[string]string) bool) {
		fields, last := map[string]string{}, ""
		for line := range strings.Lines(text) {
			line = strings.TrimRight(line, "\r\n")
			key, value, ok := strings.Cut(line, ":")
			switch {
			case strings.TrimSpace(line) == "":
				if len(fields) > 0 && !yield(fields) {
					return
				}
				fields, last = map[string]string{}, ""
			case line[0] == ' ' || line[0] == '\t':
				if last != "" {
					fields[last] += "\n" + strings.TrimSpace(line)
				}
			case line[0] != '#' && ok:
				last = key
				fields[key] = strings.TrimSpace(value)
			}
		}
		if len(fields) > 0 {
			yield(fields)
		}
	}
}

// Debian describes a Debian package by its file.
func Debian(name, version, arch, sha256 string) Info {
	return Info{Kind: "deb", Name: name, Version: version, Arch: arch, SHA256: sha256, PURL: purl("deb", "debian", name, version, map[string]string{"arch": arch})}
}
