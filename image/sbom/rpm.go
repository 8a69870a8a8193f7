package sbom

import (
	"fmt"
	"strconv"
	"strings"

	"imgtool/image/sbom/rpmdb"
	"imgtool/image/tree"
)

// rpmDirectories are where distributions keep the database of rpm(8). Some are links to others.
var rpmDirectories = []string{"usr/lib/sysimage/rpm", "var/lib/rpm", "usr/share/rpm"}

func (s *scanner) rpm() error {
	for _, dir := range rpmDirectories {
		for _, name := range rpmdb.Files {
			path := dir + "/" + name
			n, err := s.tree.Open(path)
			if err != nil || n.Type() != tree.Regular || n.Content == nil {
				continue
			}
			if wal, err := s.tree.Open(path + "-wal"); err == nil && wal.Size() > 0 {
				s.warn(fmt.Sprintf("%s-wal is not read: packages that were installed or removed last may be wrong", path))
			}
			if n.Size() > maxDatabase {
				return fmt.Errorf("%s has %d bytes, the limit for package databases is %d", path, n.Size(), maxDatabase)
			}
			all, err := rpmdb.Read(n.Content, n.Size())
			if err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			for _, p := range all {
				s.addRPM(p)
			}
			return nil
		}
	}
	return nil
}

func (s *scanner) addRPM(r rpmdb.Package) {
	p := Info{Kind: "rpm", Name: r.Name, Version: r.Version + "-" + r.Release, Arch: r.Arch, Homepage: r.URL, License: spdxLicense(r.License)}
	if r.Vendor != "" {
		p.Supplier = "Organization: " + r.Vendor
	}
	epoch := ""
	if r.Epoch >= 0 {
		epoch = strconv.FormatInt(r.Epoch, 10)
	}
	p.PURL = s.os.purl("rpm", "", r.Name, p.Version, map[string]string{"arch": r.Arch, "epoch": epoch, "upstream": r.SourceRPM})
	if epoch != "" {
		p.Version = epoch + ":" + p.Version
	}
	p.Source = strings.TrimSuffix(r.SourceRPM, ".src.rpm")
	s.add(p)
}
