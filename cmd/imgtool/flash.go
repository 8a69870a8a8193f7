package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"math"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"imgtool/flash"
	"imgtool/flash/disk"
	"imgtool/image"
	"imgtool/image/compose"
	"imgtool/image/fault"
	"imgtool/image/partition"
	"imgtool/image/sanitize"
	"imgtool/image/volume"
	"imgtool/layouts"
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
	again   bool // what was provisioned already
	stall   time.Duration
	seed    seedOptions
}

// check looks at what needs no image and no disk.
func (opt *flashOptions) check() error {
	if opt.delta != "auto" && opt.delta != "yes" && opt.delta != "no" {
		return fault.New(fault.Usage, "--delta is %q; it must be yes, no or auto", opt.delta)
	}
	if _, ok := verifyModes[opt.verify]; !ok {
		return fault.New(fault.Usage, "--verify is %q; it must be full, sampled or none", opt.verify)
	}
	if opt.timeout < 0 {
		return fault.New(fault.Usage, "--timeout is %s; it must not be negative", opt.timeout)
	}
	if err := checkStall(opt.stall); err != nil {
		return err
	}
	if _, err := askedBoard(opt.board); err != nil {
		return err
	}
	return checkReceipts(opt.receipt)
}

var verifyModes = map[string]flash.Verify{"full": flash.Full, "sampled": flash.Sampled, "none": flash.None}

// addStallFlag adds --stall-timeout to a command that waits for disks.
func addStallFlag(cmd *cobra.Command, stall *time.Duration) {
	cmd.Flags().DurationVar(stall, "stall-timeout", flash.DefaultStall, "how long a disk may take over one read, write or flush")
}

func checkStall(stall time.Duration) error {
	if stall <= 0 {
		return fault.New(fault.Usage, "--stall-timeout is %s; it must be more than nothing", stall)
	}
	return nil
}

// patience is how long a disk is waited for, and says when it is slow.
func (u *ui) patience(disk string, stall time.Duration) flash.Timeout {
	return flash.Timeout{Stall: stall, Slow: func(waited time.Duration, ended bool) {
		if ended {
			u.note("%s: it answers again, after %s", disk, waited.Round(100*time.Millisecond))
			return
		}
		u.note("%s: no answer for %s: waiting for up to %s (--stall-timeout)", disk, waited.Round(100*time.Millisecond), stall)
	}}
}

func newFlashCommand(u *ui) *cobra.Command {
	var opt flashOptions
	cmd := &cobra.Command{
		Use:   "flash [DISK...]",
		Short: "Write an image to a disk and prove that it is there",
		Long: `Write an image to a disk, read it back past the cache, and only then make it
bootable: an interrupted or failed flash leaves a disk that nothing boots. Several
disks are written at once, each verified by itself.

Without a disk, choose among the disks on USB and the cards there are, or take the
one with --serial. With --board and no disk, wait for the board to show its disk
over USB in recovery mode, and take it if there is exactly one. With --board and a
disk, an image for another board is refused.

DISK is a disk, or a regular file that stands for a disk of its size. A disk that
is mounted, in use, read-only, too small or this system's own is refused, and no
flag changes that; on macOS, volumes in /Volumes are unmounted instead. The image is
told by its content: raw, zstd, xz, gzip, bzip2, lz4, zip or Android sparse; - is
standard input. An image that is a file is checked completely before anything is written:
against its manifest or block map (.bmap), and the checksums of its compression. What must
be unpacked for that goes into a scratch file (TMPDIR).

While it is written, nobody else can open or mount the disk, and the computer does
not go to sleep.`,
		Example: `  imgtool flash /dev/sdX
  imgtool flash --yes --image out/rock64.img.zst /dev/disk/by-id/usb-…
  ssh builder cat x.img.zst | imgtool flash --yes --image - /dev/sdX
  imgtool flash --board rock64
  imgtool flash --image x.img.zst --seed seed.toml --values units.csv --unit W123 /dev/sdX
  imgtool flash --receipt units.jsonl /dev/sdX /dev/sdY /dev/sdZ`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error { return runFlash(cmd.Context(), args, opt, u) },
	}
	f := cmd.Flags()
	f.StringVarP(&opt.image, "image", "i", "", "image to write, - for standard input (default: the newest in out/)")
	f.BoolVarP(&opt.yes, "yes", "y", false, "do not ask; guards stay")
	f.StringVar(&opt.delta, "delta", "auto", "read first and write only what differs: yes, no, or auto: if the disk carries an image of the board")
	f.StringVar(&opt.verify, "verify", "full", "what is read back: full, sampled (a piece in 16 of the partitions), or none (boot loaders and tables alone)")
	f.BoolVar(&opt.dryRun, "dry-run", false, "check everything and write nothing")
	f.StringVar(&opt.board, "board", "", "a board's name, or the path of its definition")
	f.StringVar(&opt.serial, "serial", "", "take the disk only if this is its serial; in recovery mode, the board with it")
	f.BoolVar(&opt.fixed, "fixed", false, "take a disk that is built in and used by nobody, with its --serial")
	f.StringVar(&opt.port, "port", "", "USB port of the board in recovery mode, such as 1-2.3")
	f.DurationVar(&opt.timeout, "timeout", 10*time.Minute, "how long to wait for the board")
	f.StringVar(&opt.seed.file, "seed", "", "config.toml for the device's first boot, put in while the image is written")
	opt.seed.addFlags(cmd)
	f.BoolVar(&opt.again, "reprovision", false, "write over a disk that says it was provisioned")
	f.StringVar(&opt.receipt, "receipt", "", "append what became of each disk to this file, a JSON object a line")
	addStallFlag(cmd, &opt.stall)
	return cmd
}

