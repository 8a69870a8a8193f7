package tree

import (
	"io"
	"strings"
)

const (
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
	reserved = ".wh..wh." // names that old Docker storage kept for itself
)

// Apply lays a layer of a container image over the tree: an uncompressed tar in
// which an entry .wh.NAME takes away NAME, and .wh..wh..opq all that lower
// layers have in its folder. Both are about lower layers only, wherever in the
// tar they stand. A hard link is to what its target is when the link comes, even
// if this layer takes the target away.
//
// The zeros that mark the end of a tar, and those that fill up its last file, may be
// missing, as they are in layers of some programs.
//
// After an error the tree is of no use.
func (t *Tree) Apply(layer io.ReaderAt, size int64) error {
	var entries []entry
	hidden := map[string]bool{}  // and all below
	emptied := map[string]bool{} // what is below
	behind, err := readTar(layer, size, true, func(e entry) error {
		dir, name := parent(e.path), base(e.path)
		if !strings.HasPrefix(name, whiteout) {
			entries = append(entries, e)
			return nil
		}
		if name != opaque && strings.HasPrefix(name, reserved) {
			return nil
		}
		// What leads nowhere in the lower layers hides nothing.
		dir, err := t.resolve(dir, true)
		if err != nil {
			return nil
		}
		if name == opaque {
			emptied[dir] = true
		} else if name = name[len(whiteout):]; name != "" {
			hidden[join(dir, name)] = true
		}
		return nil
	})
	if err != nil {
		return err
	}
	t.behind += behind

	gone := map[string]*Inode{}
	for p := range hidden {
		t.takeAway(p, gone)
	}
	for dir := range emptied {
		for name := range t.List(dir) {
			t.takeAway(join(dir, name), gone)
		}
	}
	for _, e := range entries {
		path, err := t.resolve(e.path, false)
		if err != nil {
			return err
		}
		if err := t.place(path, e, gone); err != nil {
			return err
		}
	}
	return nil
}

// takeAway removes path and all below it, and remembers in gone what there was.
func (t *Tree) takeAway(path string, gone map[string]*Inode) {
	n, f := t.find(path)
	if n == nil || path == "" {
		return
	}
	gone[path] = n
	if f != nil {
		f.all(path+"/", func(p string, n *Inode) bool {
			gone[p] = n
			return true
		})
	}
	t.Remove(path)
}
