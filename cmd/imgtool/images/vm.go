package images

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"imgtool/boards"
	"imgtool/cmd/imgtool/option"
	"imgtool/cmd/imgtool/usage"
	"imgtool/flash/deploy"
	"imgtool/image/artifact"
	"imgtool/image/fault"
	"imgtool/image/hostfile"
	"imgtool/image/vm"
	"imgtool/image/volume"
	"imgtool/layouts"
)

type vmOptions struct {
	slot     string
	env      string
	usb      string
	nvme     string
	forward  []string
	lan      []string
	network  bool
	disk     usage.Size
	keep     string
	headless bool
	until    string
	pattern  *regexp.Regexp // of until
	timeout  time.Duration
}

func newVMCommand(u *ui) *cobra.Command {
	var opt vmOptions
	cmd := &cobra.Command{
		Use:   "vm [IMAGE]",
		Short: "Boot an image in an emulated machine",
		Long: `Boot an image of an arm64 board in QEMU with Debian's U-Boot for it, from the image's own
partition table and boot script. The image is any that flash takes, by default the newest
in out/, and is never changed: the machine's disk is a copy, with the partition table
fitted to the disk as flash does.

The console is the terminal; type Ctrl-A x to leave. With --headless it goes to stdout,
and the exit status is 0 if a line matches --until or, without --until, if the machine
powers off. It is 9 at the timeout, or if the machine ends and no line matched.

The machine has no network. With --forward or --lan it answers connections to these ports,
but reaches neither other computers nor services of this one. --network opens it; use
that for trusted images only.

Missing programs are named with the packages to install (exit status 3). The machine is not
a Rock64: the board's boot loaders do not run, and its disk is /dev/vda.`,
		Example: `  imgtool vm
  imgtool vm --slot b x.img.zst
  imgtool vm https://images.example/x.img.zst
  imgtool vm --keep disk.raw x.img.zst      # and again, with what it wrote:
  imgtool vm --keep disk.raw
  imgtool vm --headless --until 'starter ready' --timeout 2m x.img.zst
  imgtool vm --forward 8080 --usb stick.img x.img.zst`,
		SuggestFor: []string{"run", "boot", "qemu", "emulate", "start", "try"},
		Args:       usage.Operands("?image"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runVM(cmd.Context(), args, opt, cmd.Flags().Changed("timeout"), u)
		},
	}
	f := cmd.Flags()
	usage.AddEnum(cmd, &opt.slot, "slot", "boot this slot first, whatever its try counters say", "a", "b")
	f.Var(&opt.disk, "disk", "size of the disk, such as 16GiB (default: what the board needs, at least 4GiB)")
	f.StringVar(&opt.keep, "keep", "", "`FILE` to use as the disk, and keep; if it exists, it is booted again unchanged")
	f.StringVar(&opt.env, "env", "", "`FILE` with the flash for U-Boot's environment, and keep; created if it does not exist")
	f.StringVar(&opt.usb, "usb", "", "raw image `FILE` of a USB stick, which is never changed")
	f.StringVar(&opt.nvme, "nvme", "", "image `FILE` on an NVMe disk besides the board's disk")
	f.StringArrayVar(&opt.forward, "forward", nil, "`PORT[:PORT]` of 127.0.0.1 that is forwarded to the same or the second port of the machine")
	f.StringArrayVar(&opt.lan, "lan", nil, "the same, `PORT[:PORT]`, to the machine's LAN, eth1, on which AtomixOS has the address "+vm.GatewayOfLAN)
	f.BoolVar(&opt.network, "network", false, "let the machine reach other computers and, at 10.0.2.2, services of this one's 127.0.0.1")
	f.BoolVar(&opt.headless, "headless", false, "no terminal: the console goes to stdout")
	f.StringVar(&opt.until, "until", "", "with --headless: exit with 0 when a line of the console matches this `REGEXP`")
	f.DurationVar(&opt.timeout, "timeout", 5*time.Minute, "with --headless: exit with 9 after this time")
	return option.AddRegistry(cmd, u)
}

func runVM(ctx context.Context, args []string, opt vmOptions, timed bool, u *ui) error {
	err := opt.check(timed, u)
	if err != nil {
		return err
	}
	for _, file := range append([]string{opt.usb, opt.nvme}, args...) {
		if _, err := os.Stat(file); file != "" && file != "-" && err != nil && !volume.IsRemote(file) {
			return err
		}
	}
	if opt.usb != "" {
		if err := checkStick(opt.usb); err != nil {
			return err
		}
	}
	m := vm.Machine{Env: opt.env, Network: opt.network}
	if m.Forward, err = vm.ParseForwards("--forward", opt.forward); err != nil {
		return err
	}
	if m.LAN, err = vm.ParseForwards("--lan", opt.lan); err != nil {
		return err
	}
	if in, ok := u.In.(*os.File); !opt.headless && !(ok && term.IsTerminal(int(in.Fd()))) {
		return fault.New(fault.Usage, "the console needs a terminal: pass --headless to have it on stdout")
	}
	if err := vm.Check(); err != nil {
		return err
	}
	disk, err := opt.mainDisk(ctx, args, u)
	if err != nil {
		return err
	}
	defer disk.Close()
	m.Disks = append(m.Disks, vm.Disk{File: disk, Bus: "virtio", Keep: opt.keep != ""})
	if opt.nvme != "" {
		if u.Registry.Medium != "" {
			u.Registry.Medium = "nvme" // it was that of the other disk
		}
		nvme, err := newDisk(ctx, "", opt.nvme, 0, u)
		if err != nil {
			return err
		}
		defer nvme.Close()
		m.Disks = append(m.Disks, vm.Disk{File: nvme, Bus: "nvme"})
	}
	if opt.usb != "" {
		m.Disks = append(m.Disks, vm.Disk{Path: opt.usb, Bus: "usb"})
	}
	var replies []vm.Reply
	if opt.slot != "" {
		if replies, err = vm.BootSlot(disk, opt.slot); err != nil {
			return err
		}
	}
	if opt.env != "" {
		if err := vm.CreateEnv(opt.env); err != nil {
			return fmt.Errorf("--env: %w", err)
		}
	}
	if opt.headless {
		return runHeadless(ctx, m, opt, replies, u)
	}
	return runTerminal(ctx, m, replies, u)
}