// unit is one disk on its way to being flashed.
type unit struct {
	disk    *disk.Disk
	job     flash.Job
	target  *disk.Target
	touched bool // something was written
	ended   atomic.Bool
	receipt receipt
	err     error
}

// leaves says what is on the disk after a failure.
func (n *unit) leaves() string { return leftWords(n.disk.Path, n.receipt.Left) }

func leftWords(disk string, left flash.State) string {
	switch left {
	case flash.Unchanged:
		return disk + " is unchanged"
	case flash.NoTable:
		return disk + " is not bootable and has no partition table now; flash it again"
	case flash.PartWritten:
		return disk + " is partly written, and what is at its start is not what was to be there; flash it again"
	}
	return "what is on " + disk + " now is not known, because it could not be read back; flash it again"
}

// receipt is what became of a disk. Sizes are in bytes.
type receipt struct {
	Time     string  `json:"time"` // of the end, RFC 3339
	Disk     string  `json:"disk"`
	Model    string  `json:"model,omitempty"`
	Serial   string  `json:"serial,omitempty"`
	Size     int64   `json:"size"`
	Image    string  `json:"image"`
	Unit     string  `json:"unit,omitempty"`
	Board    string  `json:"board,omitempty"`
	BuildID  string  `json:"build_id,omitempty"`
	Written  int64   `json:"written"`
	Skipped  int64   `json:"skipped"`
	Verified int64   `json:"verified"`
	Verify   string  `json:"verify"`       // full, sampled or none
	Unread   int64   `json:"not_verified"` // written and not read back
	Repaired int     `json:"repaired"`
	Seconds  float64 `json:"seconds"`
	Writing  float64 `json:"write_seconds"` // of the partitions
	Reading  float64 `json:"verify_seconds"`
	Rate     int64   `json:"bytes_per_second"`
	Status   int     `json:"status"` // exit status
	Error    string  `json:"error,omitempty"`

	Left flash.State `json:"disk_state,omitempty"` // after an error: what was read back from the disk
}

