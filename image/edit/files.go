package edit

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"imgtool/image/tree"
)

// write writes a text file. An existing file keeps its mode and owner unless the edit gives
// them.
func (w *work) write(e *Edit) error {
	at, err := w.place(e.Path, true, e.Parents)
	if err != nil {
		return err
	}
	old := w.t.Lookup(at)
	n := cmp.Or(old, &tree.Inode{Mode: tree.Regular | 0o644, ModTime: w.modTime})
	if n.Type() != tree.Regular {
		return fmt.Errorf("%s is %s, not a file", e.Path, typeNames[n.Type()])
	}
	want, err := w.attributes(n, e)
	if err != nil {
		return err
	}
	// A file that cannot be read as text differs.
	if text, err := readText(e.Path, n); old == nil || err != nil || text != e.Text {
		want = w.withText(want, e.Text)
	}
	if want == old {
		return nil
	}
	return w.change(at, n, want)
}

// attributes returns n with the mode and owner of an edit; n itself if it has them.
func (w *work) attributes(n *tree.Inode, e *Edit) (*tree.Inode, error) {
	c := *n
	if e.has("mode") {
		mode, err := parseMode(e.Mode)
		if err != nil {
			return nil, err
		}
		c.Mode = n.Type() | mode
	}
	if e.has("owner") {
		var err error
		if c.UID, c.GID, err = w.owner(e.Owner); err != nil {
			return nil, err
		}
	}
	if c.Mode == n.Mode && c.UID == n.UID && c.GID == n.GID {
		return n, nil
	}
	c.ModTime = w.modTime
	return &c, nil
}

// owner looks up names in the tree's /etc/passwd and /etc/group.
func (w *work) owner(s string) (uid, gid uint32, err error) {
	user, group, _ := strings.Cut(s, ":")
	if uid, err = w.id("/etc/passwd", user); err != nil {
		return 0, 0, err
	}
	gid, err = w.id("/etc/group", group)
	return uid, gid, err
}

func (w *work) id(file, name string) (uint32, error) {
	if n, err := strconv.ParseUint(name, 10, 32); err == nil {
		return uint32(n), nil
	}
	_, _, text, err := w.text(file)
	if err != nil {
		return 0, fmt.Errorf("looking up %s: %w", name, err)
	}
	for line := range strings.Lines(text) {
		// name:password:id:…
		if f := strings.Split(strings.TrimSpace(line), ":"); len(f) > 2 && f[0] == name {
			n, err := strconv.ParseUint(f[2], 10, 32)
			if err != nil {
				return 0, fmt.Errorf("%s has the invalid ID %q for %s", file, f[2], name)
			}
			return uint32(n), nil
		}
	}
	return 0, fmt.Errorf("%s has no entry for %s", file, name)
}

func (w *work) mkdir(e *Edit) error {
	at, err := w.place(e.Path, true, e.Parents)
	if err != nil {
		return err
	}
	n := cmp.Or(w.t.Lookup(at), &tree.Inode{Mode: tree.Dir | 0o755, ModTime: w.modTime})
	if n.Type() != tree.Dir {
		return fmt.Errorf("%s is %s, not a directory", e.Path, typeNames[n.Type()])
	}
	if n, err = w.attributes(n, e); err != nil {
		return err
	}
	return w.t.Put(at, n)
}

func checkSymlink(e *Edit) error {
	if e.Target == "" {
		return fmt.Errorf("target is empty")
	}
	return nil
}

// symlink makes a symbolic link. The target must exist, unless dangling is set; with
// missing-ok, no link is made to a missing target. An existing link is replaced, a file
// only with replace, a directory never.
func (w *work) symlink(e *Edit) error {
	at, err := w.place(e.Path, false, e.Parents)
	if err != nil {
		return err
	}
	n := w.t.Lookup(at)
	switch {
	case n == nil || n.Type() == tree.Symlink:
	case n.Type() == tree.Dir:
		return fmt.Errorf("%s is a directory; remove or move it before linking", e.Path)
	case !e.Replace:
		return fmt.Errorf("%s is %s; replace = true replaces it", e.Path, typeNames[n.Type()])
	}
	if !e.Dangling {
		target := e.Target
		if !strings.HasPrefix(target, "/") {
			target = "/" + tree.Parent(at) + "/" + target
		}
		found, err := w.t.Open(target)
		if err == nil && found == n {
			err = fmt.Errorf("%s would be a link to itself", e.Path)
		}
		if e.MissingOK && errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: the target %s: %w; dangling = true allows a missing target", e.Path, e.Target, err)
		}
	}
	if n != nil && n.Size() > 0 {
		w.warn(fmt.Sprintf("%s is a file of %d bytes: a link to %s replaces it", e.Path, n.Size(), e.Target))
	}
	return w.link(at, e.Target)
}

func (w *work) link(at, target string) error {
	if n := w.t.Lookup(at); n != nil && n.Type() == tree.Symlink && n.Target == target {
		return nil
	}
	return w.t.Put(at, &tree.Inode{Mode: tree.SymlinkMode, ModTime: w.modTime, Target: target})
}

