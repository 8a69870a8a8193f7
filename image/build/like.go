package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
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

// privateLike reports whether only the owner can read the earlier image, of which the new one
// has parts, also parts that are in none of its files.
func (opt *Options) privateLike() bool {
	if opt.Like == "" {
		return false
	}
	info, err := os.Stat(volume.ParsePlace(opt.Like).File)
	return err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o077 == 0
}

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
	b.like, b.likeName = old, l.Name()
	b.inputs = append(b.inputs, artifact.Input{Name: "like", SHA256: hex.EncodeToString(h.Sum(nil))})
	return nil
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
		b.Info(fmt.Sprintf("rootfs: %s stay where they are in %s, %s are new; gaps and unused parts take %s, and removed content remains there",
			image.FormatSize(r.Kept), b.likeName, image.FormatSize(r.New), image.FormatSize(r.Waste)))
	}
}