func runFlash(ctx context.Context, names []string, opt flashOptions, u *ui) (err error) {
	if err := opt.check(); err != nil {
		return err
	}
	if opt.image == "" {
		if opt.image, err = volume.Newest("--image FILE"); err != nil {
			return err
		}
		u.say("image: %s, the newest in out/", opt.image)
	}
	pic, err := volume.Open(opt.image, u.opening())
	if err != nil {
		return err
	}
	defer pic.Close()
	pic.ReportBeside()
	if opt.seed.given() {
		if err := pic.SeekFile(ctx); err != nil {
			return err
		}
		board, err := askedBoard(opt.board)
		if err != nil {
			return err
		}
		if pic, err = seeded(pic, opt.seed, board, u); err != nil {
			return err
		}
	}
	return flashPicture(ctx, names, pic, opt, u)
}

// flashPicture is the one way to disks.
func flashPicture(ctx context.Context, names []string, pic *volume.Source, opt flashOptions, u *ui) (err error) {
	if len(names) > 1 && pic.Unit != "" {
		return fault.New(fault.Usage, "%s is one unit, and there are %d disks: flash one at a time", pic.Unit, len(names))
	}
	pic, err = pic.WithoutHoles(names)
	if err != nil {
		return err
	}
	p, err := newPlan(pic)
	if err != nil {
		return err
	}
	defer func() { p.Close() }()
	eject := false
	if opt.board != "" {
		board, err := loadBoard(opt.board)
		if err != nil {
			return err
		}
		if m := pic.Manifest; m != nil && m.Board != board.Name {
			return &wrongBoardError{fmt.Errorf("%s is an image for %s, and the board is %s", pic.Name, m.Board, board.Name)}
		} else if m == nil {
			if p.board = board.Name; opt.yes || opt.dryRun {
				u.warn(fmt.Sprintf("%s: it is not known whether this image is for %s: it has no manifest", pic.Name, board.Name))
			}
		}
		if len(names) == 0 {
			medium := ""
			if pic.Manifest != nil {
				medium = pic.Manifest.Medium
			}
			dev, err := newRecovery(board, medium, opt.serial, opt.port, opt.timeout).wait(ctx, u)
			if err != nil {
				return err
			}
			u.say("found %s", describeDisk(dev))
			names, eject = []string{dev.Path}, true
		}
	}
	need := p.need()
	need.Fixed, need.Serial = opt.fixed, opt.serial
	if len(names) == 0 {
		name, err := choose(ctx, u, need, opt.yes || opt.image == "-")
		if err != nil {
			return err
		}
		names = []string{name}
	}
	log, err := receipts(opt.receipt, opt.dryRun)
	if err != nil {
		return err
	}
	defer log.Close()
	begun := false
	defer func() {
		if err != nil && !begun {
			err = log.refused(names, pic, err, ctx, u)
		}
	}()
	if !opt.again {
		log.warnOfTwins(pic.Unit, "", u)
	}
	units, err := findUnits(names, pic, need)
	if err != nil {
		return err
	}
	if pic.File != nil && pic.Image == nil {
		now, plan, err := unpacked(ctx, pic, units, need, u)
		if err != nil {
			return err
		}
		plan.board = p.board
		p.Close()
		pic, p = now, plan
	}
	if err := checkFill(pic, units, u); err != nil {
		return err
	}
	if fitted, err := compose.Fit(pic, units[0].disk.Size, nil); err != nil {
		return fmt.Errorf("%s: %w", pic.Name, err)
	} else if fitted != pic {
		p.Close()
		if p, err = newPlan(fitted); err != nil {
			return err
		}
	}
	for _, n := range units {
		if n.job, err = p.job(n.disk.Size); err != nil {
			return fmt.Errorf("%s: %w", pic.Name, corrupt("it cannot be put on %s: %w", n.disk.Path, err))
		}
		if !opt.again {
			if err := checkState(n.disk, pic.Manifest, u); err != nil {
				return err
			}
		}
	}
	if err := pic.Check(ctx); err != nil {
		return err
	}
	p.tell(u)
	if opt.dryRun {
		if pic.File == nil {
			if err := p.readThrough(ctx, units, u); err != nil {
				return err
			}
			p.tell(u)
		}
		for _, n := range units {
			u.say("%s would be written to %s", describePicture(p), describeDisk(n.disk))
		}
		return nil
	}
	if !opt.yes {
		if err := confirm(ctx, u, units, p, opt.image == "-"); err != nil {
			return err
		}
	}
	for _, n := range units {
		n.job.Verify, n.receipt.Verify = verifyModes[opt.verify], opt.verify
		n.job.Timeout = u.patience(n.disk.Path, opt.stall)
		n.job.Watch = new(flash.Watch)
		n.job.Zeros = pic.Manifest == nil && opt.delta != "no"
		n.job.Delta = opt.delta == "yes" || opt.delta == "auto" && alike(n.disk, p)
	}
	for _, n := range units {
		if n.target, err = disk.Open(n.disk); errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0 {
			return fault.WithHint(err, "writing to a disk takes root's rights: run it with sudo")
		}
		if err != nil {
			return err
		}
		defer n.target.Close()
	}
	if awake, err := flash.Awake("writing " + strings.Join(paths(units), ", ")); err == nil {
		defer awake()
	} else if !errors.Is(err, errors.ErrUnsupported) {
		u.warn(fmt.Sprintf("keep this computer from going to sleep: %v", err))
	}
	begun = true
	defer u.writeDisks()()
	u.beforeEnd(func() { log.abandon(units, u) })
	flashAll(ctx, units, p, u)
	if pic.File == nil {
		pic.ReportTrailing()
	}
	p.tell(u)
	// Nobody may mount what is about to be ejected: it is let go of after that.
	var ejected error
	if eject && units[0].err == nil {
		ejected = disk.Eject("/", units[0].disk)
	}
	for _, n := range units {
		n.release(u, eject && ejected == nil)
	}
	if err := conclude(ctx, units, log, u); err != nil || !eject {
		return err
	}
	if ejected != nil {
		u.warn(fmt.Sprintf("the image is written; unplug %s by hand: %v", units[0].disk.Path, ejected))
		return nil
	}
	u.say("%s is ejected: unplug the board, and power it off and on", units[0].disk.Path)
	return nil
}

