package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"

	"imgtool/boards"
	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/edit"
	"imgtool/image/erofs"
	"imgtool/image/fault"
	"imgtool/image/simg"
	"imgtool/image/source"
	"imgtool/image/squashfs"
	"imgtool/image/starter"
	"imgtool/image/suggest"
	"imgtool/image/tree"
	"imgtool/layouts"
)

// open opens all inputs, the root file system first, because others may be files in it.
func (b *builder) open(ctx context.Context) (err error) {
	defer b.openAhead(ctx)()
	if ref, ok := b.Inputs["rootfs"]; ok {
		if err := b.openRoot(ctx, ref); err != nil {
			return fmt.Errorf("rootfs: %w", err)
		}
		b.warnRootfsType()
		if b.root.Tree != nil && b.Root == nil {
			b.warnNoInit(b.root.Tree)
		}
	}
	for _, name := range b.Board.Inputs() {
		if name == "rootfs" {
			b.inputs = append(b.inputs, artifact.Input{Name: name, SHA256: b.root.Digest, Origin: b.root.Origin})
			continue
		}
		if without, ok := b.Board.IsOptional(name); ok && b.Inputs[name] == "" {
			if without != "" && b.used(func(p layouts.Part) bool { return p.Input == name && b.Parts[p.Name] == "" }) {
				b.Warn(fmt.Sprintf("no %s: %s", name, without))
			}
			continue
		}
		f, err := b.openFile(ctx, b.Inputs[name])
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if f.Size() == 0 {
			return fmt.Errorf("%s: %s is empty", name, b.Inputs[name])
		}
		b.files[name] = f
		b.inputs = append(b.inputs, artifact.Input{Name: name, SHA256: f.SHA256, Origin: f.Origin})
		if kind := b.Board.KindOf(name); !boards.LooksLike(kind, f) {
			b.Warn(fmt.Sprintf("%s is not recognised as %s: it is used unchanged", name, kind))
		}
		if r := b.Board.Recovery; r.UBoot == name {
			lacked, err := boards.LackedByUBoot(io.NewSectionReader(f, 0, f.Size()), r.Commands)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			for _, text := range lacked {
				b.Warn(name + ": " + text)
			}
		}
	}
	if err := b.openParts(ctx); err != nil {
		return err
	}
	return b.openLike(ctx)
}

// openRoot opens the root file system and changes it as the options say.
func (b *builder) openRoot(ctx context.Context, ref string) (err error) {
	switch {
	case b.Root != nil:
		c := *b.Root
		b.root = &c
	case strings.HasPrefix(ref, starter.Scheme):
		b.root, err = b.starter.Root(ctx, ref)
	default:
		b.root, err = b.Opener.Root(ctx, ref)
	}
	if err != nil {
		return err
	}
	given := b.root.Ready
	if len(b.Edits) > 0 || len(b.Board.Trees) > 0 || b.Generalize {
		b.root.Tree, err = b.rootTree()
		if errors.Is(err, erofs.ErrCompressed) {
			err = fault.WithHint(err, "its files are needed to change them: extract them with fsck.erofs --extract, and give the directory")
		}
	}
	if err == nil && b.Clamp && b.Root == nil && b.root.Tree != nil {
		b.clamped = b.root.Tree.Clamp(b.Time)
	}
	if err == nil && b.Generalize {
		err = b.generalize()
	}
	if err == nil && len(b.Edits) > 0 {
		b.root.Ready = nil
		b.root.Tree, err = edit.Apply(b.root.Tree, b.Edits, b.Vars, b.Time, b.Warn)
	}
	if err != nil {
		return err
	}
	if given != nil && b.root.Ready == nil && b.root.Format != "squashfs" {
		b.Warn(fmt.Sprintf("rootfs: the %s is changed, and becomes a squashfs", b.root.Format))
	}
	// A root file system that runs is one unit's, and a starter has no per-unit data.
	if b.Root == nil && !strings.HasPrefix(ref, starter.Scheme) {
		return b.warnPerUnit()
	}
	return nil
}

// used reports whether a partition of the media to build matches.
func (b *builder) used(such func(layouts.Part) bool) bool {
	return slices.ContainsFunc(b.disks, func(d *disk) bool { return slices.ContainsFunc(d.placed.Parts, such) })
}

