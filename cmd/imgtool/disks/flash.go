package disks

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"regexp"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"imgtool/boards"
	"imgtool/cmd/imgtool/option"
	"imgtool/cmd/imgtool/usage"
	"imgtool/flash/deploy"
	"imgtool/flash/disk"
	"imgtool/flash/receipt"
	"imgtool/image/artifact"
	"imgtool/image/fault"
	"imgtool/image/trust"
	"imgtool/image/volume"
)

type flashOptions struct {
	image   string
	yes     bool
	delta   string
	verify  string
	dryRun  bool
	receipt string
	board   string
	serial  string
	port    string
	fixed   bool
	timeout time.Duration
	again   bool // write over what was provisioned
	stall   time.Duration
	seed    option.Seed
	sums    option.Sums
	trust   option.Trust
	signers []string // who signed the image, if that was checked
}

// check checks what needs no image and no disk.
func (opt *flashOptions) check() error {
	if opt.port != "" && !usbPort.MatchString(opt.port) {
		return fault.New(fault.Usage, "--port is %q; it must be a USB port such as 1-2.3: port 3 of a hub in port 2 of bus 1", opt.port)
	}
	if opt.timeout < 0 {
		return fault.New(fault.Usage, "--timeout is %s; it must not be negative", opt.timeout)
	}
	if err := option.CheckStall(opt.stall); err != nil {
		return err
	}
	if _, err := option.Board(opt.board); err != nil {
		return err
	}
	if err := opt.sums.Check(); err != nil {
		return err
	}
	return receipt.Check(opt.receipt)
}

// usbPort are the names of USB ports.
var usbPort = regexp.MustCompile(`^[0-9]+-[0-9]+(\.[0-9]+)*$`)