// choose asks which of the disks on USB and the cards is meant. With a serial
// there is nothing to ask.
func choose(ctx context.Context, u *ui, need disk.Need, quiet bool) (string, error) {
	disks, err := disk.List("/")
	if err != nil {
		return "", err
	}
	var fit []disk.Disk
	var list []string
	for _, d := range disks {
		if d.Bus == "loop" || d.Bus == "nbd" || d.Check(need) != nil {
			continue
		}
		fit = append(fit, d)
		list = append(list, describeDisk(&d))
	}
	switch {
	case len(fit) == 0 && need.Serial != "":
		return "", &noDiskError{"serial " + need.Serial, fs.ErrNotExist}
	case len(fit) == 0:
		return "", fault.New(fault.Usage, "there is no disk to choose, on USB or a card, that is large enough and that nobody uses: imgtool disks says why; name the disk")
	case len(fit) == 1 && need.Serial != "":
		return fit[0].Path, nil
	case quiet:
		return "", fault.New(fault.Usage, "say which disk: nobody is asked with --yes, or with the image on standard input. There is %s", strings.Join(list, "; and "))
	}
	n, err := u.choose(ctx, "Disks that can be written:", list)
	if err != nil {
		return "", err
	}
	return fit[n].Path, nil
}

// wrongBoardError is an image for another board.
type wrongBoardError struct{ error }

// findUnits finds the disks and looks whether each may be written.
func findUnits(names []string, pic *volume.Source, need disk.Need) ([]*unit, error) {
	var units []*unit
	for _, name := range names {
		dev, err := findDisk(name)
		if err != nil {
			return nil, err
		}
		for _, other := range units {
			if other.disk.Same(dev) {
				return nil, fault.New(fault.Usage, "%s and %s are one disk", other.disk.Path, dev.Path)
			}
		}
		if err := refuseSame(dev, pic); err != nil {
			return nil, err
		}
		if err := dev.Check(need); err != nil {
			return nil, err
		}
		units = append(units, &unit{disk: dev})
	}
	return units, nil
}