// openAhead opens, while the root file system is read, the inputs that do not depend on it.
// The returned function cancels that.
func (b *builder) openAhead(ctx context.Context) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	b.ahead = map[string]func() (*source.File, error){}
	var opening sync.WaitGroup
	for name, ref := range b.Inputs {
		if name == "rootfs" || ref == "" || strings.HasPrefix(ref, starter.Scheme) || strings.HasPrefix(ref, "rootfs:") || strings.HasPrefix(ref, "deb:") {
			continue
		}
		open := sync.OnceValues(func() (*source.File, error) { return b.Opener.File(ctx, ref) })
		b.ahead[ref] = open
		opening.Go(func() { open() })
	}
	return func() {
		cancel()
		opening.Wait()
	}
}

func (b *builder) openFile(ctx context.Context, ref string) (*source.File, error) {
	if open := b.ahead[ref]; open != nil {
		return open()
	}
	if strings.HasPrefix(ref, starter.Scheme) {
		return b.starter.File(ctx, ref)
	}
	if inside, ok := strings.CutPrefix(ref, "rootfs:"); ok {
		if b.root == nil {
			return nil, fmt.Errorf("%s: the build has no root file system", ref)
		}
		t, err := b.rootTree()
		if err != nil {
			return nil, err
		}
		n, err := t.Open(inside)
		if missing, ok := errors.AsType[*tree.NotExistError](err); ok {
			return nil, fmt.Errorf("%s does not exist in the root file system%s", ref, suggest.Question(missing.Like))
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", ref, err)
		}
		if n.Type() != tree.Regular || n.Content == nil {
			return nil, fmt.Errorf("%s is not a regular file with content", ref)
		}
		return source.NewFile(n.Content, "")
	}
	return b.Opener.File(ctx, ref)
}

// rootTree returns the tree of the root file system.
func (b *builder) rootTree() (*tree.Tree, error) {
	if b.root.Tree != nil {
		return b.root.Tree, nil
	}
	c := b.root.Ready
	if b.root.Format == "erofs" {
		r, err := erofs.Open(c, c.Size())
		if err != nil {
			return nil, err
		}
		return r.Tree()
	}
	r, err := squashfs.Open(c, c.Size())
	if err != nil {
		return nil, err
	}
	return r.Tree()
}

func (b *builder) openParts(ctx context.Context) error {
	for _, name := range slices.Sorted(maps.Keys(b.Parts)) {
		full, p, err := b.part(name)
		if err != nil {
			return err
		}
		f, err := b.openFile(ctx, b.Parts[name])
		if err != nil {
			return fmt.Errorf("partition %s: %w", name, err)
		}
		b.inputs = append(b.inputs, artifact.Input{Name: "partition " + full, SHA256: f.SHA256, Origin: f.Origin})
		room := int64(p.Size)
		if room == 0 {
			room = math.MaxInt64 // known later
		}
		if b.parts[full], err = fitting(f, b.Parts[name], full, room); err != nil {
			return err
		}
	}
	return nil
}

// part returns a partition by its name, or as MEDIUM/NAME, and its name with the medium.
func (b *builder) part(name string) (full string, p *layouts.Partition, err error) {
	var all, found []string
	for _, m := range b.Board.Media {
		for _, p := range m.Layout.Partitions {
			all = append(all, p.Name, m.Name+"/"+p.Name)
			if name == p.Name || name == m.Name+"/"+p.Name {
				found = append(found, m.Name+"/"+p.Name)
			}
		}
	}
	switch len(found) {
	case 0:
		return "", nil, fmt.Errorf("%s has no partition %q%s", b.Board.Name, name, suggest.DidYouMean(name, all))
	case 1:
		p, err = b.Board.Partition(found[0])
		return found[0], p, err
	}
	return "", nil, fmt.Errorf("%s has %d partitions %s: name one of %s", b.Board.Name, len(found), name, strings.Join(found, ", "))
}

// fitting returns the content of an input for a partition, expanded if it is an Android
// sparse image.
func fitting(c image.Content, input, part string, room int64) (image.Content, error) {
	c, err := unsparse(c)
	if err != nil {
		return nil, &source.CorruptError{Name: input, Err: err}
	}
	if c.Size() > room {
		return nil, fmt.Errorf("%s: %d bytes do not fit in the partition %s, which has %d", input, c.Size(), part, room)
	}
	return c, nil
}

func unsparse(c image.Content) (image.Content, error) {
	head := make([]byte, 4)
	if n, _ := c.ReadAt(head, 0); n < len(head) || !simg.IsSparse(head) {
		return c, nil
	}
	m, err := simg.Open(c, c.Size())
	if err != nil {
		return nil, err
	}
	return simg.Zeroed(m)
}
