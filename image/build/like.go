package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"

	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/compress"
	"imgtool/image/fault"
	"imgtool/image/remote"
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
	l, err := place.Open(ctx, b.Volume)
	if err != nil {
		return err
	}
	b.result.scratch = append(b.result.scratch, l.Source)
	if l.Part == "" && l.Source.IsBundle() {
		return fault.New(fault.Input, "%s is an update bundle: name the root file system in it, as in %s:rootfs", l.Source.Name, l.Source.Name)
	}
	if !l.Partitions.None() && l.Part == "" {
		b.used(func(p layouts.Part) bool {
			if p.Content == "rootfs" && !p.Deferred && l.Part == "" {
				l.Part, l.Inside = p.Name, true
			}
			return false
		})
	}
	part, err := l.Section()
	if err != nil {
		return err
	}
	old, err := squashfs.Open(part, part.Size())
	if err != nil {
		return fault.As(fault.Corrupt, fmt.Errorf("%s: %w", l.Name(), err))
	}
	used := old.Summary().BytesUsed
	h := sha256.New()
	if remote.IsURL(place.File) || l.Source.Format != artifact.Raw {
		// All of it is read twice.
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
