package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"imgtool/boards"
	"imgtool/flash/deploy"
	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/compose"
	"imgtool/image/fault"
	"imgtool/image/gpt"
	"imgtool/image/hostfile"
	"imgtool/image/partition"
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
	disk     string
	keep     string
	headless bool
	until    string
	timeout  time.Duration
}

func newVMCommand(u *ui) *cobra.Command {
	var opt vmOptions
	cmd := &cobra.Command{
		Use:   "vm [IMAGE]",
		Short: "Boot an image in an emulated machine",
		Long: `Boot an image of an arm64 board in QEMU with Debian's U-Boot for it, from its own
partition table and boot script. The image is any that flash takes, by default the
newest in out/, and is never changed: the machine has a copy of it as its disk, with
the partition table fitted to the disk as flash does.

The console is the terminal; type Ctrl-A x to leave. With --headless it goes to
stdout, and the exit status is 0 when a line matches --until, or when the machine
powers off if there is no --until; 9 at the timeout, or when the machine ends and no
line matched.

The machine has no network, or with --forward or --lan one that leads in only: what
runs in it reaches neither other computers nor services of this one. --network opens
it; do that only for images you trust.

What is missing is named with the package to install (exit status 3). The machine is
no Rock64: its boot loaders are not run, and its disk is /dev/vda.`,
		Example: `  imgtool vm
  imgtool vm --slot b x.img.zst
  imgtool vm --keep disk.raw x.img.zst      # and again, with what it wrote:
  imgtool vm --keep disk.raw
  imgtool vm --headless --until 'starter ready' --timeout 2m x.img.zst
  imgtool vm --forward 8080 --usb stick.img x.img.zst`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runVM(cmd.Context(), args, opt, cmd.Flags().Changed("timeout"), u)
		},
	}
	f := cmd.Flags()
	f.StringVar(&opt.slot, "slot", "", "boot this slot first, a or b, whatever the counts of its tries say")
	f.StringVar(&opt.disk, "disk", "", "size of the disk, such as 16GiB (default: what the board needs, at least 4GiB)")
	f.StringVar(&opt.keep, "keep", "", "file that is the disk, and stays; if it is there, it is booted again as it is")
	f.StringVar(&opt.env, "env", "", "file that is the flash with U-Boot's environment, and stays; made if it is not there")
	f.StringVar(&opt.usb, "usb", "", "file that is a USB stick, and is never changed")
	f.StringVar(&opt.nvme, "nvme", "", "image that is on an NVMe disk beside the board's")
	f.StringArrayVar(&opt.forward, "forward", nil, "port of 127.0.0.1 that leads to the same one of the machine, or PORT:PORT; it leads in only")
	f.StringArrayVar(&opt.lan, "lan", nil, "the same to the machine's LAN, eth1, on which AtomixOS is "+vm.GatewayOfLAN)
	f.BoolVar(&opt.network, "network", false, "let the machine reach other computers, and at 10.0.2.2 the services of this one's 127.0.0.1")
	f.BoolVar(&opt.headless, "headless", false, "no terminal: the console goes to stdout")
	f.StringVar(&opt.until, "until", "", "with --headless: end with 0 when a line of the console matches this regular expression")
	f.DurationVar(&opt.timeout, "timeout", 5*time.Minute, "with --headless: end with 9 after this long")
	return cmd
}

func runVM(ctx context.Context, args []string, opt vmOptions, timed bool, u *ui) error {
	until, err := opt.check(timed, u)
	if err != nil {
		return err
	}
	m := vm.Machine{Env: opt.env, Network: opt.network}
	if m.Forward, err = parseForwards("--forward", opt.forward); err != nil {
		return err
	}
	if m.LAN, err = parseForwards("--lan", opt.lan); err != nil {
		return err
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
		nvme, err := scratchDisk(ctx, opt.nvme, "", u)
		if err != nil {
			return err
		}
		defer nvme.Close()
		m.Disks = append(m.Disks, vm.Disk{File: nvme, Bus: "nvme"})
	}
	if opt.usb != "" {
		if err := checkStick(opt.usb); err != nil {
			return err
		}
		m.Disks = append(m.Disks, vm.Disk{Path: opt.usb, Bus: "usb"})
	}
	var replies []vm.Reply
	if opt.slot != "" {
		command, err := slotCommand(disk, opt.slot)
		if err != nil {
			return err
		}
		replies = []vm.Reply{{Seen: "Hit any key", Type: "\n"}, {Seen: "=> ", Type: command + "\n"}}
	}
	if opt.env != "" {
		if err := makeEnv(opt.env); err != nil {
			return err
		}
	}
	if opt.headless {
		return runHeadless(ctx, m, until, opt.timeout, replies, u)
	}
	return runTerminal(ctx, m, replies, u)
}

