package disks

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"imgtool/boards"
	"imgtool/cmd/imgtool/option"
	"imgtool/cmd/imgtool/usage"
	"imgtool/flash/deploy"
	"imgtool/flash/factory"
	"imgtool/flash/receipt"
	"imgtool/image/artifact"
	"imgtool/image/boardinfo"
	"imgtool/image/fault"
	"imgtool/image/hostfile"
	"imgtool/image/oci"
	"imgtool/image/shconf"
	"imgtool/image/trust"
	"imgtool/image/volume"
)

type factoryOptions struct {
	board    string
	image    string
	images   map[string]string // by medium
	disks    map[string]string // by medium
	unit     string
	receipt  string
	yes      bool
	again    bool // write over what was provisioned
	dryRun   bool
	keepKeys bool
	fixed    bool
	serials  []string
	stall    time.Duration
	trust    option.Trust

	live   bool
	conf   string
	root   string
	reboot bool
}

func newFactoryCommand(u *ui) *cobra.Command {
	opt := factoryOptions{images: map[string]string{}, disks: map[string]string{}}
	cmd := &cobra.Command{
		Use:   "factory --board NAME --image PREFIX.img --MEDIUM DISK... --unit UNIT.toml",
		Short: "Provision a unit: write all its media, with per-unit data",
		Long: `Write all media of a unit, each with its image of one build, and add the per-unit
data: its serial number, its id and its keys. All images, disks and keys are
checked before the first byte is written. Then the media are written and read back
one after another, the boot medium last, and one receipt is left.

--image PREFIX.img.zst is PREFIX-emmc.img.zst, PREFIX-sd.img.zst and
PREFIX-nvme.img.zst; --image oci://HOST/REPOSITORY:TAG has the images of all media. A
medium that is not given is left out. A medium with another name is given as
--disk NAME=DISK, and its image as --disk-image NAME=FILE.

UNIT.toml has the variables of the board's definition, such as
  vsn = "W123"
  wan0-mac = "48:b0:2d:01:23:45"    or node-id = "000048B02D012345", or neither
  [keys]                            files, relative to UNIT.toml
  bk-key = "bk_key.pem"
The board's definition says which keys there are and where each goes. Keys are
written with mode 0600 to the disks and nowhere else.

A disk that says it was provisioned is refused, unless it is of this build and unit
and the media after it are not done: then what is left is done.

With --live a unit that was flashed and runs provisions itself: recovery card and NVMe
are made from its root file system, and then that is locked down and made the lower
layer of an overlay. -c FILE is the factory_provision.conf with what is checked. It
may be interrupted at any time, and continues when it is run again; once it is complete
it is refused until the state file is removed. --root DIR provisions the root file system
that is mounted there instead, and --sd and --nvme name other disks.`,
		Example: `  imgtool factory --board photon-nx --image photon.img.zst --unit W123.toml \
      --emmc /dev/sdb --sd /dev/sdc --nvme /dev/sdd --receipt units.jsonl
  imgtool factory --board photon-nx -i photon.img --unit W123.toml --sd /dev/sdX
  imgtool factory --board ./mine.toml -i mine.img --disk main=/dev/sdb
  imgtool factory --live -r -c /etc/waggle/factory/factory_provision.conf`,
		SuggestFor: []string{"produce", "station", "manufacture", "unit"},
		Args:       usage.None("--unit names the file of the unit, and --emmc, --sd and --nvme the disks"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if opt.live {
				if opt.trust.Given() {
					return fault.New(fault.Usage, "with --live no image is read, so no signature can be required")
				}
				return runLive(cmd.Context(), opt, u)
			}
			if opt.conf != "" || opt.root != "" || opt.reboot {
				return fault.New(fault.Usage, "--conf, --root and --reboot are for --live")
			}
			return runFactory(cmd.Context(), opt, u)
		},
	}
	f := cmd.Flags()
	f.StringVar(&opt.board, "board", "", "a board's `NAME`, or the path of its definition")
	f.StringVarP(&opt.image, "image", "i", "", "the images of all media, by the common part `PREFIX.img` of their names")
	for _, m := range boardinfo.Kinds {
		f.Var(usage.MapFlag{Map: opt.disks, Key: m, Kind: "DISK"}, m, "disk for the medium "+m)
		f.Var(usage.MapFlag{Map: opt.images, Key: m, Kind: "FILE"}, m+"-image", "image of the medium "+m)
	}
	f.Var(usage.MapFlag{Map: opt.disks, Key: "", Kind: "NAME=DISK"}, "disk", "disk for a medium of any name; may be repeated")
	f.Var(usage.MapFlag{Map: opt.images, Key: "", Kind: "NAME=FILE"}, "disk-image", "image of a medium of any name; may be repeated")
	f.StringVar(&opt.unit, "unit", "", "`FILE` with per-unit data")
	f.StringVar(&opt.receipt, "receipt", "", "append a receipt of the unit to this `FILE`, a JSON object a line")
	f.BoolVarP(&opt.yes, "yes", "y", false, "skip the confirmation; safety checks still apply")
	f.BoolVar(&opt.again, "reprovision", false, "write over disks that say they were provisioned")
	f.BoolVar(&opt.dryRun, "dry-run", false, "check everything and write nothing")
	f.BoolVar(&opt.keepKeys, "keep-registration-keys", false, "put the unit's own keys on the recovery card as well")
	f.BoolVar(&opt.fixed, "fixed", false, "allow internal disks that are not in use, with their --serial")
	f.BoolVar(&opt.live, "live", false, "provision the unit that this runs on from its own root file system")
	f.StringVarP(&opt.conf, "conf", "c", "", "factory_provision.conf `FILE`, for --live")
	f.StringVar(&opt.root, "root", "", "directory `DIR` with the mounted root file system of a unit, for --live")
	f.BoolVarP(&opt.reboot, "reboot", "r", false, "reboot when it is complete, with --live")
	option.AddStall(cmd, &opt.stall)
	opt.trust.AddFlags(cmd)
	usage.Group(cmd, "With --live", "live", "conf", "root", "reboot")
	f.StringArrayVar(&opt.serials, "serial", nil, "`SERIAL` number of an internal disk; may be repeated")
	return cmd
}