func confirm(ctx context.Context, u *ui, units []*unit, p *plan, piped bool) error {
	if piped {
		return fault.New(fault.Usage, "standard input is the image, so nobody can answer: pass --yes to write without a question")
	}
	var disks []string
	for _, n := range units {
		disks = append(disks, sanitize.Line(describeDisk(n.disk)))
	}
	what := describePicture(p)
	if p.pic.Unit != "" {
		what += " for unit " + p.pic.Unit
	}
	ok, err := u.ask(ctx, fmt.Sprintf("Write %s\nto %s.\nEverything there will be lost.", sanitize.Line(what), strings.Join(disks, "\nand ")))
	if err == nil && !ok {
		err = &disk.RefusedError{Disk: units[0].disk.Path, Reason: "not written: the answer was not yes"}
	}
	return err
}

// flashAll writes all disks at once from one reading of the image.
func flashAll(ctx context.Context, units []*unit, p *plan, u *ui) {
	bodies, leave := share(p.body(), len(units))
	// One disk shows its phases; of several the sum is shown.
	phases := u.phases
	u.expect(ahead{flash.Wiping, 0}, ahead{flash.Writing, p.bodySize()}, ahead{flash.Reading, p.bodySize() / readShare[units[0].job.Verify]})
	defer u.expect()
	if len(units) > 1 {
		passes := int64(2)
		if units[0].job.Verify != flash.Full {
			passes = 1
		}
		all := u.phases(fmt.Sprintf("flashing %d disks", len(units)), passes*p.bodySize()*int64(len(units)))
		phases = func(phase string, _ int64) image.Progress {
			if phase == flash.Writing || phase == flash.Reading && passes == 2 {
				return all
			}
			return nil
		}
	}
	var running sync.WaitGroup
	for i, n := range units {
		n.job.Body = p.onto(n.disk.Size, bodies[i])
		n.receipt.describe(n.disk, p.pic)
		running.Go(func() {
			defer leave(i)
			defer n.ended.Store(true)
			begin := time.Now()
			var res *flash.Result
			res, n.err = flash.Run(ctx, n.target, n.job, func(phase string, total int64) image.Progress {
				if phase == flash.Probing || phase == flash.Wiping {
					n.touched = true
					u.leaves(leftWords(strings.Join(paths(units), ", "), flash.Unknown))
				}
				return phases(phase, total)
			})
			n.receipt.describe(n.disk, p.pic)
			n.receipt.Seconds = time.Since(begin).Seconds()
			if n.err != nil {
				n.receipt.fail(ctx, n.err)
				return
			}
			n.receipt.Unread, n.receipt.Writing, n.receipt.Reading = res.Unread, res.Writing.Seconds(), res.Reading.Seconds()
			n.receipt.Written, n.receipt.Skipped, n.receipt.Verified, n.receipt.Repaired = res.Written, res.Skipped, res.Verified, len(res.Repaired)
			n.receipt.Rate = int64(float64(res.Written+res.Skipped) / n.receipt.Seconds)
			for _, r := range res.Repaired {
				u.warn(fmt.Sprintf("%s: at byte %d, %d bytes: %s; this disk or its cable is unreliable", n.disk.Path, r.Off, r.Len, r.How))
			}
		})
	}
	running.Wait()
	var left []string
	for _, n := range units {
		if n.err != nil {
			left = append(left, n.leaves())
			u.leftOn(n.disk.Path, n.receipt.Left)
		}
	}
	u.leaves(strings.Join(left, "; "))
}

// readShare is which part of the partitions is read back: one in so many.
var readShare = map[flash.Verify]int64{flash.Full: 1, flash.Sampled: 16, flash.None: math.MaxInt64}

// describe fills in what is known of a disk and an image.
func (r *receipt) describe(d *disk.Disk, pic *volume.Source) {
	r.Disk, r.Model, r.Serial, r.Size = d.Path, d.Model, d.Serial, d.Size
	r.Image, r.Unit, r.Time = pic.Name, pic.Unit, time.Now().UTC().Format(time.RFC3339)
	if m := pic.Manifest; m != nil {
		r.Board, r.BuildID = m.Board, m.BuildID
	}
}

