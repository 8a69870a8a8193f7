package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"strings"

	"github.com/spf13/cobra"

	"imgtool/image"
	"imgtool/image/build"
	"imgtool/image/fat"
	"imgtool/image/gpt"
	"imgtool/image/volume"
	"imgtool/layouts"
)

func newSeedStickCommand(u *ui) *cobra.Command {
	opt := flashOptions{delta: "auto", verify: "full"}
	cmd := &cobra.Command{
		Use:   "stick DISK SEED",
		Short: "Make a USB stick that a device takes its seed from",
		Long: `Make a USB stick that a device takes its seed from: all that was on it is lost. A device
looks for one on its first boot, if it was flashed without a seed, and takes the first
with a config.toml; plug it in before, and leave no other in.

DISK is a disk, or a regular file that stands for one of its size, of 66 MiB or more. It
is guarded, written and read back as by imgtool flash. Computers show the stick as SEED.`,
		Example: `  imgtool seed stick /dev/sdX config.toml
  imgtool seed stick --values units.csv --unit W123 /dev/sdX seed.toml
  truncate -s 66M stick.img && imgtool seed stick --yes stick.img config.toml`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			opt.seed.file = args[1]
			return runSeedStick(cmd.Context(), args[0], opt, u)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&opt.yes, "yes", "y", false, "do not ask; guards stay")
	f.BoolVar(&opt.dryRun, "dry-run", false, "check everything and write nothing")
	f.StringVar(&opt.serial, "serial", "", "take the disk only if this is its serial")
	f.StringVar(&opt.receipt, "receipt", "", "append what became of the disk to this file, a JSON object a line")
	f.BoolVar(&opt.again, "reprovision", false, "give a unit a second stick without a warning")
	addStallFlag(cmd, &opt.stall)
	opt.seed.addFlags(cmd)
	return cmd
}

func runSeedStick(ctx context.Context, disk string, opt flashOptions, u *ui) error {
	if err := opt.check(); err != nil {
		return err
	}
	want, err := opt.seed.read()
	if err != nil {
		return err
	}
	text, err := want.Check("atomixos", u.warn)
	if err != nil {
		return err
	}
	when, _, err := sourceDate()
	if err != nil {
		return err
	}
	img, err := stickImage(text, when)
	if err != nil {
		return err
	}
	pic := volume.FromImage("a seed stick with "+opt.seed.file, img, nil)
	pic.Unit = opt.seed.unit
	return flashSource(ctx, []string{disk}, pic, opt, u)
}

const (
	stickStart = 1 << 20
	stickFAT   = 64 << 20 // room for the largest seed, and FAT16, which everything reads
)

// stickImage is a disk with one FAT, which has what a device looks for: a label, and
// a partition name that is none of its own. Its type makes Windows and macOS mount
// it. The identifiers come from the seed.
func stickImage(text []byte, when int64) (*image.Image, error) {
	derived := func(name string) []byte {
		sum := sha256.Sum256(append([]byte("imgtool seed stick "+name+"\x00"), text...))
		return sum[:]
	}
	guid := func(name string) string { return strings.ToUpper(build.UUID(derived(name)).String()) }
	volume, err := fat.New(stickFAT, fat.Options{Label: "SEED", Serial: binary.LittleEndian.Uint32(derived("fat")), Time: when},
		[]fat.File{{Path: "config.toml", Content: bytes.NewReader(text)}})
	if err != nil {
		return nil, err
	}
	table := &gpt.Table{GUID: guid("disk"), Size: stickStart + stickFAT + 1<<20, FirstUsable: stickStart, Parts: []gpt.Part{
		{Number: 1, Name: "seed", Type: layouts.Types["microsoft"], GUID: guid("partition"), Off: stickStart, Len: stickFAT}}}
	extents, err := table.Extents()
	if err != nil {
		return nil, err
	}
	return image.New(table.Size, append(extents, image.Extent{Name: "seed", Off: stickStart, Content: volume})...)
}
