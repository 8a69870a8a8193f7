package tree

import (
	"fmt"
	"io/fs"
	"strings"

	"imgtool/image/suggest"
)

// maxLinks is the number of symbolic links that Linux follows in one path.
const maxLinks = 40

// Open returns the inode that path leads to. It follows symbolic links as a process
// would whose root directory this tree is. If something is missing, the error names it
// and wraps [fs.ErrNotExist].
func (t *Tree) Open(path string) (*Inode, error) {
	real, err := t.Resolve(path, true)
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
	var names []string
	for name := range t.List(Parent(missing)) {
		names = append(names, name)
	}
	return nil, &NotExistError{path, missing, suggest.Closest(base(missing), names)}
}

// NotExistError is the error of a path that does not exist in a tree.
type NotExistError struct {
	Path    string // as it was given
	Missing string // the first part of the path that does not exist, without symbolic links
	Like    string // a name in the same directory that is like the missing one, or ""
}

func (e *NotExistError) Error() string {
	if strings.Trim(e.Path, "/") == e.Missing {
		return fmt.Sprintf("%s: %v", e.Path, fs.ErrNotExist)
	}
	return fmt.Sprintf("%s: %s: %v", e.Path, e.Missing, fs.ErrNotExist)
}

func (e *NotExistError) Unwrap() error { return fs.ErrNotExist }

// Resolve returns the path in the tree that path leads to. It follows symbolic links as
// [Tree.Open] does: those in parent directories, and with last that in the last element
// too. Elements that are not in the tree are kept. It is an error if there are too many
// symbolic links, or a parent is not a directory.
func (t *Tree) Resolve(path string, last bool) (string, error) {
	clean := strings.Trim(path, "/")
	switch base(clean) {
	case "", ".", "..":
		last = true
	}
	if up := t.Lookup(Parent(clean)); !last && up != nil && up.Type() == Dir {
		return clean, nil // the usual case
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
			if links++; links > maxLinks {
				return "", fmt.Errorf("%s: more than %d symbolic links on the way", path, maxLinks)
			}
			if strings.HasPrefix(n.Target, "/") {
				at = ""
			}
			rest = n.Target + "/" + rest
		case !end:
			return "", fmt.Errorf("%s: its parent %s is not a directory", path, next)
		default:
			at = next
		}
	}
	return at, nil
}

// Parent returns the path of the directory that contains path. The parent of the root
// is the root.
func Parent(path string) string {
	return path[:max(0, strings.LastIndexByte(path, '/'))]
}

func base(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }

// CheckPath checks that path has the form that a [Tree] requires and is within the
// limits of Linux.
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
