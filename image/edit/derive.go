package edit

import (
	"fmt"
	"path"
	"strings"

	"imgtool/image/tree"
)

// Live are the patterns of what a running system puts into folders that are
// empty on its disk.
var Live = []string{"/dev/*", "/proc/*", "/sys/*", "/tmp/*", "/run/*", "/mnt/*", "/media/*", "/lost+found/*"}

// Derive returns another tree with the same nodes but for the paths that a
// pattern of path.Match matches, and all below them: "/tmp/*" empties a folder,
// "/var/log/journal" takes it away. Patterns are about the paths of the tree, not
// about where links lead. One that matches nothing is no error.
func Derive(t *tree.Tree, exclude []string) (*tree.Tree, error) {
	for _, pattern := range exclude {
		if _, err := path.Match(pattern, ""); err != nil {
			return nil, fmt.Errorf("exclude %q: %w", pattern, err)
		}
		if err := checkPath(pattern); err != nil {
			return nil, fmt.Errorf("exclude: %w", err)
		}
		if pattern == "/" {
			return nil, fmt.Errorf("exclude: all of the tree")
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

// Sub returns what is in a folder as a tree of its own, for a partition that is
// mounted there. The folder is its root.
func Sub(t *tree.Tree, folder string) (*tree.Tree, error) {
	n, err := t.Open(folder)
	if err != nil {
		return nil, err
	}
	if n.Type() != tree.Dir {
		return nil, fmt.Errorf("%s is %s, not a folder", folder, typeNames[n.Type()])
	}
	at, err := t.Resolve(folder, true)
	if err != nil {
		return nil, err
	}
	if at == "" {
		return t.Without(nil), nil
	}
	sub := tree.New(n.ModTime)
	if err := sub.Put("", n); err != nil {
		return nil, err
	}
	for p, n := range t.All() {
		if below, ok := strings.CutPrefix(p, at+"/"); ok {
			if err := sub.Put(below, n); err != nil {
				return nil, err
			}
		}
	}
	return sub, nil
}