// fail fills in what went wrong.
func (r *receipt) fail(ctx context.Context, err error) {
	r.Status, r.Error = exitStatus(err), err.Error()
	if ctx.Err() != nil {
		r.Status = exitInterrupted
	}
	r.Left, _ = flash.StateAfter(err)
}

// release lets go of a disk, which may be gone.
func (n *unit) release(u *ui, gone bool) {
	if n.err != nil || gone {
		n.target.Close()
		return
	}
	if err := n.target.Reread(); err != nil {
		u.warn(fmt.Sprintf("the image is written, but %v", err))
	}
	n.err = n.target.Named()
	if err := n.target.Close(); err != nil {
		n.err = &image.WriteError{Err: fmt.Errorf("closing %s: %w", n.disk.Path, err)}
	}
	if n.err != nil {
		n.receipt.Status, n.receipt.Error = exitStatus(n.err), n.err.Error()
		n.receipt.Left = flash.Unknown
	}
}

func paths(units []*unit) (paths []string) {
	for _, n := range units {
		paths = append(paths, n.disk.Path)
	}
	return paths
}

// share gives the chunks of one sequence to n that are consumed at the same time,
// the slowest setting the pace. Who stops early, or never starts, must leave.
func share(chunks iter.Seq2[image.Chunk, error], n int) (shared []iter.Seq2[image.Chunk, error], leave func(int)) {
	if n == 1 {
		return []iter.Seq2[image.Chunk, error]{chunks}, func(int) {}
	}
	type item struct {
		c   image.Chunk
		err error
	}
	pipes, gone := make([]chan item, n), make([]chan struct{}, n)
	left := make([]sync.Once, n)
	for i := range n {
		pipes[i], gone[i] = make(chan item, 1), make(chan struct{})
	}
	leave = func(i int) { left[i].Do(func() { close(gone[i]) }) }
	var begin sync.Once
	pump := func() {
		for c, err := range chunks {
			for i := range n {
				select {
				case pipes[i] <- item{c, err}:
				case <-gone[i]:
				}
			}
		}
		for i := range n {
			close(pipes[i])
		}
	}
	for i := range n {
		shared = append(shared, func(yield func(image.Chunk, error) bool) {
			defer leave(i)
			begin.Do(func() { go pump() })
			for it := range pipes[i] {
				if !yield(it.c, it.err) || it.err != nil {
					return
				}
			}
		})
	}
	return shared, leave
}

// conclude says what became of each disk. The first that failed gives the exit
// status.
func conclude(ctx context.Context, units []*unit, log *receiptLog, u *ui) error {
	u.endPhase()
	var failed, lost error
	for _, n := range units {
		r := n.receipt
		if err := log.add(r.Disk, r); err != nil && lost == nil {
			lost = err
		}
		switch {
		case n.err != nil:
			err := n.err
			if n.touched && ctx.Err() == nil && !errors.As(err, new(*disk.MovedError)) {
				err = fault.WithHint(err, "%s", n.leaves())
			}
			if failed == nil {
				failed = err
			} else {
				u.warn(err.Error() + "; " + n.leaves())
			}
		case u.json:
			if err := u.print(r); err != nil && failed == nil {
				failed = err
			}
		default:
			u.say("%s", r.summary())
		}
	}
	switch {
	case failed == nil:
		u.leaves("")
		return lost
	case lost != nil:
		u.warn(lost.Error())
	}
	return failed
}

// summary is what became of a disk that was written, in a line.
func (r receipt) summary() string {
	kept := ""
	if r.Skipped > 0 {
		kept = fmt.Sprintf(", %s were there already", human(r.Skipped))
	}
	verified := human(r.Verified) + " verified"
	if r.Unread > 0 {
		verified += fmt.Sprintf(", %s not read back (--verify=%s)", human(r.Unread), r.Verify)
	}
	return fmt.Sprintf("%s: %s written%s, %s, in %s, %s/s", r.Disk, human(r.Written), kept, verified,
		time.Duration(r.Seconds*float64(time.Second)).Round(100*time.Millisecond), human(r.Rate))
}

