package edit

import (
	"errors"
	"fmt"
	"path"

	"imgtool/image/tree"
)

// Live are patterns of paths that exist only while a system runs, in directories that are
// empty on its disk.
var Live = []string{"/dev/*", "/proc/*", "/sys/*", "/tmp/*", "/run/*", "/mnt/*", "/media/*", "/lost+found/*"}

// Derive returns a copy of t without the paths that a pattern of [path.Match] matches and
// everything below them: "/tmp/*" empties a directory, "/var/log/journal" removes it.
// Symbolic links are not followed. A pattern may match nothing.
func Derive(t *tree.Tree, exclude []string) (*tree.Tree, error) {
	for _, pattern := range exclude {
		if _, err := path.Match(pattern, ""); err != nil {
			return nil, fmt.Errorf("exclude %q: %w", pattern, err)
		}
		if err := checkPath(pattern); err != nil {
			return nil, fmt.Errorf("exclude: %w", err)
		}
		if pattern == "/" {
			return nil, errors.New("exclude \"/\" would remove the whole tree")
		}
	}
	return t.Without(func(p string) bool {
		for _, pattern := range exclude {
			if ok, _ := path.Match(pattern[1:], p); ok {
				return true
			}
		}
		return false
	}), nil
}

// Sub returns the tree below a directory, for a partition that is mounted there.
func Sub(t *tree.Tree, dir string) (*tree.Tree, error) {
	at, n, err := find(t, dir, true)
	if err != nil {
		return nil, err
	}
	if n.Type() != tree.Dir {
		return nil, fmt.Errorf("%s is %s, not a directory", dir, typeNames[n.Type()])
	}
	return t.Sub(at), nil
}
