package tree

import (
	"fmt"
	"io/fs"
	"strings"
)

// Open returns what is at path, following symbolic links as a process would
// whose root folder this tree is. Where something is missing, the error says
// what, and wraps fs.ErrNotExist.
func (t *Tree) Open(path string) (*Inode, error) {
	real, err := t.resolve(path, true)
	if err != nil {
		return nil, err
	}
	if n := t.Lookup(real); n != nil {
		return n, nil
	}
	missing := real
	for up := Parent(real); t.Lookup(up) == nil; up = Parent(up) {
		missing = up
	}
	if strings.Trim(path, "/") == missing {
		return nil, fmt.Errorf("%s: %w", path, fs.ErrNotExist)
	}
	return nil, fmt.Errorf("%s: %s: %w", path, missing, fs.ErrNotExist)
}

// Resolve is where path leads: without symbolic links on the way to its last
// element, and with last without one there either. It follows them as Open does;
// what is not in the tree need not be there. An error is a loop, or a parent that
// is no folder.
func (t *Tree) Resolve(path string, last bool) (string, error) {
	clean := strings.Trim(path, "/")
	switch clean[strings.LastIndexByte(clean, '/')+1:] {
	case "", ".", "..":
		last = true
	}
	if !last {
		// As resolve does, but for paths with a slash before them.
		if up := t.Lookup(Parent(clean)); up != nil && up.Type() == Dir {
			return clean, nil
		}
	}
	return t.resolve(path, last)
}

// resolve returns the path without symbolic links on the way to its last
// element, and with last without one there either. What is not in the tree has
// no links. It fails where a link or parent is no folder.
func (t *Tree) resolve(path string, last bool) (string, error) {
	if up := t.Lookup(Parent(path)); !last && up != nil && up.Type() == Dir {
		return path, nil
	}
	at, rest, links := "", path, 0
	for rest != "" {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		switch name {
		case "", ".":
			continue
		case "..":
			at = Parent(at)
			continue
		}
		next := strings.TrimPrefix(at+"/"+name, "/")
		end := strings.Trim(rest, "/") == ""
		n := t.Lookup(next)
		switch {
		case end && !last || n == nil || n.Type() == Dir:
			at = next
		case n.Type() == Symlink:
			if links++; links > 40 {
				return "", fmt.Errorf("%s: more than 40 symbolic links on the way", path)
			}
			if strings.HasPrefix(n.Target, "/") {
				at = ""
			}
			rest = n.Target + "/" + rest
		case !end:
			return "", fmt.Errorf("%s: its parent %s is not a folder", path, next)
		default:
			at = next
		}
	}
	return at, nil
}

// Parent is the path of the directory that has path in it; that of the root is the root.
func Parent(path string) string {
	return path[:max(0, strings.LastIndexByte(path, '/'))]
}

func base(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }

// CheckPath refuses a path that no tree can have: not clean, or longer than Linux allows.
func CheckPath(path string) error {
	if path == "" {
		return nil
	}
	if len(path) > 4096 {
		return fmt.Errorf("%.60s…: a path of %d bytes is longer than 4096", path, len(path))
	}
	for e := range strings.SplitSeq(path, "/") {
		switch {
		case e == "" || e == "." || e == "..":
			return fmt.Errorf("%q is not a clean path", path)
		case len(e) > 255:
			return fmt.Errorf("%.60s…: a name of %d bytes is longer than 255", e, len(e))
		case strings.IndexByte(e, 0) >= 0:
			return fmt.Errorf("%q has a zero byte", path)
		}
	}
	return nil
}
