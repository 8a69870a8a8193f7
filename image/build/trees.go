package build

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"imgtool/boards"
	"imgtool/image"
	"imgtool/image/edit"
	"imgtool/image/ext4"
	"imgtool/image/extlinux"
	"imgtool/image/tree"
	"imgtool/layouts"
)

// buildTrees makes the trees of the board, in the order of its definition, and checks the
// trees of partitions.
func (b *builder) buildTrees() error {
	if len(b.Board.Trees) == 0 {
		return nil
	}
	vars, err := b.variables()
	if err != nil {
		return err
	}
	if err := b.replaceInRoot(vars); err != nil {
		return err
	}
	for _, t := range b.Board.Trees {
		b.trees[t.Name], err = b.buildTree(t, vars)
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w: the root file system must have it, or get it from --edits", err)
		}
		if err != nil {
			return fmt.Errorf("tree %s: %w", t.Name, err)
		}
	}
	for _, t := range b.Board.Trees {
		if !b.used(func(p layouts.Part) bool { return p.Tree == t.Name }) {
			continue
		}
		if err := b.checkTree(t, vars); err != nil {
			return fmt.Errorf("tree %s: %w", t.Name, err)
		}
	}
	return nil
}

func (b *builder) buildTree(t boards.Tree, vars map[string]string) (made *tree.Tree, err error) {
	switch t.From {
	case "":
		made = tree.New(b.Time)
	case "rootfs":
		made = b.root.Tree
	default:
		made = b.trees[t.From]
	}
	if t.Sub != "" {
		if made.Lookup(strings.Trim(t.Sub, "/")) == nil {
			if b.used(func(p layouts.Part) bool { return p.Tree == t.Name }) {
				b.Warn(fmt.Sprintf("the root file system has no directory %s: the tree %s is empty", t.Sub, t.Name))
			}
			made = tree.New(b.Time)
		} else if made, err = edit.Sub(made, t.Sub); err != nil {
			return nil, err
		}
	}
	without := t.Without
	if t.Live {
		without = slices.Concat(without, edit.Live)
	}
	if len(without) > 0 {
		if made, err = edit.Derive(made, without); err != nil {
			return nil, err
		}
	}
	for _, s := range t.Steps {
		if s.Profile != "" && s.Profile != b.Profile || s.Unless != "" && b.Flags[s.Unless] {
			continue
		}
		if _, err := b.Board.Partition(s.Partition); s.Partition != "" && err != nil {
			continue
		}
		edits, err := edit.Parse("edits/"+s.Edits, s.Text)
		if err != nil {
			return nil, err
		}
		if made, err = edit.Apply(made, edits, vars, b.Time, b.Warn); err != nil {
			return nil, err
		}
	}
	return made, nil
}

// replaceInRoot puts optional inputs with a path into the root file system.
func (b *builder) replaceInRoot(vars map[string]string) error {
	for _, o := range b.Board.Optional {
		f := b.files[o.Input]
		if o.Path == "" || f == nil {
			continue
		}
		path := o.Path
		for name, value := range vars {
			path = strings.ReplaceAll(path, "@"+name+"@", value)
		}
		root := b.root.Tree.Without(nil)
		if err := root.Put(strings.Trim(path, "/"), &tree.Inode{Mode: tree.Regular | 0o644, ModTime: b.Time, Content: f.Content}); err != nil {
			return fmt.Errorf("%s: %w", o.Input, err)
		}
		b.root.Tree = root
	}
	return nil
}

func (b *builder) ext4(d *disk, p layouts.Part) (*image.Image, error) {
	t := b.trees[p.Tree]
	if t == nil {
		t = tree.New(b.Time)
	}
	b.warnTimes(p.Name, "ext4", t, ext4First, ext4Last)
	opt := ext4.Options{Label: p.Label, UUID: b.uuid("ext4 " + d.prefix + p.Name), HashSeed: b.uuid("ext4 hash " + d.prefix + p.Name), Time: b.Time, Size: p.Len}
	for _, made := range b.Board.Trees {
		if made.Name == p.Tree && made.Boots {
			opt.First = BootFiles(t)
		}
	}
	m, err := ext4.New(t, opt)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.Name, err)
	}
	return m, nil
}

// BootFiles returns the paths of the files that a boot loader reads from a tree. They should
// be contiguous.
func BootFiles(t *tree.Tree) []string {
	paths := []string{strings.Trim(edit.ExtlinuxConf, "/")}
	text, err := readText(t, edit.ExtlinuxConf)
	if err != nil {
		return nil
	}
	conf := extlinux.Parse(text)
	for _, label := range conf.Labels() {
		for _, key := range []string{"LINUX", "INITRD", "FDT"} {
			value, ok, _ := conf.Value(label, key)
			path, err := t.Resolve(value, true)
			if path = strings.Trim(path, "/"); ok && err == nil && t.Lookup(path) != nil && !slices.Contains(paths, path) {
				paths = append(paths, path)
			}
		}
	}
	return paths
}
