// Package sbom lists the packages that are installed in a tree, and describes an image as an
// SPDX 2.3 document.
//
// [Scan] reads the databases of dpkg, apk and rpm, and the names of Nix store paths.
// [Document.Encode] writes the document. The same values give the same bytes.
package sbom

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	packageurl "github.com/package-url/packageurl-go"

	"imgtool/image"
	"imgtool/image/tree"
)

// Info describes a package: a piece of software, an input or an image.
type Info struct {
	Kind     string // such as "deb" or "image"; part of the package's identifier
	Name     string
	Version  string
	Arch     string
	Source   string // the source package and its version, such as "glibc 2.36-9"
	License  string // an SPDX expression; "" if it is not known
	Supplier string // who distributes it; "" if it is not known
	Homepage string
	PURL     string // its package URL; may be empty
	File     string // its file name, if it is a file
	SHA256   string // of the file, hexadecimal
	Purpose  string // as SPDX names it, such as FIRMWARE; may be empty
	Comment  string
}

// Package is a package with what it contains and what it was made from.
type Package struct {
	Info
	Contains, From []Package
}

// maxDatabase is the size of the largest database that is read, in bytes.
const maxDatabase = 256 << 20

// Scan returns the packages that are installed in a tree, sorted. Its errors name the file that
// could not be read. Unsupported databases cause a warning.
func Scan(t *tree.Tree, warn func(string)) ([]Package, error) {
	s := &scanner{tree: t, warn: warn, os: readOS(t), licenses: map[*tree.Inode]string{}}
	for _, scan := range []func() error{s.dpkg, s.apk, s.rpm} {
		if err := scan(); err != nil {
			return nil, err
		}
	}
	s.nix()
	return sorted(s.found), nil
}

// NoPackages is the warning about an image without packages.
const NoPackages = "no packages are listed: no database of dpkg, apk or rpm and no Nix store was found"

type scanner struct {
	tree  *tree.Tree
	os    osRelease
	warn  func(string)
	found []Package

	licenses map[*tree.Inode]string // in copyright files
}

func (s *scanner) add(p Info) { s.found = append(s.found, Package{Info: p}) }

// sorted returns packages in order and without duplicates.
func sorted(all []Package) []Package {
	slices.SortFunc(all, func(a, b Package) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Version, b.Version), cmp.Compare(a.PURL, b.PURL))
	})
	return slices.CompactFunc(all, func(a, b Package) bool { return a.Info == b.Info })
}

// read returns the content of a file, or nil if there is none.
func (s *scanner) read(path string) ([]byte, error) {
	n, err := s.tree.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return readNode(path, n)
}

func readNode(path string, n *tree.Inode) ([]byte, error) {
	switch {
	case n.Type() != tree.Regular:
		return nil, fmt.Errorf("%s is not a regular file", path)
	case n.Size() > maxDatabase:
		return nil, fmt.Errorf("%s has %d bytes, the limit for package databases is %d", path, n.Size(), maxDatabase)
	case n.Content == nil:
		return []byte{}, nil
	}
	text := make([]byte, n.Size())
	if _, err := image.ReadFull(n.Content, text, 0); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return text, nil
}

// osRelease has the fields of os-release(5) that package URLs contain.
type osRelease struct{ id, version string }

func readOS(t *tree.Tree) (os osRelease) {
	s := scanner{tree: t}
	for _, path := range []string{"/etc/os-release", "/usr/lib/os-release"} {
		text, err := s.read(path)
		if err != nil || text == nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
			value = strings.Trim(value, `"'`)
			switch key {
			case "ID":
				os.id = value
			case "VERSION_ID":
				os.version = value
			}
		}
		return os
	}
	return os
}

// purl returns a package URL. namespace is used if os-release has no ID.
func (os osRelease) purl(kind, namespace, name, version string, qualifiers map[string]string) string {
	distro := os.id
	if distro != "" && os.version != "" {
		distro += "-" + os.version
	}
	q := map[string]string{"distro": distro}
	maps.Copy(q, qualifiers)
	return purl(kind, cmp.Or(os.id, namespace), name, version, q)
}

// purl returns a package URL. Empty qualifiers are left out.
func purl(kind, namespace, name, version string, qualifiers map[string]string) string {
	maps.DeleteFunc(qualifiers, func(_, value string) bool { return value == "" })
	return packageurl.NewPackageURL(kind, namespace, name, version, packageurl.QualifiersFromMap(qualifiers), "").ToString()
}

// OCI returns the package URL of a container image. ref is HOST/REPOSITORY:TAG, which may follow
// a scheme, or a name.
func OCI(ref, digest string) string {
	if _, rest, ok := strings.Cut(ref, "://"); ok {
		ref = rest
	}
	ref, _, _ = strings.Cut(ref, "@")
	slash := strings.LastIndexByte(ref, '/')
	name, tag, _ := strings.Cut(ref[slash+1:], ":")
	repository := ""
	if slash > 0 {
		repository = ref[:slash+1] + name
	}
	return purl("oci", "", strings.ToLower(name), digest, map[string]string{"tag": tag, "repository_url": repository})
}
