package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"os"
	"slices"

	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/compress"
	"imgtool/image/fault"
	"imgtool/image/gpt"
	"imgtool/image/squashfs"
	"imgtool/image/volume"
	"imgtool/layouts"
)

// openLike opens the earlier image that the squashfs is to be like. It is an input: the
// image depends on it.
func (b *builder) openLike(ctx context.Context) error {
	if b.Like == "" {
		return nil
	}
	err := b.findLike(ctx)
	if err != nil {
		return fmt.Errorf("--like: %w", err)
	}
	return nil
}

func (b *builder) findLike(ctx context.Context) error {
	if b.root == nil || b.root.Ready != nil {
		return fault.New(fault.Usage, "the root file system is used as it is given, so that it cannot be like %s", b.Like)
	}
	if b.Like == likeCache {
		return b.findLast()
	}
	place := volume.ParsePlace(b.Like)
	if place.Deep {
		return fault.New(fault.Usage, "%s is a file in a file system: name an image, a partition or a squashfs", b.Like)
	}
	opt := b.Volume
	if len(b.Board.Media) > 1 {
		opt.Registry.Medium = b.disks[0].Name
	}
	l, err := place.Open(ctx, opt)
	if err != nil {
		return err
	}
	b.result.scratch = append(b.result.scratch, l.Source)
	if info, err := os.Stat(place.File); err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o077 == 0 {
		b.result.Private = true
	}
	if l.Part == "" {
		if l.Part = b.likePart(l); l.Part != "" {
			l.Inside = true
		}
	}
	part, err := l.Section()
	if err != nil {
		return err
	}
	if kind, err := volume.Detect(part); err == nil && kind != "squashfs" && kind != "" {
		return fault.New(fault.Input, "%s is %s, and only the blocks of a squashfs can stay where they are", l.Name(), kind)
	}
	old, err := squashfs.Open(part, part.Size())
	if err != nil {
		return fault.As(fault.Corrupt, fmt.Errorf("%s: %w", l.Name(), err))
	}
	used := old.Summary().BytesUsed
	h := sha256.New()
	if l.Source.File == nil || l.Source.Format != artifact.Raw {
		// It is on a server or compressed, and all of it is read twice.
		f, err := compress.NewScratch(b.TempDir, b.Volume.Scratch)
		if err != nil {
			return err
		}
		b.result.scratch = append(b.result.scratch, f)
		if _, err := io.Copy(io.NewOffsetWriter(f, 0), io.TeeReader(io.NewSectionReader(part, 0, used), h)); err != nil {
			return fmt.Errorf("%s: %w", l.Name(), err)
		}
		if old, err = squashfs.Open(f, used); err != nil {
			return fmt.Errorf("%s: %w", l.Name(), err)
		}
	} else if _, err := io.Copy(h, io.NewSectionReader(part, 0, used)); err != nil {
		return fmt.Errorf("%s: %w", l.Name(), err)
	}
	b.setLike(old, l.Name(), h)
	return nil
}

// findLast opens the last build in the cache.
func (b *builder) findLast() error {
	if b.Cache == nil {
		return fault.New(fault.Usage, "there is no cache, and so no earlier build in it: name an image")
	}
	f, size, err := b.openLast()
	if err != nil || f == nil {
		return err
	}
	old, err := squashfs.Open(f, size)
	if err != nil {
		return fault.As(fault.Corrupt, fmt.Errorf("%s: %w", lastName, err))
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, old.Summary().BytesUsed)); err != nil {
		return err
	}
	b.setLike(old, lastName, h)
	return nil
}

const lastName = "the last build in the cache"

func (b *builder) setLike(old *squashfs.Reader, name string, sum hash.Hash) {
	b.like, b.likeName = old, name
	b.inputs = append(b.inputs, artifact.Input{Name: "like", SHA256: hex.EncodeToString(sum.Sum(nil))})
}

// likePart returns the name of the partition of an earlier image that has its root file system:
// the first one with the name of such a partition of this image, or with a squashfs. It is "" for a
// file system alone.
func (b *builder) likePart(l *volume.Location) (name string) {
	if l.Source.IsBundle() {
		return "rootfs"
	}
	has := func(name string) bool {
		return slices.ContainsFunc(l.Partitions.List, func(p gpt.Part) bool { return volume.PartName(p) == name })
	}
	b.used(func(p layouts.Part) bool {
		found := p.Content == "rootfs" && !p.Deferred && has(p.Name)
		if found {
			name = p.Name
		}
		return found
	})
	if name != "" {
		return name
	}
	for _, p := range l.Partitions.List {
		part, err := l.Partition(p)
		if err != nil {
			continue
		}
		if kind, err := volume.Detect(part); err == nil && kind == "squashfs" {
			return volume.PartName(p)
		}
	}
	return ""
}

// reused reports what the squashfs has in common with the earlier one.
func (b *builder) reused(r squashfs.Reuse) {
	if r.Reason != "" {
		b.Warn(fmt.Sprintf("--like: the squashfs is laid out again and not like %s: %s", b.likeName, r.Reason))
		return
	}
	if b.Info != nil {
		moved := ""
		if r.Moved > 0 {
			moved = image.FormatSize(r.Moved) + " move, "
		}
		b.Info(fmt.Sprintf("rootfs: %s stay where they are in %s, %s%s are new; gaps and unused parts take %s, and removed content remains there",
			image.FormatSize(r.Kept), b.likeName, moved, image.FormatSize(r.New), image.FormatSize(r.Waste)))
	}
}
