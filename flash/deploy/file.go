package deploy

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"imgtool/image"
	"imgtool/image/compose"
	"imgtool/image/fault"
	"imgtool/image/hostfile"
	"imgtool/image/progress"
	"imgtool/image/volume"
	"imgtool/layouts"
)

// CreateFile makes a file the disk of size bytes to which the image would be flashed; see
// [WriteFile]. If path is empty, the file is gone when it is closed.
func CreateFile(ctx context.Context, path string, src *volume.Source, size int64, r progress.Reporter) (*os.File, error) {
	dir := ""
	if path != "" {
		var err error
		if path, err = hostfile.Target(path); err != nil {
			return nil, err
		}
		dir = filepath.Dir(path)
	}
	f, err := os.CreateTemp(dir, ".imgtool-*")
	if err != nil {
		return nil, fmt.Errorf("creating the disk (TMPDIR names another directory): %w", err)
	}
	if path == "" {
		os.Remove(f.Name())
	}
	if err = WriteFile(ctx, f, src, size, r); err == nil && path != "" {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		f.Close()
		os.Remove(f.Name())
		return nil, err
	}
	return f, nil
}

// WriteFile makes an empty file the disk of size bytes to which the image would be flashed.
// If size is 0, the disk has the size that the image asks for, or 4 GiB if that is more.
// The image is checked first.
func WriteFile(ctx context.Context, f *os.File, src *volume.Source, size int64, r progress.Reporter) error {
	if err := src.Check(ctx); err != nil {
		return err
	}
	if src.FillPartition() != nil {
		if err := src.SeekFile(ctx); err != nil {
			return err
		}
	}
	p, err := NewPlan(src)
	if err != nil {
		return err
	}
	defer func() { p.Close() }()
	if size, err = fileSize(p, size); err != nil {
		return err
	}
	fitted, err := compose.Fit(src, size, nil)
	if err != nil {
		return src.Wrap(err)
	}
	if fitted != src {
		p.Close()
		if p, err = NewPlan(fitted); err != nil {
			return err
		}
	}
	src.Plan(pieces(src.Manifest))
	all, err := p.Expected(size)
	if err != nil {
		return src.Wrap(err)
	}
	_, err = image.Write(ctx, f, volume.SkipZeros(all, r.Phase("making the disk", p.ExpectedSize())), nil)
	r.EndPhase()
	if err != nil {
		return fmt.Errorf("writing the disk: %w", err)
	}
	return f.Truncate(size)
}

// fileSize returns the size of a disk for the image, which is wanted unless that is 0.
func fileSize(p *Plan, wanted int64) (int64, error) {
	need, name := p.Need(), p.Source().Name
	if need.SectorSize != 512 {
		return 0, fmt.Errorf("%s: it is for a disk with sectors of %d bytes, and this one has 512", name, need.SectorSize)
	}
	least := max(need.Size, need.Floor)
	switch {
	case wanted == 0 && (need.Exact != 0 || p.Source().FillPartition() != nil):
		return p.Size(), nil
	case wanted == 0:
		return max(least, 4*layouts.GiB), nil
	case wanted%512 != 0:
		return 0, fault.New(fault.Usage, "a disk of %d bytes has no whole number of sectors of 512 bytes", wanted)
	case need.Exact != 0 && wanted != need.Exact:
		return 0, fault.New(fault.Usage, "a disk of %d bytes does not fit: %s is for a disk of exactly %d bytes", wanted, name, need.Exact)
	case wanted < least:
		return 0, fault.New(fault.Usage, "a disk of %d bytes is too small: %s needs %d", wanted, name, least)
	}
	return wanted, nil
}
