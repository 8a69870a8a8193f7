package tarfs

import (
	"io"
	"path"
	"strings"

	"imgtool/image/tree"
)

const (
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
	reserved = ".wh..wh." // names that old Docker storage kept for itself
)

// ApplyLayer lays a layer of a container image over the tree: an uncompressed tar in
// which an entry .wh.NAME takes away NAME, and .wh..wh..opq all that lower
// layers have in its folder. Both are about lower layers only, wherever in the
// tar they stand. A hard link is to what its target is when the link comes, even
// if this layer takes the target away.
//
// The zeros that mark the end of a tar, and those that fill up its last file, may be
// missing, as they are in layers of some programs.
//
// After an error the tree is of no use.
func ApplyLayer(t *tree.Tree, layer io.ReaderAt, size int64) error {
	var entries []entry
	hidden := map[string]bool{}  // and all below
	emptied := map[string]bool{} // what is below
	behind, err := readTar(layer, size, true, func(e entry) error {
		dir, name := tree.Parent(e.path), path.Base(e.path)
		if !strings.HasPrefix(name, whiteout) {
			entries = append(entries, e)
			return nil
		}
		if name != opaque && strings.HasPrefix(name, reserved) {
			return nil
		}
		// What leads nowhere in the lower layers hides nothing.
		dir, err := t.Resolve(dir, true)
		if err != nil {
			return nil
		}
		if name == opaque {
			emptied[dir] = true
		} else if name = name[len(whiteout):]; name != "" {
			hidden[path.Join(dir, name)] = true
		}
		return nil
	})
	if err != nil {
		return err
	}
	t.AddTrailing(behind)

	gone := map[string]*tree.Inode{}
	for p := range hidden {
		takeAway(t, p, gone)
	}
	for dir := range emptied {
		for name := range t.List(dir) {
			takeAway(t, path.Join(dir, name), gone)
		}
	}
	for _, e := range entries {
		path, err := t.Resolve(e.path, false)
		if err != nil {
			return err
		}
		if err := place(t, path, e, gone); err != nil {
			return err
		}
	}
	return nil
}

// takeAway removes path and all below it, and remembers in gone what there was.
func takeAway(t *tree.Tree, path string, gone map[string]*tree.Inode) {
	n := t.Lookup(path)
	if n == nil || path == "" {
		return
	}
	gone[path] = n
	for p, n := range t.Below(path) {
		gone[p] = n
	}
	t.Remove(path)
}
