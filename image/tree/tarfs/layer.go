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
	reserved = ".wh..wh." // prefix of internal names of AUFS
)

// ApplyLayer applies a layer of a container image to t: an uncompressed tar in which an
// entry .wh.NAME (a whiteout) removes NAME, and .wh..wh..opq (an opaque whiteout) removes
// all entries of its directory. Whiteouts affect lower layers only, wherever in the tar
// they are: see layer.md of the OCI image specification. A hard link refers to its target
// at its own position in the tar, even if this layer removes the target.
//
// The blocks of zeros at the end of the tar, and the padding of its last file, may be
// missing, as some programs omit them.
//
// After an error the tree must not be used.
func ApplyLayer(t *tree.Tree, layer io.ReaderAt, size int64) error {
	var entries []entry
	hidden := map[string]bool{}  // with everything below
	emptied := map[string]bool{} // directories
	behind, err := readTar(layer, size, true, func(e entry) error {
		dir, name := tree.Parent(e.path), path.Base(e.path)
		if !strings.HasPrefix(name, whiteout) {
			entries = append(entries, e)
			return nil
		}
		if name != opaque && strings.HasPrefix(name, reserved) {
			return nil
		}
		// A whiteout of a path that lower layers do not have does nothing.
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
		remove(t, p, gone)
	}
	for dir := range emptied {
		for name := range t.List(dir) {
			remove(t, path.Join(dir, name), gone)
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

// remove removes path and everything below it, and records the inodes in gone.
func remove(t *tree.Tree, path string, gone map[string]*tree.Inode) {
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