func newFlashCommand(u *ui) *cobra.Command {
	opt := flashOptions{delta: "auto", verify: "full"}
	cmd := &cobra.Command{
		Use:   "flash [DISK...]",
		Short: "Write an image to a disk and verify it",
		Long: `Write an image to a disk, read it back past the cache, and only then make it
bootable: an interrupted or failed flash leaves a disk that nothing boots. Several
disks are written at once, each verified separately.

Without a disk, choose among the disks on USB and cards, or take the one with --serial;
if there is none, plug one in. Mounted disks are unmounted after the question.
With --board and no disk, wait for the board to show its disk over USB in recovery mode,
and take it if there is exactly one. With --board and a disk, refuse an image for another
board.

DISK is a disk, or a regular file that stands for a disk of its size. A disk that
is in use, read-only, too small or this system's own is refused, and no flag changes
that. A disk that is only mounted, as a desktop does it, is unmounted after the question,
and refused with --yes; on macOS, volumes in /Volumes are always unmounted. Root's rights
are not needed where UDisks2 and its rules allow it. The format of the
image is detected by its content: raw, zstd, xz, gzip, bzip2, lz4, zip or Android sparse;
- is standard input. An image that is a file is checked completely before anything is
written: against its manifest or block map (.bmap), and the checksums of its compression.
Data that must be unpacked for that go into a scratch file (TMPDIR).

The image can be a URL of http or https. Of an .img.zst or .img on a server that sends
ranges, only the manifest and what the disk lacks are fetched, and each piece is compared
with the manifest before it is written. Others are written while they are fetched. With
--sha256 or --sha256sums, the whole file is fetched and compared before anything is written.

While a disk is written, other programs can neither open nor mount it, and the computer
does not go to sleep.`,
		Example: `  imgtool flash /dev/sdX
  imgtool flash --yes -i x.img.zst /dev/disk/by-id/usb-…
  ssh builder cat x.img.zst | imgtool flash --yes -i - /dev/sdX
  imgtool flash -i https://images.example/x.img.zst /dev/sdX
  imgtool flash -i oci://registry.example.com/boards/rock64:1.4 /dev/sdX
  imgtool flash --board rock64
  imgtool flash --seed seed.toml --values units.csv --unit W123 /dev/sdX
  imgtool flash --receipt units.jsonl /dev/sdX /dev/sdY /dev/sdZ`,
		SuggestFor: []string{"burn", "write", "dd", "install", "copy"},
		Args:       usage.Any,
		RunE: func(cmd *cobra.Command, args []string) error {
			waiting := []string{"port", "timeout"}
			err := usage.CheckUseless(cmd,
				usage.Useless{If: opt.board == "", Why: "without --board, the board to wait for", Flags: waiting},
				usage.Useless{If: len(args) > 0, Why: "with a named disk: leave out the disk to wait for the board", Flags: waiting})
			if err == nil {
				err = checkNamed(args)
			}
			if err != nil {
				return err
			}
			return runFlash(cmd.Context(), args, opt, u)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&opt.image, "image", "i", "", "image `FILE` or URL to write, - for standard input (default: the newest in out/)")
	f.BoolVarP(&opt.yes, "yes", "y", false, "skip the confirmation; safety checks still apply")
	usage.AddEnum(cmd, &opt.delta, "delta", "read first and write only what differs; auto: if the disk carries an image of the board", "yes", "no", "auto")
	usage.AddEnum(cmd, &opt.verify, "verify", "what is read back: all, a piece in 16 of the partitions, or boot loaders and tables alone", "full", "sampled", "none")
	f.BoolVar(&opt.dryRun, "dry-run", false, "check everything and write nothing")
	f.StringVar(&opt.board, "board", "", "a board's `NAME`, or the path of its definition")
	f.StringVar(&opt.serial, "serial", "", "take the disk only if this `SERIAL` is its own; in recovery mode, the board with it")
	f.BoolVar(&opt.fixed, "fixed", false, "allow an internal disk that is not in use, with its --serial")
	f.StringVar(&opt.port, "port", "", "USB `PORT` of the board in recovery mode, such as 1-2.3")
	f.DurationVar(&opt.timeout, "timeout", 10*time.Minute, "how long to wait for the board")
	f.StringVar(&opt.seed.File, "seed", "", "config.toml `FILE` for the device's first boot, put in while the image is written")
	opt.seed.AddFlags(cmd)
	opt.sums.AddFlags(cmd)
	f.BoolVar(&opt.again, "reprovision", false, "write over a disk that says it was provisioned")
	f.StringVar(&opt.receipt, "receipt", "", "append a receipt of each disk to this `FILE`, a JSON object a line")
	option.AddStall(cmd, &opt.stall)
	option.AddRegistry(cmd, u)
	opt.trust.AddFlags(cmd)
	usage.Group(cmd, "Seed", "seed", "values", "unit")
	usage.Group(cmd, "A board in recovery mode", "board", "port", "timeout")
	usage.Group(cmd, "Checks", "sha256", "sha256sums", "serial", "fixed", "reprovision", "delta", "verify", "stall-timeout")
	return cmd
}

// checkNamed checks that the disks exist, and that none is an image that was meant to be written.
func checkNamed(disks []string) error {
	for _, name := range disks {
		info, err := os.Stat(name)
		if volume.IsRemote(name) {
			return fault.New(fault.Usage, "%s is an image and not a disk: name it with -i, and then the disk", volume.RemoteName(name))
		}
		if errors.Is(err, fs.ErrNotExist) {
			return deploy.NoDisk(name)
		}
		if format, _ := artifact.FormatOf(name); err == nil && info.Mode().IsRegular() && format != artifact.Raw {
			return fault.New(fault.Usage, "%s is an image and not a disk: name it with -i %s, and then the disk", name, name)
		}
	}
	return nil
}

func runFlash(ctx context.Context, names []string, opt flashOptions, u *ui) error {
	if err := opt.check(); err != nil {
		return err
	}
	policy, err := opt.trust.Policy(opt.board, u)
	if err != nil {
		return err
	}
	if err := deploy.Permit(ctx, names, true); err != nil {
		return err
	}
	src, err := option.Opening{Sums: opt.sums, Policy: policy}.Open(u, &opt.image, "--image FILE")
	if err != nil {
		return err
	}
	defer src.Close()
	signatures, err := option.CheckSignatures(ctx, src, policy, u)
	if err != nil {
		return err
	}
	opt.signers = trust.Names(signatures)
	board, err := option.Board(opt.board)
	if err != nil {
		return err
	}
	if src, err = opt.seed.In(ctx, src, board, u); err != nil {
		return err
	}
	return flashSource(ctx, names, src, opt, u)
}

// boardOf returns the board of a --board flag, or nil, and refuses an image for another board.
func boardOf(src *volume.Source, name string) (*boards.Board, error) {
	board, err := option.Board(name)
	if err == nil && board != nil {
		err = deploy.CheckBoard(src, board.Name)
	}
	return board, err
}

// flashSource writes an open image to disks.
func flashSource(ctx context.Context, names []string, src *volume.Source, opt flashOptions, u *ui) error {
	o := option.Deploying(u, opt.yes, opt.stall)
	o.SignedBy = opt.signers
	o.Verify, o.Delta, o.DryRun, o.Reprovision, o.Fixed, o.Serial = opt.verify, opt.delta, opt.dryRun, opt.again, opt.fixed, opt.serial
	if opt.image == "-" && !opt.yes {
		o.Confirm = func(context.Context, string) error {
			return fault.New(fault.Usage, "standard input is the image, so no answer can be read from it: pass --yes to write without a question")
		}
	}
	board, err := boardOf(src, opt.board)
	if err != nil {
		return err
	}
	if board != nil {
		if o.Board = board.Name; src.Manifest == nil && (opt.yes || opt.dryRun) {
			u.Warnf("%s: it is not known whether this image is for %s: it has no manifest", src.Name, board.Name)
		}
		o.Eject = len(names) == 0
	}
	if err := deploy.Precheck(ctx, src, names, o, opt.receipt); err != nil {
		return err
	}
	o.Likely = names
	all := &receipts{several: len(names) > 1, u: u}
	done := o.Done
	o.Done = func(r deploy.Receipt) { all.add(r); done(r) }
	d, err := deploy.New(src, o)
	if err != nil {
		return err
	}
	defer d.Close()
	if len(names) == 0 {
		name, err := opt.findDisk(ctx, board, src, d.Need(), u)
		if err != nil {
			return err
		}
		names = []string{name}
	}
	if err := deploy.Permit(ctx, names, true); err != nil {
		return err
	}
	var log *receipt.Log
	if !opt.dryRun {
		if log, err = receipt.Open(opt.receipt); err != nil {
			return err
		}
		defer log.Close()
	}
	u.BeforeEnd(func() { d.Abandon(); all.print() })
	err = d.Run(ctx, names, log)
	all.print()
	if err != nil || opt.dryRun {
		return err
	}
	for _, line := range d.After(board) {
		u.Paragraph(line)
	}
	return nil
}

// receipts collects the receipts of a flash, its result with --json.
type receipts struct {
	u       *ui
	several bool

	mu  sync.Mutex
	all []deploy.Receipt
}

func (r *receipts) add(receipt deploy.Receipt) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, receipt)
}

func (r *receipts) print() {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case !r.u.JSON || len(r.all) == 0:
	case r.several:
		r.u.Print(map[string]any{"receipts": r.all})
	default:
		r.u.Print(r.all[0])
	}
}

// findDisk returns the disk of a board in recovery mode. Without a board it lets the user
// choose.
func (opt *flashOptions) findDisk(ctx context.Context, board *boards.Board, src *volume.Source, need disk.Need, u *ui) (string, error) {
	if board == nil {
		return u.ChooseDisk(ctx, need, opt.yes || opt.image == "-")
	}
	r := deploy.Recovery{Board: board, Serial: opt.serial, Port: opt.port, Timeout: opt.timeout}
	if src.Manifest != nil {
		r.Medium = src.Manifest.Medium
	}
	found, err := r.Wait(ctx, u)
	if err != nil {
		return "", err
	}
	u.Infof("found %s", deploy.Describe(found))
	return found.Path, nil
}