// check checks the options before anything is opened.
func (opt *vmOptions) check(timed bool, u *ui) (err error) {
	switch {
	case !opt.headless && (opt.until != "" || timed):
		return fault.New(fault.Usage, "--until and --timeout need --headless")
	case opt.timeout <= 0:
		return fault.New(fault.Usage, "--timeout is %s; it must be positive", opt.timeout)
	case !opt.headless && u.JSON:
		return fault.New(fault.Usage, "--json needs --headless: otherwise the console is the terminal")
	case opt.disk != 0 && opt.disk < layouts.MiB:
		return fault.New(fault.Usage, "--disk is %d bytes; write a size such as 16GiB", opt.disk)
	}
	if opt.env != "" {
		if opt.env == opt.keep {
			return fault.New(fault.Usage, "--env and --keep are one file, %s: name two", opt.env)
		}
		if err := vm.CheckEnv(opt.env); err != nil {
			return fmt.Errorf("--env: %w", err)
		}
	}
	for _, file := range []string{opt.keep, opt.env} {
		if _, err := os.Stat(file); file == "" || err == nil {
			continue
		}
		if err := hostfile.CheckOutput(file); err != nil {
			return err
		}
	}
	if opt.until != "" {
		if opt.pattern, err = regexp.Compile(opt.until); err != nil {
			return fault.New(fault.Usage, "--until %q is not a regular expression: %s", opt.until, strings.TrimPrefix(err.Error(), "error parsing regexp: "))
		}
	}
	return nil
}

// mainDisk returns the disk that the machine boots from: the file of --keep if it exists,
// or a new one with an image on it.
func (opt *vmOptions) mainDisk(ctx context.Context, args []string, u *ui) (*os.File, error) {
	if opt.keep != "" {
		f, err := os.OpenFile(opt.keep, os.O_RDWR, 0)
		if err == nil {
			if err = opt.checkKept(f, args); err == nil {
				u.Infof("disk: %s, as it was left", opt.keep)
				return f, nil
			}
			f.Close()
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return newDisk(ctx, opt.keep, strings.Join(args, ""), int64(opt.disk), u)
}

func (opt *vmOptions) checkKept(f *os.File, args []string) error {
	info, err := f.Stat()
	switch {
	case err != nil:
		return err
	case len(args) > 0:
		return fault.New(fault.Usage, "%s exists: boot it again without an image, or remove it to make a disk from %s", opt.keep, volume.RemoteName(args[0]))
	case opt.disk != 0:
		return fault.New(fault.Usage, "%s exists and has its size: leave out --disk", opt.keep)
	case !info.Mode().IsRegular():
		return fault.New(fault.Usage, "%s is not a regular file, which the machine's disk must be", opt.keep)
	}
	return nil
}

// newDisk makes a disk of size bytes with an image on it, or the newest image if file is
// empty. The disk is a file at a path, or temporary.
func newDisk(ctx context.Context, path, file string, size int64, u *ui) (*os.File, error) {
	src, err := option.Opening{}.Open(u, &file, "imgtool vm FILE")
	if err != nil {
		return nil, err
	}
	defer src.Close()
	if m := src.Manifest; m != nil {
		if info, err := boards.InfoOf(m.Board, m.Medium, m.Info); err == nil && info.Arch != "arm64" {
			return nil, fmt.Errorf("%s is for the board %s with %s processors; the machine has arm64 ones", src.Name, m.Board, info.Arch)
		}
	}
	return deploy.CreateFile(ctx, path, src, size, u)
}

// checkStick refuses an image that is not raw: QEMU would use its compressed bytes.
func checkStick(path string) error {
	if volume.IsRemote(path) {
		return fault.New(fault.Usage, "--usb: %s is on a server: download it first, and name the file", volume.RemoteName(path))
	}
	s, err := volume.Open(path, volume.Options{})
	if err != nil {
		return fmt.Errorf("--usb: %w", err)
	}
	defer s.Close()
	if s.Format != artifact.Raw {
		return fmt.Errorf("--usb %s: it is in the format %s; unpack it to a raw image first", path, s.Format)
	}
	return nil
}
