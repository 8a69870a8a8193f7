package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"

	"imgtool/flash"
	"imgtool/flash/disk"
	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/compose"
	"imgtool/image/edit"
	"imgtool/image/ext4"
	"imgtool/image/fault"
	"imgtool/image/partition"
	"imgtool/image/progress"
	"imgtool/image/volume"
)

// Verify compares a disk with an image that was written to it, with files added by name of
// the partition, and returns how many bytes it compared. A difference is an
// [*image.MismatchError].
func Verify(ctx context.Context, d *disk.Disk, src *volume.Source, files map[string][]compose.File, opt *Options) (n int64, err error) {
	// These are written from an image with random access.
	if len(files) > 0 || (src.File != nil || src.IsURL()) && (src.FillPartition() != nil || src.BlockMap() != "") {
		if err := src.Seek(ctx); err != nil {
			return 0, err
		}
	}
	if src, err = src.WithoutHoles([]string{d.Path}); err != nil {
		return 0, err
	}
	if src.IsURL() {
		// Pieces that the disk has as the manifest says are not fetched.
		near, err := disk.OpenRead(d)
		if err != nil {
			return 0, err
		}
		defer near.Close()
		src.UseDisk(near)
		defer src.UseDisk(nil)
	}
	fitted, err := compose.Fit(src, d.Size, files)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", src.Name, err)
	}
	p, err := NewPlan(fitted)
	if err != nil {
		return 0, err
	}
	defer p.Close()
	expected, err := p.Expected(d.Size)
	if err != nil {
		return 0, fault.New(fault.Mismatch, "%s is too small to have %s on it: %w", d.Path, src.Name, err)
	}
	t, err := disk.OpenRead(d)
	if err != nil {
		return 0, err
	}
	defer t.Close()
	compared := opt.Monitor.Phase("comparing", p.ExpectedSize())
	err = flash.Compare(ctx, t, expected, opt.timeout(d.Path), func(k int64) { n += k; compared.Add(k) })
	p.place(ctx, err, opt.Monitor)
	p.placeFile(ctx, err, t)
	if errors.As(err, new(*image.MismatchError)) && src.Manifest == nil {
		err = fault.WithHint(err, "%s has no manifest, so what is free in it counts as content: with its manifest beside it, or as .img.zst, only what was written is compared", src.Name)
	}
	if err == nil {
		src.ReportTrailing()
	}
	return n, err
}

// ReadFile returns the content of a text file in a partition of a disk, or "" if the disk has
// no such partition or file. It returns an error if the file system cannot be read.
func ReadFile(d *disk.Disk, part artifact.Partition, path string) (string, error) {
	t, err := disk.OpenRead(d)
	if err != nil {
		return "", nil
	}
	defer t.Close()
	table, err := partition.Read(t, sectorSize(d))
	if err != nil {
		return "", nil
	}
	for _, p := range table.Parts {
		if p.Number != part.Number || p.Name != part.Name {
			continue
		}
		files, _, err := ext4.Read(io.NewSectionReader(t, p.Off, p.Len), p.Len)
		if err != nil {
			return "", err
		}
		return (&volume.FileSystem{Tree: files}).ReadText(path, edit.MaxText), nil
	}
	return "", nil
}

// GUID returns the GUID in the partition table of a disk.
func GUID(d *disk.Disk) (string, error) {
	t, err := disk.OpenRead(d)
	if err != nil {
		return "", err
	}
	defer t.Close()
	table, err := partition.Read(t, sectorSize(d))
	if err != nil {
		return "", fmt.Errorf("%s: %w", d.Path, err)
	}
	if table.GPT == nil {
		return "", fmt.Errorf("%s: its partition table is an MBR, which has no GUID", d.Path)
	}
	return table.GPT.GUID, nil
}

// ReadImage reads all of an image, and checks it.
func ReadImage(ctx context.Context, src *volume.Source, r progress.Reporter) (*Plan, error) {
	if err := src.CheckAll(ctx); err != nil {
		return nil, err
	}
	if err := src.CheckAttachments(); err != nil {
		return nil, err
	}
	if src.Image == nil && src.File != nil {
		if err := src.ReadThrough(ctx, func(c volume.Chunks) volume.Chunks { return c }); err != nil {
			return nil, err
		}
	}
	p, err := NewPlan(src)
	if err == nil && src.Image == nil && src.File == nil {
		if err = p.ReadThrough(ctx, nil, r); err != nil {
			p.Close()
		}
	}
	return p, err
}
