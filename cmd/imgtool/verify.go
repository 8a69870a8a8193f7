package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"imgtool/boards"
	"imgtool/flash"
	"imgtool/flash/disk"
	"imgtool/image"
	"imgtool/image/compose"
	"imgtool/image/fault"
	"imgtool/image/volume"
)

type verifyOptions struct {
	image    string
	board    string
	seed     seedOptions
	keepKeys bool
	stall    time.Duration
}

func newVerifyCommand(u *ui) *cobra.Command {
	var opt verifyOptions
	cmd := &cobra.Command{
		Use:   "verify [DISK|IMAGE]",
		Short: "Compare a disk with an image, byte by byte, or check an image alone",
		Long: `Read from a disk, past the cache, everything an image holds and compare it. The
partition table is expected as flash writes it: with its backup at the end of the
disk. What the image leaves alone is not looked at. Nothing is written.

With a file and no --image, or --image and no disk, the image is checked alone, as flash
does it before it writes: it is read once, and compared with its manifest or block map
and with the checksums of its compression.

With --unit what imgtool factory puts in for the unit is expected as well. With --values
the unit is a row there, and --seed a template.`,
		Example: `  imgtool verify /dev/sdX
  imgtool verify --image x.img.zst /dev/sdX
  imgtool verify x.img.zst`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			image := opt.image
			if image == "" && len(args) == 1 && isImage(args[0]) {
				image, args = args[0], nil
			}
			if len(args) == 0 {
				if opt.seed.given() || opt.seed.unit != "" {
					return fault.New(fault.Usage, "--seed, --values and --unit are for comparing a disk: say which, as in imgtool verify --image FILE /dev/sdX")
				}
				return verifyImage(cmd.Context(), image, u)
			}
			return runVerify(cmd.Context(), args[0], opt, u)
		},
	}
	cmd.Flags().StringVar(&opt.image, "image", "", "image to compare with, - for standard input (default: the newest in out/)")
	cmd.Flags().BoolVar(&opt.keepKeys, "keep-registration-keys", false, "with --unit: its keys are on the recovery card as well")
	cmd.Flags().StringVar(&opt.seed.file, "seed", "", "config.toml that was put in while the image was written")
	opt.seed.addFlags(cmd)
	addBoardFlag(cmd, &opt.board)
	addStallFlag(cmd, &opt.stall)
	cmd.Flags().Lookup("unit").Usage = "file with what is the unit's own, as for imgtool factory; with --values its row there"
	return cmd
}

func runVerify(ctx context.Context, target string, opt verifyOptions, u *ui) (err error) {
	begin := time.Now()
	if err := checkStall(opt.stall); err != nil {
		return err
	}
	file, unit := opt.image, opt.seed.unit
	if opt.seed.values != "" {
		unit = ""
	} else {
		opt.seed.unit = ""
	}
	if file == "" {
		if file, err = volume.Newest("--image FILE"); err != nil {
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
	board, err := askedBoard(opt.board)
	if err != nil {
		return err
	}
	if m := pic.Manifest; board != nil && m != nil && m.Board != board.Name {
		return &wrongBoardError{fmt.Errorf("%s: it is an image for %s, and the board is %s", pic.Name, m.Board, board.Name)}
	}
	if opt.seed.given() {
		if err := pic.SeekFile(ctx); err != nil {
			return err
		}
		if pic, err = seeded(pic, opt.seed, board, u); err != nil {
			return err
		}
	}
	dev, err := findDisk(target)
	if err != nil {
		return err
	}
	var more map[string][]compose.File
	if unit != "" {
		if more, err = unitFiles(ctx, pic, unit, opt.keepKeys, u); err != nil {
			return err
		}
	}
	// What flash does with these takes an image that can be read anywhere.
	if pic.File != nil && (pic.FillPartition() != nil || pic.HasBlockMap()) {
		if err := pic.Seek(ctx); err != nil {
			return err
		}
	}
	if pic, err = pic.WithoutHoles([]string{dev.Path}); err != nil {
		return err
	}
	fitted, err := compose.Fit(pic, dev.Size, more)
	if err != nil {
		return fmt.Errorf("%s: %w", pic.Name, err)
	}
	p, err := newPlan(fitted)
	if err != nil {
		return err
	}
	defer p.Close()
	expected, err := p.expected(dev.Size)
	if err != nil {
		return &image.MismatchError{Name: "size", Len: dev.Size, Want: fmt.Sprintf("%d bytes", p.size), Got: fmt.Sprintf("%d bytes, where %v", dev.Size, err)}
	}
	t, err := disk.OpenRead(dev)
	if err != nil {
		return err
	}
	defer t.Close()
	var n int64
	total := p.bodySize()
	if total > 0 {
		total += p.start
	}
	progress := u.phases("comparing", total)
	if err := flash.Compare(ctx, t, expected, u.patience(dev.Path, opt.stall), func(k int64) { n += k; progress.Add(k) }); err != nil {
		if errors.As(err, new(*image.MismatchError)) && pic.Manifest == nil {
			err = fault.WithHint(err, "%s has no manifest, so what is free in it counts as content: with its manifest beside it, or as .img.zst, only what was written is compared", pic.Name)
		}
		return err
	}
	pic.ReportTrailing()
	took := time.Since(begin)
	if u.json {
		u.endPhase()
		return u.print(map[string]any{"disk": dev.Path, "image": pic.Name, "build_id": pic.BuildID(), "verified": n, "seconds": took.Seconds()})
	}
	u.say("%s: %s are as in %s, in %s", dev.Path, human(n), pic.Name, took.Round(100*time.Millisecond))
	return nil
}

// unitFiles are what a unit has in an image beside what all have.
func unitFiles(ctx context.Context, pic *volume.Source, file string, keepKeys bool, u *ui) (map[string][]compose.File, error) {
	if pic.Manifest == nil {
		return nil, fmt.Errorf("%s: it has no manifest, so nobody knows where what is the unit's own goes", pic.Name)
	}
	board, err := boards.Load(pic.Manifest.Board)
	if err != nil {
		return nil, err
	}
	own, err := readUnit(file, board, u)
	if err != nil {
		return nil, err
	}
	more, _ := own.additions(board, pic.Manifest.Medium, map[string]bool{"keep-registration-keys": keepKeys})
	return more, pic.Seek(ctx)
}
