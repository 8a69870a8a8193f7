package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"imgtool/flash"
	"imgtool/image"
	"imgtool/image/gpt"
)

type flashOptions struct {
	image string
	yes   bool
	delta string
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
	cmd.Flags().StringVar(&opt.delta, "delta", "auto", "read first and write only what differs: yes, no, or auto: if the disk carries an image of the board")
	return cmd
}

func runFlash(ctx context.Context, target string, opt flashOptions, u *ui) (err error) {
	begin := time.Now()
	if opt.delta != "auto" && opt.delta != "yes" && opt.delta != "no" {
		return usagef("--delta is %q; it must be yes, no or auto", opt.delta)
	}
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
		return fmt.Errorf("%s: %w", pic.name, corrupt("it cannot be put on %s: %w", disk.Path, err))
	}
	if pic.holes != nil {
		if err := pic.holes(ctx); err != nil {
			return fmt.Errorf("%s: %w", pic.name, err)
		}
	}
	if !opt.yes {
		if opt.image == "-" {
			return usagef("standard input is the image, so nobody can answer: pass --yes to write without a question")
		}
		ok, err := u.ask(ctx, fmt.Sprintf("Write %s\nto %s.\nEverything on it will be lost.", describePicture(p), describeDisk(disk)))
		if err != nil {
			return err
		}
		if !ok {
			return &flash.RefusedError{Disk: disk.Path, Reason: "not written: the answer was not yes"}
		}
	}

	job.Delta = opt.delta == "yes" || opt.delta == "auto" && alike(disk, p)

	t, err := flash.Open(disk)
	if err != nil {
		return err
	}
	defer t.Close()
	touched := false
	res, err := flash.Run(ctx, t, job, func(phase string, total int64) image.Progress {
		if phase == flash.Wiping {
			touched = true
			u.leaves(fmt.Sprintf("%s is not bootable and has no partition table now; flash it again", disk.Path))
		}
		return u.phases(phase, total)
	})
	if err != nil {
		if touched && ctx.Err() == nil {
			err = hint(err, "%s is not bootable and has no partition table now", disk.Path)
		}
		return err
	}
	u.leaves("")
	if err := t.Reread(); err != nil {
		u.warn(fmt.Sprintf("the image is written and verified, but %v", err))
	}
	if err := t.Close(); err != nil {
		return err
	}
	for _, r := range res.Repaired {
		u.warn(fmt.Sprintf("%s: at byte %d, %d bytes: %s; this disk or its cable is unreliable", disk.Path, r.Off, r.Len, r.How))
	}
	took := time.Since(begin)
	if u.json {
		u.endPhase()
		return u.print(map[string]any{"disk": disk.Path, "serial": disk.Serial, "image": pic.name, "build_id": buildID(pic),
			"written": res.Written, "skipped": res.Skipped, "verified": res.Verified, "repaired": len(res.Repaired), "seconds": took.Seconds()})
	}
	kept := ""
	if res.Skipped > 0 {
		kept = fmt.Sprintf(", %s were there already", human(res.Skipped))
	}
	u.say("%s: %s written%s, %s verified, in %s", disk.Path, human(res.Written), kept, human(res.Verified), took.Round(100*time.Millisecond))
	return nil
}

// alike says whether a disk carries, or was about to carry, an image of the same
// board: then most of it may be there already.
func alike(disk *flash.Disk, p *plan) bool {
	t, err := flash.OpenRead(disk)
	if err != nil {
		return false
	}
	defer t.Close()
	if p.pic.manifest != nil {
		record := make([]byte, image.Block)
		if n, _ := t.ReadAt(record, recordOff); n == len(record) && p.record != nil && sameBoard(record, p.record) {
			return true
		}
	}
	there, err := gpt.Read(t)
	if err != nil || p.table == nil || len(there.Parts) < len(p.table.Parts) {
		return false
	}
	for i, part := range p.table.Parts {
		if other := there.Parts[i]; other.Name != part.Name || other.Off != part.Off || other.Len != part.Len || other.Type != part.Type {
			return false
		}
	}
	return true
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

// refuseSame refuses to write an image over itself, under whatever name.
func refuseSame(disk *flash.Disk, pic *picture) error {
	if pic.file == nil {
		return nil
	}
	a, err := pic.file.Stat()
	if err != nil {
		return err
	}
	itself := &flash.RefusedError{Disk: disk.Path, Reason: "the image lies on it: give another disk, or a copy of the image elsewhere"}
	if b, err := os.Stat(disk.Path); err == nil && os.SameFile(a, b) {
		return itself
	}
	// The image may be the file behind a loop device,
	if backing, err := os.ReadFile("/sys/block/" + disk.Name + "/loop/backing_file"); err == nil && !disk.File {
		if b, err := os.Stat(strings.TrimSpace(string(backing))); err == nil && os.SameFile(a, b) {
			return itself
		}
	}
	// or the disk itself, or one of its partitions.
	if dev, ok := a.Sys().(*syscall.Stat_t); ok && a.Mode()&fs.ModeDevice != 0 {
		at, err := filepath.EvalSymlinks(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(uint64(dev.Rdev)), unix.Minor(uint64(dev.Rdev))))
		if err == nil && (filepath.Base(at) == disk.Name || filepath.Base(filepath.Dir(at)) == disk.Name) {
			return itself
		}
	}
	return nil
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
