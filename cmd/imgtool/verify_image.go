package main

import (
	"context"
	"os"
	"time"

	"imgtool/image/volume"
)

// isImage says whether what is to be verified can only be an image: a regular file, or
// standard input.
func isImage(path string) bool {
	info, err := os.Stat(path)
	return path == "-" || err == nil && info.Mode().IsRegular()
}

// verifyImage checks an image without a disk.
func verifyImage(ctx context.Context, file string, u *ui) (err error) {
	begin := time.Now()
	if file == "" {
		if file, err = volume.Newest("imgtool verify FILE"); err != nil {
			return err
		}
		u.say("image: %s, the newest in out/", file)
	}
	pic, err := volume.Open(file, u.opening())
	if err != nil {
		return err
	}
	defer pic.Close()
	pic.ReportBeside()
	if err := pic.Check(ctx); err != nil {
		return err
	}
	if pic.Image == nil && pic.File != nil {
		if err := pic.ReadThrough(ctx, func(c volume.Chunks) volume.Chunks { return c }); err != nil {
			return err
		}
	}
	p, err := newPlan(pic)
	if err != nil {
		return err
	}
	defer p.Close()
	if pic.File == nil {
		if err := p.readThrough(ctx, nil, u); err != nil {
			return err
		}
	}
	took := time.Since(begin)
	if u.json {
		return u.print(map[string]any{"image": pic.Name, "build_id": pic.BuildID(), "size": p.size, "checked_with": pic.CheckedWith(), "seconds": took.Seconds()})
	}
	u.say("%s: its partition table is whole, and %s, in %s", describePicture(p), pic.CheckedWith(), took.Round(100*time.Millisecond))
	return nil
}
