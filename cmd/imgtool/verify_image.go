package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"imgtool/image/artifact"
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
		if err := pic.readThrough(ctx, u, func(c chunks) chunks { return c }); err != nil {
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

// checkedWith says what the bytes of an image were compared with.
func (p *volume.Source) checkedWith() string {
	switch {
	case p.manifest != nil:
		return "it is as its manifest says"
	case p.beside.bmap != nil:
		return "it is as its block map says"
	case p.format != artifact.Raw && p.format != artifact.Sparse:
		return fmt.Sprintf("its %s data are whole", p.format)
	}
	return "there are no checksums to compare its bytes with"
}
