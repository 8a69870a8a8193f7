package tree

import (
	"fmt"
	"slices"
	"strings"
)

// Xattr is an extended attribute with its full name, such as
// "security.capability".
type Xattr struct {
	Name  string
	Value string
}

// Names of the extended attributes with POSIX access control lists, acl(5).
const (
	ACL        = "system.posix_acl_access"
	DefaultACL = "system.posix_acl_default"
)

// UnsupportedXattrs is the kind of [Loss] of attributes that [KeepXattr] leaves out.
const UnsupportedXattrs = "extended attributes other than user., trusted. and security."

// KeepXattr reports whether trees hold the extended attribute. They leave out
// attributes that the kernel generates, such as the rest of system.*.
func KeepXattr(name string) bool {
	if name == ACL || name == DefaultACL {
		return true
	}
	for _, prefix := range []string{"user.", "trusted.", "security."} {
		if len(name) > len(prefix) && strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// CheckXattrs checks the limits of Linux: names of 255 bytes and values of 64 KiB.
func CheckXattrs(all []Xattr) error {
	for _, x := range all {
		switch {
		case len(x.Name) > 255:
			return fmt.Errorf("extended attribute %.60s…: a name of %d bytes is longer than 255", x.Name, len(x.Name))
		case len(x.Value) > 64<<10:
			return fmt.Errorf("extended attribute %s: a value of %d bytes is longer than %d", x.Name, len(x.Value), 64<<10)
		}
	}
	return nil
}

// WithoutXattrs returns a tree without the extended attributes for which drop is true,
// the number of paths that had any, and the first of these paths. With none, it returns t
// itself.
func (t *Tree) WithoutXattrs(drop func(name string) bool) (left *Tree, n int, first string) {
	left = t
	dropXattr := func(x Xattr) bool { return drop(x.Name) }
	changed := map[*Inode]*Inode{}
	for path, old := range t.All() {
		if !slices.ContainsFunc(old.Xattrs, dropXattr) {
			continue
		}
		if n++; n == 1 {
			left, first = t.Without(nil), path
		}
		if changed[old] == nil {
			made := *old
			made.Xattrs = slices.DeleteFunc(slices.Clone(old.Xattrs), dropXattr)
			changed[old] = &made
		}
		left.replace(path, changed[old])
	}
	return left, n, first
}

// replace replaces the inode at path by another of the same type.
func (t *Tree) replace(path string, n *Inode) {
	if _, d := t.find(path); d != nil {
		d.inode = n
		return
	}
	_, up := t.find(Parent(path))
	up.files[strings.Clone(base(path))] = n
}
