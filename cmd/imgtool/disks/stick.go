package disks

import (
	"context"

	"github.com/spf13/cobra"

	"imgtool/cmd/imgtool/option"
	"imgtool/cmd/imgtool/usage"
	"imgtool/image/build/job"
	"imgtool/image/seed/seedstick"
	"imgtool/image/volume"
)

// NewStickCommand returns the command imgtool seed stick, which writes a disk as flash does.
func NewStickCommand(u *ui) *cobra.Command {
	opt := flashOptions{delta: "auto", verify: "full"}
	cmd := &cobra.Command{
		Use:   "stick DISK SEED",
		Short: "Make a USB stick that a device takes its seed from",
		Long: `Make a USB stick that a device takes its seed from. Everything on the stick is lost. A device
that was flashed without a seed looks for a stick on its first boot, and takes the first with a
config.toml; plug it in before the boot, and no other stick.

DISK is a disk, or a regular file in place of one, of 66 MiB or more. It is checked, written and
read back as by imgtool flash. Computers show the stick as SEED.`,
		Example: `  imgtool seed stick /dev/sdX config.toml
  imgtool seed stick --values units.csv --unit W123 /dev/sdX seed.toml
  truncate -s 66M stick.img && imgtool seed stick --yes stick.img config.toml`,
		SuggestFor: []string{"usb", "drive"},
		Args:       usage.Operands("disk", "seed"),
		RunE: func(cmd *cobra.Command, args []string) error {
			opt.seed.File = args[1]
			return runStick(cmd.Context(), args[0], opt, u)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&opt.yes, "yes", "y", false, "skip the confirmation (safety checks still apply)")
	f.BoolVar(&opt.dryRun, "dry-run", false, "check everything and write nothing")
	f.StringVar(&opt.serial, "serial", "", "require this `SERIAL` number of the disk")
	f.StringVar(&opt.receipt, "receipt", "", "append the result to this `FILE`, as a JSON object in a line")
	f.BoolVar(&opt.again, "reprovision", false, "give a unit a second stick without a warning")
	option.AddStall(cmd, &opt.stall)
	opt.seed.AddFlags(cmd)
	return cmd
}

func runStick(ctx context.Context, disk string, opt flashOptions, u *ui) error {
	if err := opt.check(); err != nil {
		return err
	}
	s, err := opt.seed.Read()
	if err != nil {
		return err
	}
	text, err := s.Check("atomixos", u.Warn)
	if err != nil {
		return err
	}
	when, _, err := job.SourceDate()
	if err != nil {
		return err
	}
	img, err := seedstick.New(text, when)
	if err != nil {
		return err
	}
	pic := volume.FromImage("a seed stick with "+opt.seed.File, img, nil)
	pic.Unit = opt.seed.Unit
	return flashSource(ctx, []string{disk}, pic, opt, u)
}