func diskFlag(medium, disk string) string {
	if slices.Contains(boardinfo.Kinds, medium) {
		return "--" + medium + " " + disk
	}
	return "--disk " + medium + "=" + disk
}

func imageFlag(medium string) string {
	if slices.Contains(boardinfo.Kinds, medium) {
		return "--" + medium + "-image FILE"
	}
	return "--disk-image " + medium + "=FILE"
}

// enabled returns the options of a board's definition that flags ask for.
func enabled(keepKeys bool) map[string]bool {
	return map[string]bool{"keep-registration-keys": keepKeys}
}

// options returns how the unit is provisioned, without what is opened or read.
func (opt *factoryOptions) options(board *boards.Board, u *ui) factory.Options {
	o := factory.Options{Options: option.Deploying(u, opt.yes, opt.stall), Source: u.Opening(), Board: board, Disks: opt.disks, Images: opt.images,
		Enabled: enabled(opt.keepKeys), Serials: opt.serials}
	o.Fixed, o.Reprovision, o.DryRun = opt.fixed, opt.again, opt.dryRun
	o.DoneUnit = func(r *factory.Receipt) {
		if u.JSON {
			u.Print(r)
		}
	}
	return o
}

// openLog opens the log of receipts, unless nothing is written.
func (opt *factoryOptions) openLog() (*receipt.Log, error) {
	if opt.dryRun {
		return nil, nil
	}
	return receipt.Open(opt.receipt)
}

func runFactory(ctx context.Context, opt factoryOptions, u *ui) error {
	begin := time.Now()
	board, err := opt.checkMedia()
	if err == nil {
		err = option.CheckStall(opt.stall)
	}
	if err == nil {
		err = receipt.Check(opt.receipt)
	}
	if err == nil {
		err = opt.findImages()
	}
	if err != nil {
		return err
	}
	if err := deploy.Permit(ctx, slices.Sorted(maps.Values(opt.disks)), true); err != nil {
		return err
	}
	policy, err := opt.trust.Policy(opt.board, u)
	if err != nil {
		return err
	}
	o := opt.options(board, u)
	o.Source.Spool = policy.Required()
	o.Opened = func(src *volume.Source) ([]string, error) {
		all, err := option.CheckSignatures(ctx, src, policy, u)
		return trust.Names(all), err
	}
	if opt.unit != "" {
		if o.Unit, err = factory.ReadUnit(opt.unit, &board.Unit, board.Name, u); err != nil {
			return err
		}
	}
	if o.Log, err = opt.openLog(); err != nil {
		return err
	}
	defer o.Log.Close()
	f := factory.New(o)
	u.BeforeEnd(f.Abandon)
	if err := f.Run(ctx); err != nil || opt.dryRun || u.JSON {
		return err
	}
	var names []string
	for _, name := range slices.Backward(board.MediaNames()) {
		if opt.disks[name] != "" {
			names = append(names, name)
		}
	}
	name := strings.TrimSpace(board.Name + " " + o.Unit.Name())
	u.Infof("%s: %s written and verified, in %s", name, strings.Join(names, ", "), time.Since(begin).Round(100*time.Millisecond))
	return nil
}

