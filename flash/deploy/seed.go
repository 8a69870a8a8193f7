package deploy

import (
	"context"
	"fmt"

	"imgtool/flash"
	"imgtool/flash/disk"
	"imgtool/image"
	"imgtool/image/compose"
	"imgtool/image/fault"
	"imgtool/image/volume"
)

// SaveSeed puts a seed onto a flashed disk that is not in use, or removes it, and reads it
// back. The disk can be used after each step of the change.
func SaveSeed(ctx context.Context, name string, seed compose.SeedOptions, opt Options) error {
	d, err := Find(name)
	if err != nil {
		return err
	}
	if err := Check(d, disk.Need{SectorSize: 512}); err != nil {
		return err
	}
	dev, err := disk.Open(d)
	if err != nil {
		return err
	}
	defer dev.Close()
	img, err := image.New(dev.Size(), image.Extent{Name: "disk", Content: dev})
	if err != nil {
		return err
	}
	e, err := compose.EditSeed(volume.FromImage(d.Path, img, nil), seed)
	if err != nil {
		return err
	}
	if e.Steps == nil {
		e.ReportUnchanged(seed)
		return nil
	}
	defer opt.Begin()()
	change := flash.Change{Size: dev.Size(), Steps: e.Steps, Timeout: opt.timeout(d.Path)}
	if _, err := flash.Edit(ctx, dev, change, opt.Monitor.Phase); err != nil {
		if left, _ := flash.StateAfter(err); left == flash.Unchanged {
			return fault.WithHint(err, "%s is unchanged", d.Path)
		}
		return fault.WithHint(err, "the boot partition of %s may be changed in part: run it again, or repair it with fsck.fat -a", d.Path)
	}
	if err := dev.Named(); err != nil {
		return err
	}
	notRead, err := dev.CloseReread()
	if notRead != nil {
		opt.Monitor.Warnf("%v", notRead)
	}
	if err != nil {
		return &image.WriteError{Err: fmt.Errorf("closing %s: %w", d.Path, err)}
	}
	return e.CheckSaved(seed)
}
