package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"imgtool/flash"
	"imgtool/image"
)

type flashOptions struct {
	image string
	yes   bool
}

func newFlashCommand(u *ui) *cobra.Command {
	var opt flashOptions
	cmd := &cobra.Command{
		Use:   "flash DISK",
		Short: "Write an image to a disk and prove that it is there",
		Long: `Write an image to a disk, read it back past the cache, and only then make it
bootable: an interrupted or failed flash leaves a disk that nothing boots.

DISK is a disk, or a regular file that stands for a disk of its size. A disk that
is mounted, in use, read-only, too small or this system's own is refused, and no
flag changes that. The image is told by its content: raw, zstd, xz, gzip, bzip2
or lz4; - is standard input.`,
		Example: `  imgtool flash /dev/sdX
  imgtool flash --yes --image out/rock64.img.zst /dev/disk/by-id/usb-…
  ssh builder cat x.img.zst | imgtool flash --yes --image - /dev/sdX`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return runFlash(cmd.Context(), args[0], opt, u) },
	}
	cmd.Flags().StringVar(&opt.image, "image", "", "image to write, - for standard input (default: the newest in out/)")
	cmd.Flags().BoolVar(&opt.yes, "yes", false, "do not ask; guards stay")
	return cmd
}

func runFlash(ctx context.Context, target string, opt flashOptions, u *ui) (err error) {
	begin := time.Now()
	if opt.image == "" {
		if opt.image, err = newestImage(); err != nil {
			return err
		}
		u.say("image: %s, the newest in out/", opt.image)
	}
	pic, err := openPicture(opt.image, u.in)
	if err != nil {
		return err
	}
	defer pic.Close()
	p, err := newPlan(pic)
	if err != nil {
		return err
	}
	defer p.Close()

	disk, err := findDisk(target)
	if err != nil {
		return err
	}
	if err := refuseSame(disk, pic); err != nil {
		return err
	}
	if err := disk.Check(p.need()); err != nil {
		return err
	}
	job, err := p.job(disk.Size)
	if err != nil {
		return &flash.RefusedError{Disk: disk.Path, Reason: err.Error()}
	}
	if !opt.yes {
		if opt.image == "-" {
			return usagef("standard input is the image, so nobody can answer: pass --yes to write without a question")
		}
		ok, err := u.ask(fmt.Sprintf("Write %s\nto %s.\nEverything on it will be lost.", describePicture(p), describeDisk(disk)))
		if err != nil {
			return err
		}
		if !ok {
			return &flash.RefusedError{Disk: disk.Path, Reason: "not written: the answer was not yes"}
		}
	}

	t, err := flash.Open(disk)
	if err != nil {
		return err
	}
	defer t.Close()
	u.onInterrupt = fmt.Sprintf(": %s is not bootable and has no partition table now; flash it again", disk.Path)
	manifest, err := flash.Run(ctx, t, job, u.phases)
	if err != nil {
		err = exactly(ctx, err, t, pic)
		if ctx.Err() == nil {
			err = hint(err, "%s is not bootable and has no partition table now", disk.Path)
		}
		return err
	}
	if err := t.Reread(); err != nil {
		u.warn(fmt.Sprintf("the image is written and verified, but %v", err))
	}
	if err := t.Close(); err != nil {
		return err
	}
	var n int64
	for _, e := range manifest.Entries {
		n += e.Len
	}
	took := time.Since(begin)
	if u.json {
		u.endPhase()
		return u.print(map[string]any{"disk": disk.Path, "image": pic.name, "build_id": buildID(pic), "written": n, "verified": n, "seconds": took.Seconds()})
	}
	u.say("%s: %s written and verified in %s", disk.Path, human(n), took.Round(100*time.Millisecond))
	return nil
}

// findDisk finds the disk a person names.
func findDisk(name string) (*flash.Disk, error) {
	d, err := flash.Find("/", name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, hint(&noDiskError{name, err}, "imgtool disks lists the disks there are")
	}
	return d, err
}

// noDiskError is a disk that is not there to begin with.
type noDiskError struct {
	name string
	err  error
}

func (e *noDiskError) Error() string { return e.name + ": there is no such disk or file" }
func (e *noDiskError) Unwrap() error { return e.err }

// refuseSame refuses to write an image over itself.
func refuseSame(disk *flash.Disk, pic *picture) error {
	if pic.file == nil {
		return nil
	}
	a, err := pic.file.Stat()
	if err != nil {
		return err
	}
	if b, err := os.Stat(disk.Path); err == nil && os.SameFile(a, b) {
		return &flash.RefusedError{Disk: disk.Path, Reason: "it is the image itself"}
	}
	return nil
}

// exactly narrows a mismatch of a whole piece down to its bytes, where the image
// can be read again.
func exactly(ctx context.Context, err error, t *flash.Target, pic *picture) error {
	var wide *image.MismatchError
	if !errors.As(err, &wide) || pic.img == nil {
		return err
	}
	data := make([]byte, wide.Len)
	if n, _ := pic.img.ReadAt(data, wide.Off); n < len(data) {
		return err
	}
	exact := image.Compare(ctx, t, func(yield func(image.Chunk, error) bool) { yield(image.Chunk{Off: wide.Off, Data: data}, nil) }, nil)
	if exact == nil {
		return fmt.Errorf("%w (a second look finds the right bytes: the disk or its cable is unreliable)", err)
	}
	return fmt.Errorf("%s: %w", t.Path(), exact)
}

func buildID(pic *picture) string {
	if pic.manifest == nil {
		return ""
	}
	return pic.manifest.BuildID
}

func describePicture(p *plan) string {
	if m := p.pic.manifest; m != nil {
		return fmt.Sprintf("%s (%s build %s, %s)", p.pic.name, m.Board, m.BuildID, human(p.size))
	}
	return fmt.Sprintf("%s (%s)", p.pic.name, human(p.size))
}

// describeDisk says in a line what a disk is, and what is on it.
func describeDisk(d *flash.Disk) string {
	about := []string{human(d.Size)}
	if name := strings.TrimSpace(d.Vendor + " " + d.Model); name != "" {
		about = append(about, name)
	}
	if d.Serial != "" {
		about = append(about, "serial "+d.Serial)
	}
	if d.Bus != "" {
		about = append(about, d.Bus)
	}
	if d.File {
		about = append(about, "a file")
	}
	on := "no partitions"
	if len(d.Parts) > 0 {
		var parts []string
		for _, part := range d.Parts {
			parts = append(parts, fmt.Sprintf("%s of %s", part.Name, human(part.Size)))
		}
		on = strings.Join(parts, ", ")
	}
	if d.File {
		return fmt.Sprintf("%s (%s)", d.Path, strings.Join(about, ", "))
	}
	return fmt.Sprintf("%s (%s), which has %s", d.Path, strings.Join(about, ", "), on)
}
