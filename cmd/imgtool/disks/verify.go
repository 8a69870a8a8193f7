package disks

import (
	"cmp"
	"context"
	"errors"
	"os"
	"time"

	"github.com/spf13/cobra"

	"imgtool/cmd/imgtool/option"
	"imgtool/cmd/imgtool/usage"
	"imgtool/flash/deploy"
	"imgtool/flash/factory"
	"imgtool/image"
	"imgtool/image/compose"
	"imgtool/image/fault"
	"imgtool/image/volume"
)

type verifyOptions struct {
	image    string
	board    string
	seed     option.Seed
	sums     option.Sums
	keepKeys bool
	stall    time.Duration
	trust    option.Trust
	bundle   bundleTrust
}

func newVerifyCommand(u *ui) *cobra.Command {
	var opt verifyOptions
	cmd := &cobra.Command{
		Use:   "verify [DISK|IMAGE]",
		Short: "Compare a disk with an image, byte by byte, or check an image alone",
		Long: `Read all that an image contains from a disk, past the cache, and compare it. The
partition table is expected as flash writes it: with its backup at the end of the
disk. Ranges without content in the image are not compared. Nothing is written.

With a file and no --image, or --image and no disk, the image is checked alone, as flash
does it before it writes: it is read once, and compared with its manifest or block map
and with the checksums of its compression. With --allowed-signers or --require-signature,
its signatures are checked too (imgtool sign), and the exit status is 6 if none is accepted.

The image can be a URL of http or https. Alone it is fetched and checked completely; compared
with a disk, pieces that the disk has as the manifest says are not fetched.

An update bundle of RAUC (.raucb) is checked as RAUC does before it installs it, and each
of its images besides. --keyring says which signers are trusted.

With --unit, the per-unit data that imgtool factory writes is expected as well. With
--values the unit is a row there, and --seed a template.`,
		Example: `  imgtool verify /dev/sdX
  imgtool verify --image x.img.zst /dev/sdX
  imgtool verify x.img.zst
  imgtool verify --allowed-signers signers x.img.zst
  imgtool verify x.raucb --keyring ca.pem --compatible rock64`,
		SuggestFor: []string{"check", "test", "validate", "compare"},
		Args:       usage.Operands("?disk or image"),
		RunE: func(cmd *cobra.Command, args []string) error {
			image := opt.image
			if image == "" && len(args) == 1 && isImage(args[0]) {
				image, args = args[0], nil
			}
			err := usage.CheckUseless(cmd,
				usage.Useless{If: len(args) == 0, Why: "without a disk to compare", Flags: []string{"stall-timeout", "keep-registration-keys"}},
				usage.Useless{If: opt.seed.Unit == "", Why: "without --unit", Flags: []string{"keep-registration-keys"}},
				usage.Useless{If: len(args) > 0, Why: "unless an update bundle is checked", Flags: bundleFlags})
			if err == nil {
				err = cmp.Or(opt.sums.Check(), checkNamed(args))
			}
			if err != nil {
				return err
			}
			if len(args) == 0 {
				if opt.seed.Given() || opt.seed.Unit != "" {
					return fault.New(fault.Usage, "--seed, --values and --unit are for comparing a disk: say which, as in imgtool verify --image FILE /dev/sdX")
				}
				return runVerifyImage(cmd, image, opt, u)
			}
			return runVerify(cmd.Context(), args[0], opt, u)
		},
	}
	cmd.Flags().StringVarP(&opt.image, "image", "i", "", "image `FILE` or URL to compare with, - for standard input (default: the newest in out/)")
	cmd.Flags().BoolVar(&opt.keepKeys, "keep-registration-keys", false, "with --unit: its keys are on the recovery card as well")
	cmd.Flags().StringVar(&opt.seed.File, "seed", "", "config.toml `FILE` that was put in while the image was written")
	opt.seed.AddFlags(cmd)
	opt.sums.AddFlags(cmd)
	option.AddBoard(cmd, &opt.board)
	option.AddStall(cmd, &opt.stall)
	option.AddRegistry(cmd, u)
	opt.trust.AddFlags(cmd)
	cmd.Flags().StringVar(&opt.trust.Time, "verify-time", "", "`TIME` at which the keys must be valid, YYYYMMDD[HHMM[SS]][Z] (default: now)")
	usage.Group(cmd, "Signatures", "verify-time")
	opt.bundle.addFlags(cmd)
	cmd.Flags().Lookup("unit").Usage = "`FILE` with per-unit data, as for imgtool factory; with --values its row there"
	return cmd
}

