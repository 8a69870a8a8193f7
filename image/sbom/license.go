package sbom

import (
	"regexp"
	"slices"
	"strings"

	"github.com/github/go-spdx/v2/spdxexp"
)

// spdxLicense returns an SPDX license expression in its normal form, or "" if text is none.
// References to licenses outside of the SPDX list need their text in the document.
func spdxLicense(text string) string {
	if strings.Contains(text, "Ref-") {
		return ""
	}
	normal, _ := spdxexp.ValidateAndNormalizeLicensesWithOptions([]string{text}, spdxexp.ValidateLicensesOptions{})
	if len(normal) != 1 {
		return ""
	}
	return normal[0]
}

// copyrightLicense returns the license expression of a machine-readable debian/copyright, in
// which every paragraph of files has a license that SPDX knows, or "".
// https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
func copyrightLicense(text string) string {
	if !strings.HasPrefix(text, "Format: ") && !strings.Contains(text, "\nFormat: ") {
		return ""
	}
	var all []string
	for fields := range paragraphs(text) {
		if _, ok := fields["Files"]; !ok {
			continue
		}
		first, _, _ := strings.Cut(fields["License"], "\n")
		l := debianLicense(first)
		if l == "" {
			return ""
		}
		if !slices.Contains(all, l) {
			all = append(all, l)
		}
	}
	slices.Sort(all)
	if len(all) > 1 {
		for i, l := range all {
			if strings.Contains(l, " OR ") {
				all[i] = "(" + l + ")"
			}
		}
	}
	return spdxLicense(strings.Join(all, " AND "))
}

// debianLicense returns the SPDX expression for names of licenses joined by "and" or by "or", or
// "" if one has no equivalent.
func debianLicense(text string) string {
	for _, word := range []string{" or ", " and "} {
		parts := strings.Split(text, word)
		if len(parts) == 1 {
			continue
		}
		for i, part := range parts {
			if parts[i] = debianName(strings.TrimSpace(part)); parts[i] == "" {
				return ""
			}
		}
		return strings.Join(parts, strings.ToUpper(word))
	}
	return debianName(text)
}

// gnu matches the names of the GNU licenses, with or without a version after the point.
var gnu = regexp.MustCompile(`^(A|L|)GPL-([123])(\.[0-9])?(\+?)$`)

// debianNames has names of Debian's copyright format that SPDX spells in another way. Others,
// such as Apache-2.0, are the same.
var debianNames = map[string]string{"Expat": "MIT", "Artistic": "Artistic-1.0", "BSD-2-clause": "BSD-2-Clause", "BSD-3-clause": "BSD-3-Clause",
	"BSD-4-clause": "BSD-4-Clause", "zlib": "Zlib", "CC0": "CC0-1.0"}

func debianName(name string) string {
	if m := gnu.FindStringSubmatch(name); m != nil {
		minor, suffix := m[3], "-only"
		if minor == "" {
			minor = ".0"
		}
		if m[4] == "+" {
			suffix = "-or-later"
		}
		return spdxLicense(m[1] + "GPL-" + m[2] + minor + suffix)
	}
	if known, ok := debianNames[name]; ok {
		name = known
	}
	if strings.ContainsAny(name, " ()") {
		return ""
	}
	return spdxLicense(name)
}