// check looks at what needs no image, and whether files can be made.
func (opt *vmOptions) check(timed bool, u *ui) (until *regexp.Regexp, err error) {
	in, ok := u.in.(*os.File)
	switch terminal := ok && term.IsTerminal(int(in.Fd())); {
	case opt.slot != "" && opt.slot != "a" && opt.slot != "b":
		return nil, fault.New(fault.Usage, "--slot is %q; it must be a or b", opt.slot)
	case !opt.headless && (opt.until != "" || timed):
		return nil, fault.New(fault.Usage, "--until and --timeout are for --headless")
	case opt.timeout <= 0:
		return nil, fault.New(fault.Usage, "--timeout is %s; it must be more than nothing", opt.timeout)
	case !opt.headless && u.json:
		return nil, fault.New(fault.Usage, "--json is for --headless: the console is the terminal else")
	case !opt.headless && !terminal:
		return nil, fault.New(fault.Usage, "the console needs a terminal: pass --headless to have it on stdout")
	}
	if opt.disk != "" {
		if _, err := parseDiskSize(opt.disk); err != nil {
			return nil, err
		}
	}
	for _, made := range []string{opt.keep, opt.env} {
		if made == "" {
			continue
		}
		if _, err := os.Stat(made); err != nil {
			if err := hostfile.CheckOutput(made); err != nil {
				return nil, err
			}
		}
	}
	if opt.until != "" {
		if until, err = regexp.Compile(opt.until); err != nil {
			return nil, fault.New(fault.Usage, "--until: %w", err)
		}
	}
	return until, nil
}

// parseForwards reads ports, and looks whether those of this computer are free.
func parseForwards(flag string, list []string) (all []vm.Forward, err error) {
	for _, text := range list {
		host, guest, two := strings.Cut(text, ":")
		if !two {
			guest = host
		}
		from, err1 := strconv.ParseUint(host, 10, 16)
		to, err2 := strconv.ParseUint(guest, 10, 16)
		if err1 != nil || err2 != nil || from == 0 || to == 0 {
			return nil, fault.New(fault.Usage, "%s is %q; it must be a port of 1 to 65535, or two as 8081:8080", flag, text)
		}
		l, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", from))
		if err != nil {
			return nil, fault.WithHint(fmt.Errorf("%s: %w", flag, err), "take another port of this computer, such as %s %d:%d", flag, from+1, to)
		}
		defer l.Close()
		all = append(all, vm.Forward{Host: uint16(from), Guest: uint16(to)})
	}
	return all, nil
}

// mainDisk is the disk of the board: of --keep as it is, or made of an image.
func (opt *vmOptions) mainDisk(ctx context.Context, args []string, u *ui) (*os.File, error) {
	if opt.keep != "" {
		f, err := os.OpenFile(opt.keep, os.O_RDWR, 0)
		switch {
		case err == nil && len(args) > 0:
			f.Close()
			return nil, fault.New(fault.Usage, "%s is there already: boot it again without an image, or remove it for a disk made of %s", opt.keep, args[0])
		case err == nil && opt.disk != "":
			f.Close()
			return nil, fault.New(fault.Usage, "%s is there already, and has its size: leave out --disk", opt.keep)
		case err == nil:
			if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
				f.Close()
				return nil, fault.New(fault.Usage, "%s is no regular file: a machine's disk is one", opt.keep)
			}
			u.Infof("disk: %s, as it was left", opt.keep)
			return f, nil
		case !errors.Is(err, fs.ErrNotExist):
			return nil, err
		}
	}
	var path string
	var err error
	if len(args) > 0 {
		path = args[0]
	} else {
		if path, err = volume.Newest("imgtool vm FILE"); err != nil {
			return nil, err
		}
		u.Infof("image: %s, the newest in out/", path)
	}
	if opt.keep == "" {
		return scratchDisk(ctx, path, opt.disk, u)
	}
	keep, err := hostfile.Target(opt.keep)
	if err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(filepath.Dir(keep), ".imgtool-*")
	if err != nil {
		return nil, err
	}
	if err = writeDisk(ctx, f, path, opt.disk, u); err == nil {
		err = os.Rename(f.Name(), keep)
	}
	if err != nil {
		f.Close()
		os.Remove(f.Name())
		return nil, err
	}
	return f, nil
}