// checkMedia returns the board, and refuses flags for media that it does not have.
func (opt *factoryOptions) checkMedia() (*boards.Board, error) {
	if opt.board == "" {
		return nil, fault.New(fault.Usage, "say which board: --board NAME, one of %s, or --board ./FILE.toml", strings.Join(boards.Names(), ", "))
	}
	board, err := boards.Load(opt.board)
	if err != nil {
		return nil, err
	}
	names := board.MediaNames()
	for _, given := range []map[string]string{opt.disks, opt.images} {
		for _, name := range slices.Sorted(maps.Keys(given)) {
			if !slices.Contains(names, name) {
				return nil, fault.New(fault.Usage, "%s has no medium %s (it has %s)", board.Name, name, strings.Join(names, ", "))
			}
			if opt.disks[name] == "" {
				return nil, fault.New(fault.Usage, "an image of the %s is given, and no disk for it: pass %s", name, diskFlag(name, "DISK"))
			}
		}
	}
	if len(opt.disks) == 0 {
		var flags []string
		for _, name := range names {
			flags = append(flags, diskFlag(name, "DISK"))
		}
		return nil, fault.New(fault.Usage, "say which disks: %s", strings.Join(flags, " "))
	}
	return board, nil
}

// findImages sets the images of media that only --image names.
func (opt *factoryOptions) findImages() error {
	index := oci.IsReference(opt.image) // has the images of all media
	if opt.image != "" && !index {
		if _, err := artifact.FormatOf(opt.image); err != nil {
			return fault.New(fault.Usage, "--image %w", err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(opt.disks)) {
		switch {
		case opt.images[name] == "-":
			return fault.New(fault.Usage, "the image of the %s is standard input: give a file, which can be read more than once", name)
		case opt.images[name] != "":
		case index:
			opt.images[name] = opt.image
		case opt.image == "":
			return fault.New(fault.Usage, "say which image: --image PREFIX.img for PREFIX-%s.img, or %s", name, imageFlag(name))
		default:
			if base, suffix, _ := artifact.Split(opt.image); strings.HasSuffix(base, "-"+name) {
				return fault.New(fault.Usage, "--image %s is the image of the %s: give the part of the name that all have, --image %s", opt.image, name, strings.TrimSuffix(base, "-"+name)+suffix)
			}
			opt.images[name] = artifact.MediumPath(opt.image, name)
		}
	}
	return nil
}

func (opt *factoryOptions) checkLive() error {
	switch {
	case opt.conf == "":
		return fault.New(fault.Usage, "say which configuration is checked: -c FILE, such as /etc/waggle/factory/factory_provision.conf")
	case opt.image != "" || opt.unit != "" || len(opt.images) > 0:
		return fault.New(fault.Usage, "with --live the images and the per-unit data come from the root file system: leave out --image and --unit")
	case opt.reboot && opt.root != "":
		return fault.New(fault.Usage, "--reboot is about this system, and --root about another: leave one of them out")
	}
	return option.CheckStall(opt.stall)
}

// liveBoard returns the board of --board, or else finds it by the configuration.
func (opt *factoryOptions) liveBoard(conf map[string]shconf.Value) (*boards.Board, error) {
	if opt.board == "" {
		return factory.LiveBoard(conf)
	}
	board, err := boards.Load(opt.board)
	if err == nil && board.Live.Tree == "" {
		err = fault.New(fault.Usage, "%s cannot be provisioned while it runs", board.Name)
	}
	return board, err
}

func runLive(ctx context.Context, opt factoryOptions, u *ui) error {
	if err := opt.checkLive(); err != nil {
		return err
	}
	text, err := hostfile.ReadStream(opt.conf, hostfile.Text)
	if err != nil {
		return fmt.Errorf("provisioning: %w", err)
	}
	conf, err := shconf.Parse(opt.conf, text)
	if err != nil {
		return fmt.Errorf("provisioning: %w", err)
	}
	board, err := opt.liveBoard(conf)
	if err != nil {
		return err
	}
	media := factory.LiveMedia(board)
	for _, name := range slices.Sorted(maps.Keys(opt.disks)) {
		if !slices.Contains(media, name) {
			return fault.New(fault.Usage, "%s is given, and with --live %s writes only its %s", diskFlag(name, opt.disks[name]), board.Name, strings.Join(media, " and "))
		}
	}
	o := factory.LiveOptions{Options: opt.options(board, u), Root: "/", ConfName: opt.conf, Conf: conf, TempDir: os.Getenv("TMPDIR"), Reboot: opt.reboot}
	if opt.root != "" {
		o.Root = opt.root
	}
	when, err := option.Now()
	if err != nil {
		return err
	}
	o.Time = when.Unix()
	if err := factory.CheckRoot(o.Root); err != nil {
		return err
	}
	if o.Log, err = opt.openLog(); err != nil {
		return err
	}
	defer o.Log.Close()
	return factory.RunLive(ctx, o)
}