// alike says whether a disk carries, or was about to carry, an image of the same
// board: then most of it may be there already.
func alike(dev *disk.Disk, p *plan) bool {
	t, err := disk.OpenRead(dev)
	if err != nil {
		return false
	}
	defer t.Close()
	record := make([]byte, image.Block)
	if n, _ := t.ReadAt(record, recordOff); n == len(record) && p.record != nil && sameBoard(record, p.record) {
		return true
	}
	there, err := partition.Read(t, tableSector(dev))
	if err != nil || (there.GPT == nil) != (p.table.GPT == nil) || len(there.Parts) < len(p.table.Parts) {
		return false
	}
	for i, part := range p.table.Parts {
		if other := there.Parts[i]; other.Name != part.Name || other.Off != part.Off || other.Len != part.Len || other.Type != part.Type {
			return false
		}
	}
	return true
}

// tableSector is the size of the sectors that the partition table of a disk counts in,
// 0 if a regular file may have any.
func tableSector(dev *disk.Disk) int64 {
	if dev.File {
		return 0
	}
	return int64(dev.SectorSize)
}

// findDisk finds the disk a person names.
func findDisk(name string) (*disk.Disk, error) {
	d, err := disk.Find("/", name)
	if _, there := os.Stat(name); errors.Is(err, fs.ErrNotExist) && there != nil {
		return nil, fault.WithHint(&noDiskError{name, err}, "imgtool disks lists the disks there are")
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
func refuseSame(dev *disk.Disk, pic *volume.Source) error {
	if pic.Info != nil && dev.Contains(pic.Info) {
		return &disk.RefusedError{Disk: dev.Path, Reason: "the image lies on it: give another disk, or a copy of the image elsewhere"}
	}
	return nil
}

func describePicture(p *plan) string {
	if m := p.pic.Manifest; m != nil {
		return fmt.Sprintf("%s (%s build %s, %s)", p.pic.Name, m.Board, m.BuildID, human(p.size))
	}
	if p.board != "" {
		return fmt.Sprintf("%s (%s, and not known to be for %s: it has no manifest)", p.pic.Name, human(p.size), p.board)
	}
	return fmt.Sprintf("%s (%s)", p.pic.Name, human(p.size))
}

// describeDisk says in a line what a disk is, and what is on it.
func describeDisk(d *disk.Disk) string {
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
	if len(d.Mounted) > 0 {
		about = append(about, "mounted at "+strings.Join(d.Mounted, ", "))
	}
	return fmt.Sprintf("%s (%s), which has %s", d.Path, strings.Join(about, ", "), whatIsOn(d))
}

// whatIsOn says what partitions are on a disk, by its own word: the kernel may
// not have looked.
func whatIsOn(d *disk.Disk) string {
	t, err := disk.OpenRead(d)
	if err != nil {
		return "contents that cannot be read"
	}
	defer t.Close()
	first := make([]byte, 2*image.Block)
	if n, _ := t.ReadAt(first, 0); n < len(first) {
		return "contents that cannot be read"
	}
	if table, err := partition.Read(t, tableSector(d)); err == nil && len(table.Parts) > 0 {
		var parts []string
		for i, p := range table.Parts {
			if i == 8 {
				parts = append(parts, fmt.Sprintf("and %d more", len(table.Parts)-i))
				break
			}
			name := strconv.Quote(p.Name)
			if p.Name == "" {
				name = fmt.Sprintf("%d (type %s)", p.Number, layouts.TypeName(p.Type))
			}
			parts = append(parts, fmt.Sprintf("%s of %s", name, human(p.Len)))
		}
		return "the partitions " + strings.Join(parts, ", ")
	}
	switch {
	case bytes.HasPrefix(first[recordOff:], []byte(recordMagic)):
		return "an image that was not written to its end"
	case first[510] == 0x55 && first[511] == 0xAA:
		return "a partition table or file system of another kind"
	case bytes.Count(first, []byte{0}) == len(first):
		return "no partition table"
	}
	return "something other than partitions"
}