// scratchDisk is a disk made of an image, in a file that is gone when it is closed.
func scratchDisk(ctx context.Context, path, size string, u *ui) (*os.File, error) {
	f, err := os.CreateTemp("", "imgtool-*")
	if err != nil {
		return nil, fmt.Errorf("the machine's disk (TMPDIR names the folder): %w", err)
	}
	os.Remove(f.Name())
	if err := writeDisk(ctx, f, path, size, u); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// writeDisk makes a file the disk that an image would be flashed to.
func writeDisk(ctx context.Context, f *os.File, path, wanted string, u *ui) error {
	pic, err := volume.Open(path, u.opening())
	if err != nil {
		return err
	}
	defer pic.Close()
	if m := pic.Manifest; m != nil {
		if board, err := boards.Load(m.Board); err == nil && board.Arch != "arm64" {
			return fmt.Errorf("%s is for the board %s with %s processors; the machine has arm64 ones", pic.Name, board.Name, board.Arch)
		}
	}
	if err := pic.Check(ctx); err != nil {
		return err
	}
	if pic.FillPartition() != nil && pic.File != nil {
		if err := pic.Seek(ctx); err != nil {
			return err
		}
	}
	p, err := deploy.NewPlan(pic)
	if err != nil {
		return err
	}
	size, err := diskSize(p, wanted)
	if err != nil {
		p.Close()
		return err
	}
	fitted, err := compose.Fit(pic, size, nil)
	if err == nil && fitted != pic {
		p.Close()
		p, err = deploy.NewPlan(fitted)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", pic.Name, err)
	}
	defer p.Close()
	all, err := p.Expected(size)
	if err != nil {
		return fmt.Errorf("%s: %w", pic.Name, err)
	}
	_, err = image.Write(ctx, f, volume.SkipZeros(all), u.Phase("making the disk", p.ExpectedSize()))
	u.EndPhase()
	if err != nil {
		return fmt.Errorf("the machine's disk: %w", err)
	}
	return f.Truncate(size)
}

// diskSize is how large the disk is to be, in bytes.
func diskSize(p *deploy.Plan, wanted string) (int64, error) {
	need := p.Need()
	if need.SectorSize != 512 {
		return 0, fmt.Errorf("%s: it is for a disk with sectors of %d bytes, and that of the machine has 512", p.Source().Name, need.SectorSize)
	}
	least := max(need.Size, need.Floor)
	if need.Exact != 0 {
		least = need.Exact
	}
	if wanted == "" {
		if need.Exact != 0 || p.Source().FillPartition() != nil {
			return p.Size(), nil
		}
		return max(least, 4*layouts.GiB), nil
	}
	size, err := parseDiskSize(wanted)
	if err != nil {
		return 0, err
	}
	switch {
	case need.Exact != 0 && int64(size) != need.Exact:
		return 0, fault.New(fault.Usage, "--disk %s: %s is for a disk of exactly %d bytes", wanted, p.Source().Name, need.Exact)
	case int64(size) < least:
		return 0, fault.New(fault.Usage, "--disk %s has %d bytes, and %s needs a disk of %d", wanted, size, p.Source().Name, least)
	}
	return int64(size), nil
}

func parseDiskSize(text string) (size layouts.Bytes, err error) {
	if err := size.UnmarshalText([]byte(text)); err != nil || size <= 0 || size%512 != 0 {
		return 0, fault.New(fault.Usage, "--disk %q: it must be a size such as 16GiB", text)
	}
	return size, nil
}

// slotCommand is what U-Boot is told to boot a slot, whose boot partition is found by
// its name.
func slotCommand(disk *os.File, slot string) (string, error) {
	table, err := partition.Read(disk, 512)
	if err != nil {
		return "", fmt.Errorf("the machine's disk: %w", err)
	}
	i := slices.IndexFunc(table.Parts, func(p gpt.Part) bool { return p.Name == "boot-"+slot })
	if i < 0 {
		return "", fault.WithHint(fmt.Errorf("there is no slot %s: the disk has no partition boot-%s", slot, slot),
			"build an image with --slots ab, or boot it once with --keep and write the slot there")
	}
	n := table.Parts[i].Number
	return fmt.Sprintf("virtio scan; setenv devtype virtio; setenv devnum 0; setenv distro_bootpart %x; setenv slot_chosen yes; load virtio 0:%x ${scriptaddr} boot.scr; source ${scriptaddr}", n, n), nil
}

// checkStick refuses what QEMU would show as a stick and is none.
func checkStick(path string) error {
	stick, err := volume.Open(path, volume.Options{})
	if err != nil {
		return fmt.Errorf("--usb: %w", err)
	}
	defer stick.Close()
	if stick.Format != artifact.Raw {
		return fmt.Errorf("--usb %s: it is packed; a stick is a raw image", path)
	}
	return nil
}

// makeEnv makes the flash of U-Boot's environment, if it is not there.
func makeEnv(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return err
	case info.Size() == 0:
		return f.Truncate(vm.EnvSize)
	case info.Size() != vm.EnvSize:
		return fmt.Errorf("--env %s has %d bytes, and the flash of U-Boot's environment has %d", path, info.Size(), vm.EnvSize)
	}
	return nil
}