// remove removes a path and everything below it, or with contents only the entries of a
// directory.
func (w *work) remove(e *Edit) error {
	at, n, err := find(w.t, e.Path, e.Contents)
	switch {
	case e.MissingOK && errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !e.Contents && at == "":
		return fmt.Errorf("the root cannot be removed")
	case !e.Contents:
		w.t.Remove(at)
		return nil
	case n.Type() != tree.Dir:
		return fmt.Errorf("%s is %s, which has no contents", e.Path, typeNames[n.Type()])
	}
	for _, path := range w.below(at) {
		if tree.Parent(path) == at {
			w.t.Remove(path)
		}
	}
	return nil
}

// rename renames a file or directory. The new name must not exist.
func (w *work) rename(e *Edit) error {
	from, _, err := find(w.t, e.From, false)
	switch {
	case e.MissingOK && errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	to, err := w.place(e.To, false, e.Parents)
	switch {
	case err != nil:
		return err
	case from == "":
		return errors.New("the root cannot be renamed")
	case to == from:
		return nil
	case strings.HasPrefix(to, from+"/"):
		return fmt.Errorf("%s cannot be moved into itself, to %s", e.From, e.To)
	case w.t.Lookup(to) != nil:
		return fmt.Errorf("%s already exists", e.To)
	}
	return w.move(from, to)
}

func (w *work) chmod(e *Edit) error { return w.setAttributes(e, e.Path, true) }

func (w *work) chown(e *Edit) error {
	if err := w.setAttributes(e, e.Path, true); err != nil || !e.Recursive {
		return err
	}
	at, err := w.t.Resolve(e.Path, true)
	if err != nil {
		return err
	}
	for _, path := range w.below(at) {
		if err := w.setAttributes(e, "/"+path, false); err != nil {
			return err
		}
	}
	return nil
}

func (w *work) setAttributes(e *Edit, path string, follow bool) error {
	at, n, err := find(w.t, path, follow)
	if err != nil {
		return err
	}
	want, err := w.attributes(n, e)
	if err != nil || want == n {
		return err
	}
	return w.change(at, n, want)
}

// copy copies a file or directory with its metadata. Hard links within it become hard links
// of the copy.
func (w *work) copy(e *Edit) error {
	from, n, err := find(w.t, e.From, true)
	if err != nil {
		return err
	}
	to, err := w.place(e.To, false, e.Parents)
	if err != nil {
		return err
	}
	old := w.t.Lookup(to)
	switch {
	case to == from || strings.HasPrefix(to+"/", from+"/") || from == "":
		return fmt.Errorf("%s cannot be copied into itself, to %s", e.From, e.To)
	case old == nil:
	case old.Type() == tree.Dir || n.Type() == tree.Dir:
		return fmt.Errorf("%s already exists", e.To)
	case !e.Replace:
		return fmt.Errorf("%s already exists; replace = true replaces it", e.To)
	}
	twins := map[*tree.Inode]*tree.Inode{}
	for _, path := range append([]string{from}, w.below(from)...) {
		n := w.t.Lookup(path)
		twin := twins[n]
		if twin == nil {
			c := *n
			twin = &c
			twins[n] = twin
			w.linked[twin] = w.linked[n]
		}
		if err := w.t.Put(to+path[len(from):], twin); err != nil {
			return err
		}
	}
	return nil
}

// moveTree moves a directory. With link, the old path becomes a link to the new one; with
// make, a missing directory is made at the new path.
func (w *work) moveTree(e *Edit) error {
	from, err := w.t.Resolve(e.From, false)
	if err != nil {
		return err
	}
	n := w.t.Lookup(from)
	if n != nil && n.Type() == tree.Symlink && e.Link {
		target, err := w.t.Open(e.From)
		if there, _ := w.t.Open(e.To); err == nil && target == there && target.Type() == tree.Dir {
			return nil // it was moved by an earlier run
		}
	}
	switch {
	case n == nil && !e.Make:
		_, err := w.t.Open(e.From)
		return fmt.Errorf("%w; make = true makes an empty directory", err)
	case n == nil:
		if !e.Link {
			return fmt.Errorf("%s: make = true needs link = true", e.From)
		}
	case n.Type() != tree.Dir:
		return fmt.Errorf("%s is %s, not a directory", e.From, typeNames[n.Type()])
	case from == "":
		return fmt.Errorf("the root cannot be moved")
	}
	to, err := w.place(e.To, false, e.Parents)
	if err != nil {
		return err
	}
	if to == from || strings.HasPrefix(to, from+"/") {
		return fmt.Errorf("%s cannot be moved into itself, to %s", e.From, e.To)
	}
	if old := w.t.Lookup(to); old != nil && (old.Type() != tree.Dir || n != nil && len(w.below(to)) > 0) {
		return fmt.Errorf("%s already exists, and is not an empty directory", e.To)
	}
	if n == nil {
		if w.t.Lookup(to) == nil {
			err = w.t.Put(to, &tree.Inode{Mode: tree.Dir | 0o755, ModTime: w.modTime})
		}
	} else {
		err = w.move(from, to)
	}
	if err != nil || !e.Link {
		return err
	}
	if from, err = w.place(e.From, false, e.Parents); err != nil {
		return err
	}
	return w.link(from, e.To)
}

func (w *work) move(from, to string) error {
	paths := append([]string{from}, w.below(from)...)
	nodes := make([]*tree.Inode, len(paths))
	for i, path := range paths {
		nodes[i] = w.t.Lookup(path)
	}
	w.t.Remove(from)
	for i, path := range paths {
		if err := w.t.Put(to+path[len(from):], nodes[i]); err != nil {
			return err
		}
	}
	return nil
}
