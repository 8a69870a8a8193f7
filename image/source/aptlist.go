package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
)

// Names and versions as in the Debian Policy Manual (5.6.1 and 5.6.12). Options of apt and
// suffixes for other releases do not match.
var (
	packageName    = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`)
	packageVersion = regexp.MustCompile(`^(?:[0-9]+:)?[A-Za-z0-9][A-Za-z0-9.+~-]*$`)
)

// record is the entry of a package in the package lists.
type record struct {
	name, version, arch, sha256 string
	depends, exact              []string
}

func (a *apt) show(ctx context.Context, names []string) ([]byte, error) {
	return a.run(ctx, a.dir, filepath.Join(filepath.Dir(a.program), "apt-cache"), append([]string{"show", "--no-all-versions", "--"}, names...)...)
}

// record returns the entry of a package, NAME or NAME=VERSION.
func (a *apt) record(ctx context.Context, name string) (*record, error) {
	if r := a.records[name]; r != nil {
		return r, nil
	}
	out, err := a.show(ctx, []string{name})
	if err != nil {
		return nil, err
	}
	first, _, _ := strings.Cut(string(out), "\n\n")
	r, err := parseRecord(first)
	if bare, _, _ := strings.Cut(name, "="); err == nil && r.name != bare {
		err = errNoRecord
	}
	return r, err
}

var errNoRecord = errors.New("apt-cache: no such package, or a virtual package")

// parseRecord parses an entry in the format of Debian control files.
func parseRecord(text string) (*record, error) {
	fields := map[string]string{}
	for line := range strings.Lines(text) {
		if k, v, ok := strings.Cut(line, ":"); ok && !strings.HasPrefix(line, " ") {
			fields[k] = strings.TrimSpace(v)
		}
	}
	r := &record{name: fields["Package"], version: fields["Version"], arch: fields["Architecture"], sha256: strings.ToLower(fields["SHA256"])}
	if r.name == "" || r.version == "" {
		return nil, errNoRecord
	}
	if !packageName.MatchString(r.name) || !packageVersion.MatchString(r.version) {
		return nil, fmt.Errorf("the package lists have the invalid name %.60q or version %.60q", r.name, r.version)
	}
	if sum, err := hex.DecodeString(r.sha256); err != nil || len(sum) != sha256.Size {
		return nil, fmt.Errorf("%s: the package lists have no valid SHA-256 for it", r.version)
	}
	for _, field := range []string{"Pre-Depends", "Depends"} {
		for dep := range strings.SplitSeq(fields[field], ",") {
			if name := dependsName.FindString(strings.TrimSpace(dep)); name != "" {
				r.depends = append(r.depends, name)
			}
			if m := exactDepends.FindStringSubmatch(strings.TrimSpace(dep)); m != nil && field == "Depends" && packageVersion.MatchString(m[2]) {
				r.exact = append(r.exact, m[1]+"="+m[2])
			}
		}
	}
	return r, nil
}

var dependsName = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+`)

var exactDepends = regexp.MustCompile(`^([a-z0-9][a-z0-9+.-]+)(?::[a-z0-9]+)? \(= ([^()|]+)\)$`)
