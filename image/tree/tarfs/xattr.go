package tarfs

import (
	"encoding/base64"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"imgtool/image/tree"
)

// The SELinux label: the record of GNU tar and star, and the extended attribute.
const (
	selinuxRecord = "RHT.security.selinux"
	selinux       = "security.selinux"
)

// GNU tar escapes two characters in names.
var unescapeXattr = strings.NewReplacer("%3D", "=", "%25", "%")

// xattrs returns the extended attributes in the records of an extended header.
func xattrs(records map[string]string) ([]tree.Xattr, error) {
	var all []tree.Xattr
	add := func(name, value string) {
		if tree.KeepXattr(name) && !slices.ContainsFunc(all, func(x tree.Xattr) bool { return x.Name == name }) {
			all = append(all, tree.Xattr{Name: strings.Clone(name), Value: strings.Clone(value)})
		}
	}
	keys := slices.Sorted(maps.Keys(records))
	for _, k := range keys {
		if name, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
			add(unescapeXattr.Replace(name), records[k])
		}
	}
	if label := records[selinuxRecord]; label != "" {
		add(selinux, label+"\x00") // as setfilecon(3) stores it
	}
	// libarchive writes both records; this one is the fallback.
	for _, k := range keys {
		v := records[k]
		name, ok := strings.CutPrefix(k, "LIBARCHIVE.xattr.")
		if !ok {
			continue
		}
		if plain, err := url.PathUnescape(name); err == nil {
			name = plain
		}
		if !tree.KeepXattr(name) {
			continue
		}
		value, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(v, "="))
		if err != nil {
			return nil, fmt.Errorf("extended attribute %s: %w", name, err)
		}
		add(name, string(value))
	}
	for _, k := range keys {
		if name, ok := aclRecords[k]; ok {
			// lostRecords reports an invalid one.
			if value, err := parseACL(records[k]); err == nil && value != "" {
				add(name, value)
			}
		}
	}
	slices.SortFunc(all, func(a, b tree.Xattr) int { return strings.Compare(a.Name, b.Name) })
	return all, tree.CheckXattrs(all)
}

// loss is metadata of an entry that a tree cannot hold.
type loss struct{ what, detail string }

// lostRecords returns what is left out of the records of an extended header, each kind
// once.
func lostRecords(records map[string]string) (lost []loss) {
	if len(records) == 0 {
		return nil
	}
	lose := func(what, detail string) {
		if !slices.ContainsFunc(lost, func(l loss) bool { return l.what == what }) {
			lost = append(lost, loss{what, detail})
		}
	}
	for _, k := range slices.Sorted(maps.Keys(records)) {
		v := records[k]
		if v == "" {
			continue
		}
		if name, ok := aclRecords[k]; ok {
			if _, err := parseACL(v); err != nil && records["SCHILY.xattr."+name] == "" {
				lose("access control lists", err.Error())
			}
			continue
		}
		switch k {
		case "SCHILY.acl.ace":
			lose("NFSv4 access control lists", "")
		case "SCHILY.fflags":
			lose("file flags", v)
		}
		name, ok := strings.CutPrefix(k, "SCHILY.xattr.")
		if !ok {
			if name, ok = strings.CutPrefix(k, "LIBARCHIVE.xattr."); ok {
				if plain, err := url.PathUnescape(name); err == nil {
					name = plain
				}
			}
		}
		if name = unescapeXattr.Replace(name); ok && !tree.KeepXattr(name) {
			lose(tree.UnsupportedXattrs, name)
		}
	}
	return lost
}