// isImage reports whether an argument can only be an image: a regular file, standard input or a
// URL.
func isImage(path string) bool {
	info, err := os.Stat(path)
	return path == "-" || volume.IsRemote(path) || err == nil && info.Mode().IsRegular()
}

func runVerify(ctx context.Context, target string, opt verifyOptions, u *ui) error {
	begin := time.Now()
	if err := option.CheckStall(opt.stall); err != nil {
		return err
	}
	if err := deploy.Permit(ctx, []string{target}, false); err != nil {
		return err
	}
	if _, err := deploy.Find(target); err != nil {
		return err
	}
	unit := opt.seed.Unit
	if opt.seed.Values != "" {
		unit = ""
	} else {
		opt.seed.Unit = ""
	}
	policy, err := opt.trust.Policy(opt.board, u)
	if err != nil {
		return err
	}
	src, err := option.Opening{Sums: opt.sums, Policy: policy}.Open(u, &opt.image, "--image FILE")
	if err != nil {
		return err
	}
	defer src.Close()
	if _, err := option.CheckSignatures(ctx, src, policy, u); err != nil {
		return err
	}
	board, err := boardOf(src, opt.board)
	if err != nil {
		return err
	}
	if src, err = opt.seed.In(ctx, src, board, u); err != nil {
		return err
	}
	disk, err := deploy.Find(target)
	if err != nil {
		return err
	}
	var files map[string][]compose.File
	if unit != "" {
		if files, err = factory.UnitFiles(src, unit, enabled(opt.keepKeys), u); err != nil {
			return err
		}
	}
	o := option.Deploying(u, true, opt.stall)
	n, err := deploy.Verify(ctx, disk, src, files, &o)
	took := time.Since(begin)
	if u.JSON {
		u.EndPhase()
		result := verified(src, took)
		result["disk"], result["verified"] = disk.Path, n
		return errors.Join(u.Print(result), err)
	}
	if err != nil {
		return err
	}
	u.Infof("%s: %s are as in %s, in %s", disk.Path, image.FormatSize(n), src.Name, took.Round(100*time.Millisecond))
	return nil
}

// verified returns what every result of verify has.
func verified(src *volume.Source, took time.Duration) map[string]any {
	result := map[string]any{"image": src.Name, "seconds": took.Seconds()}
	if id := src.BuildID(); id != "" {
		result["build_id"] = id
	}
	return result
}

func runVerifyImage(cmd *cobra.Command, file string, opt verifyOptions, u *ui) error {
	ctx, begin := cmd.Context(), time.Now()
	policy, err := opt.trust.Policy(opt.board, u)
	if err != nil {
		return err
	}
	src, err := option.Opening{Sums: opt.sums, Policy: policy}.Open(u, &file, "imgtool verify FILE")
	if err != nil {
		return err
	}
	defer src.Close()
	if src.IsBundle() {
		if opt.trust.Given() {
			return fault.New(fault.Usage, "%s is an update bundle, which is signed in another way: use --keyring", src.Name)
		}
		if err := usage.CheckUseless(cmd, usage.Useless{If: true, Why: "for an update bundle", Flags: []string{"board"}}); err != nil {
			return err
		}
		return verifyBundle(ctx, src, opt.bundle, u)
	}
	if err := usage.CheckUseless(cmd, usage.Useless{If: true, Why: "unless an update bundle is checked", Flags: bundleFlags}); err != nil {
		return err
	}
	if _, err := boardOf(src, opt.board); err != nil {
		return err
	}
	signatures, err := option.CheckSignatures(ctx, src, policy, u)
	if err != nil {
		return err
	}
	p, err := deploy.ReadImage(ctx, src, u)
	if err != nil {
		return err
	}
	defer p.Close()
	took := time.Since(begin)
	if u.JSON {
		result := verified(src, took)
		result["size"], result["checked_with"] = p.Size(), src.CheckedWith()
		if signatures != nil {
			result["signatures"] = signatures
		}
		return u.Print(result)
	}
	u.Infof("%s: its partition table is whole, and %s, in %s", p.Describe(), src.CheckedWith(), took.Round(100*time.Millisecond))
	return nil
}