// runTerminal makes the terminal the console of a machine.
func runTerminal(ctx context.Context, m vm.Machine, replies []vm.Reply, u *ui) error {
	u.Infof("type Ctrl-A x to leave")
	r, err := m.Start(ctx)
	if err != nil {
		return err
	}
	fd := int(u.in.(*os.File).Fd())
	before, err := term.MakeRaw(fd)
	if err != nil {
		r.Kill()
		return err
	}
	defer term.Restore(fd, before)
	go io.Copy(r.Keyboard, u.in)
	if _, err := r.Watch(u.machineConsole(), nil, replies...); err != io.EOF {
		return err
	}
	return nil
}

// runHeadless runs a machine until a line matches, or it powers off if until is nil.
func runHeadless(ctx context.Context, m vm.Machine, until *regexp.Regexp, timeout time.Duration, replies []vm.Reply, u *ui) error {
	begin := time.Now()
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	late := fault.New(fault.Gone, "the machine did not power off in %s", timeout)
	if until != nil {
		late = fault.New(fault.Gone, "no line matched %q in %s", until, timeout)
	}
	r, err := m.Start(limited)
	switch {
	case err != nil && ctx.Err() == nil && limited.Err() != nil:
		return late
	case err != nil:
		return err
	}
	var done func(string) bool
	if until != nil {
		done = until.MatchString
	}
	var out io.Writer = &consoleEvents{u: u}
	if !u.json {
		data := u.data()
		defer data.Close()
		out = data
	}
	line, err := r.Watch(out, done, replies...)
	switch {
	case err == nil:
		r.Kill()
	case ctx.Err() != nil:
		return err
	case limited.Err() != nil:
		return late
	case err == io.EOF && until != nil:
		return fault.New(fault.Gone, "the machine ended, and no line matched %q", until)
	case err != io.EOF:
		return err
	}
	if u.json {
		return u.print(map[string]any{"line": line, "seconds": time.Since(begin).Seconds()})
	}
	return nil
}

// consoleEvents makes every line of a console an event.
type consoleEvents struct {
	u    *ui
	rest []byte
}

func (c *consoleEvents) Write(p []byte) (int, error) {
	c.rest = append(c.rest, p...)
	for {
		line, rest, ended := bytes.Cut(c.rest, []byte("\n"))
		if !ended {
			return len(p), nil
		}
		c.u.event(map[string]any{"event": "console", "line": strings.TrimRight(string(line), "\r")})
		c.rest = rest
	}
}
