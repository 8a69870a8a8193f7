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

// UnsupportedXattrs is the kind of loss of extended attributes that a tree does not keep.
const UnsupportedXattrs = "extended attributes other than user., trusted. and security."

// Access control lists, as getxattr(2) has them.
const (
	ACL        = "system.posix_acl_access"
	DefaultACL = "system.posix_acl_default"
)

// KeepXattr leaves out what a kernel makes up itself, such as the rest of system.*.
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

// CheckXattrs refuses what is beyond the kernel's limits.
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

// WithoutXattrs is a tree without the extended attributes for which drop says so,
// how many paths had any, and the first of them.
func (t *Tree) WithoutXattrs(drop func(name string) bool) (left *Tree, n int, first string) {
	left = t
	changed := map[*Inode]*Inode{}
	for path, old := range t.All() {
		if !slices.ContainsFunc(old.Xattrs, func(x Xattr) bool { return drop(x.Name) }) {
			continue
		}
		if n++; n == 1 {
			left, first = t.Without(nil), path
		}
		if changed[old] == nil {
			made := *old
			made.Xattrs = slices.DeleteFunc(slices.Clone(old.Xattrs), func(x Xattr) bool { return drop(x.Name) })
			changed[old] = &made
		}
		left.replace(path, changed[old])
	}
	return left, n, first
}

// replace puts n in the place of what is at path, which is of the same type.
func (t *Tree) replace(path string, n *Inode) {
	if _, f := t.find(path); f != nil {
		f.node = n
		return
	}
	_, up := t.find(Parent(path))
	up.leaves[strings.Clone(base(path))] = n
}
