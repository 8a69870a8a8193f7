// Package deploy writes images to disks.
//
// A [Plan] is an image prepared for disks: the partition table is fitted to each disk, and
// the rest is read while it is written. A [Deployment] writes one image to one or several
// disks. It checks the disks, the image and the log of receipts before it writes the first
// byte, reads the image once for all disks, and keeps a [Receipt] of each. [Recovery] waits
// for the disk of a board in recovery mode. [Verify] compares a disk with an image.
//
// Package flash does the writing and package flash/disk refuses disks that are in use.
package deploy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"imgtool/flash"
	"imgtool/flash/disk"
	"imgtool/flash/receipt"
	"imgtool/image"
	"imgtool/image/compose"
	"imgtool/image/compress"
	"imgtool/image/fault"
	"imgtool/image/progress"
	"imgtool/image/sanitize"
	"imgtool/image/statefile"
	"imgtool/image/volume"
)

// A Monitor is informed about the writing of disks, from several goroutines.
type Monitor interface {
	progress.Reporter

	// Notef is Infof that does not end the phase.
	Notef(format string, args ...any)

	// Expect announces the phases of an operation, so that its overall progress is shown and the
	// time that is left can be estimated. It ends without phases.
	Expect(phases ...Phase)

	// Disk begins the work on one of several disks that are written at once. The phases are
	// shown with the name of the disk until end is called with the result.
	Disk(path string) (phases image.Phases, end func(error))

	// SetLeft is called with what a disk would contain if the program ended now. Left is
	// empty if that is what the user wants.
	SetLeft(disk string, left flash.State)
}

// Phase is a phase of writing and the number of bytes it processes.
type Phase struct {
	Name  string
	Total int64
}

// Options are how disks are written.
type Options struct {
	Monitor Monitor
	Scratch *compress.Budget                                 // limits scratch files
	Log     *receipt.Log                                     // nil: no receipts are kept
	Status  func(error) int                                  // exit status for receipts
	Confirm func(ctx context.Context, question string) error // nil: nothing is asked
	Begin   func() (end func())                              // called before the first byte is written, and end when no more is
	Done    func(Receipt)                                    // called for every disk when nothing more happens to it

	Verify      string        // what is read back, see [VerifyModes]
	Delta       string        // "yes", "no" or "auto": write only what differs
	Stall       time.Duration // how long a disk may take over one operation
	Board       string        // the board for which an image without a manifest is used
	Fixed       bool          // write to an internal disk that is not in use, with its Serial
	Serial      string        // serial number that the disk must have
	Reprovision bool          // write over a disk that was provisioned
	DryRun      bool          // check everything, write nothing
	Eject       bool          // eject the disk that was written
	SignedBy    []string      // who signed the image, for receipts
	Likely      []string      // the disks that Run will get, if they are known before
}

// VerifyModes are how much can be read back, by name.
var VerifyModes = map[string]flash.Verify{"full": flash.Full, "sampled": flash.Sampled, "none": flash.None}

// ExitStatus returns the exit status for an error.
func (opt *Options) ExitStatus(ctx context.Context, err error) int {
	if ctx.Err() != nil {
		err = fault.As(fault.Interrupted, err)
	}
	return opt.Status(err)
}

// timeout returns the timeout of a disk, and reports when it is slow.
func (opt *Options) timeout(path string) flash.Timeout {
	return flash.Timeout{Stall: opt.Stall, Slow: func(waited time.Duration, ended bool) {
		waited = waited.Round(100 * time.Millisecond)
		if ended {
			opt.Monitor.Notef("%s: it answers again, after %s", path, waited)
			return
		}
		opt.Monitor.Notef("%s: no answer for %s: waiting for up to %s (--stall-timeout)", path, waited, opt.Stall)
	}}
}

// Deployment is an image that is written to disks.
type Deployment struct {
	opt     Options
	src     *volume.Source
	plan    *Plan
	targets []*Target
	begun   bool // disks may have been written to

	endLikely func() // of useLikely
}

// New reads an image up to its first partition. The source must stay open until Close.
func New(src *volume.Source, opt Options) (*Deployment, error) {
	d := &Deployment{src: src, opt: opt}
	d.endLikely = d.useLikely()
	err := d.setPlan(src)
	if err != nil {
		d.endLikely()
	}
	return d, err
}

func (d *Deployment) setPlan(src *volume.Source) error {
	p, err := NewPlan(src)
	if err != nil {
		return err
	}
	p.board = d.opt.Board
	d.closePlan()
	d.plan = p
	return nil
}

// Close ends reading the image.
func (d *Deployment) Close() {
	d.endLikely()
	d.closePlan()
}

func (d *Deployment) closePlan() {
	if d.plan != nil {
		d.plan.Close()
	}
}

// Need returns what is required of the disks.
func (d *Deployment) Need() disk.Need {
	n := d.plan.Need()
	n.Fixed, n.Serial = d.opt.Fixed, d.opt.Serial
	n.Unmount = d.opt.Confirm != nil && !d.opt.DryRun // the question names the mounts
	return n
}

// Run writes the image to the disks with these names, and adds a receipt of each to a log. A
// failure does not keep it from writing the other disks; the error is the first.
func (d *Deployment) Run(ctx context.Context, names []string, log *receipt.Log) (err error) {
	d.opt.Log = log
	defer func() {
		if err != nil && !d.begun {
			d.refused(ctx, names, err)
		}
	}()
	if err := d.prepare(names); err != nil {
		return err
	}
	d.plan.Report(d.opt.Monitor)
	if d.opt.Confirm != nil && !d.opt.DryRun {
		if err := d.opt.Confirm(ctx, d.question()); err != nil {
			return err
		}
	}
	defer d.opt.Monitor.Expect()
	d.expect()
	if err := d.check(ctx, names); err != nil {
		return err
	}
	if d.opt.DryRun {
		return d.dryRun(ctx)
	}
	d.endLikely()
	for _, t := range d.targets {
		t.Configure(d.plan, &d.opt)
		t.job.Zeros = d.src.Manifest == nil && d.opt.Delta != "no"
	}
	closeAll, err := Open(ctx, d.targets, d.opt.Monitor)
	if err != nil {
		return err
	}
	defer closeAll()
	if err := d.planFetch(ctx); err != nil {
		return err
	}
	defer d.src.UseDisk(nil)
	d.begun = true
	defer d.opt.Begin()()
	Write(ctx, d.plan, d.targets, &d.opt)
	if d.src.File == nil {
		d.src.ReportTrailing()
	}
	d.plan.Report(d.opt.Monitor)
	return d.finish(ctx)
}

// prepare finds the disks and checks all that does not need the whole image.
func (d *Deployment) prepare(names []string) error {
	if len(names) > 1 && d.src.Unit != "" {
		return fault.New(fault.Usage, "%s is one unit, and there are %d disks: flash one at a time", d.src.Unit, len(names))
	}
	if !d.opt.Reprovision {
		d.opt.Log.WarnReused(d.src.Unit, "", d.opt.Monitor)
	}
	if err := d.find(names); err != nil {
		return err
	}
	for _, t := range d.targets {
		if !d.opt.Reprovision {
			if err := d.checkState(t.Disk); err != nil {
				return err
			}
		}
	}
	return nil
}

// check checks the image, and fits it to the disks.
func (d *Deployment) check(ctx context.Context, names []string) error {
	if err := d.open(ctx, names); err != nil {
		return err
	}
	if err := d.checkFill(); err != nil {
		return err
	}
	if fitted, err := compose.Fit(d.src, d.targets[0].Disk.Size, nil); err != nil {
		return fmt.Errorf("%s: %w", d.src.Name, err)
	} else if fitted != d.src {
		if err := d.setPlan(fitted); err != nil {
			return err
		}
	}
	for _, t := range d.targets {
		if err := t.setPlan(d.plan); err != nil {
			return fmt.Errorf("%s: %w", d.src.Name, err)
		}
	}
	d.expect()
	if err := d.src.Check(ctx); err != nil {
		return err
	}
	d.plan.Report(d.opt.Monitor)
	return nil
}

// expect announces the phases of the flash.
func (d *Deployment) expect() {
	// The length of a stream is not known: its partitions are taken to fill it.
	size, first := cmp.Or(d.plan.BodySize(), d.plan.table.End()-d.plan.start), "checking"
	if d.src.Image == nil && d.src.File != nil {
		first = "unpacking"
	}
	d.opt.Monitor.Expect(append([]Phase{{first, 0}}, writePhases(size, VerifyModes[d.opt.Verify], d.opt.DryRun)...)...)
}

func (d *Deployment) find(names []string) error {
	for _, name := range names {
		found, err := Find(name)
		if err != nil {
			return err
		}
		for _, other := range d.targets {
			if found.Same(other.Disk) {
				return fault.New(fault.Usage, "%s and %s are one disk: name it once", other.Disk.Path, found.Path)
			}
		}
		if err := CheckSource(found, d.src); err != nil {
			return err
		}
		if err := Check(found, d.Need()); err != nil {
			return err
		}
		d.targets = append(d.targets, &Target{Disk: found})
	}
	return nil
}

// open gives the image random access if possible, and leaves out holes.
func (d *Deployment) open(ctx context.Context, names []string) error {
	sequential, err := d.src.Sequential()
	if err == nil && sequential {
		err = d.setPlan(d.src)
	}
	if err != nil {
		return err
	}
	stream := d.src.Image == nil && (d.src.File != nil || d.src.IsURL() && d.src.FillPartition() != nil)
	if stream {
		if err := d.seek(ctx); err != nil {
			return err
		}
	}
	src, err := d.src.WithoutHoles(names)
	if err != nil || src == d.src && !stream {
		return err
	}
	if err := d.setPlan(src); err != nil {
		return err
	}
	d.src = src
	for _, t := range d.targets {
		if err := t.Disk.Check(d.Need()); err != nil {
			return err
		}
	}
	return nil
}

// seek unpacks the stream of a file into a scratch file, from where the plan has read it to. If
// there is not enough room for that, it is read through for its errors, and stays a stream.
func (d *Deployment) seek(ctx context.Context) error {
	if err := d.src.Check(ctx); err != nil {
		return err
	}
	through := func(c volume.Chunks) volume.Chunks {
		if d.src.FillPartition() != nil { // it is made to fit
			return c
		}
		for _, t := range d.targets {
			c = upTo(c, t.Disk)
		}
		return c
	}
	err := d.src.Unpack(ctx, func(volume.Chunks) volume.Chunks { return through(d.plan.all()) })
	tooLarge := errors.As(err, new(*compress.TooLargeError)) && (d.opt.Scratch == nil || d.opt.Scratch.Max == 0)
	if !tooLarge && !errors.As(err, new(*compress.ScratchError)) {
		return err
	}
	d.opt.Monitor.Warnf("%s is read twice, once to check it and once to write it, without a scratch file: %v", d.src.Name, err)
	return d.src.ReadThrough(ctx, through)
}

// checkFill refuses disks of different sizes if a partition fills each, or warns that it cannot.
func (d *Deployment) checkFill() error {
	part := d.src.FillPartition()
	if part == nil {
		return nil
	}
	first := d.targets[0].Disk
	for _, t := range d.targets {
		if d.src.Image == nil && t.Disk.Size > d.src.Manifest.Size {
			d.opt.Monitor.Warnf("%s: %s stays at %s: it would fill the disk if the image came from a file with random access, an .img or .img.zst", t.Disk.Path, part.Name, image.FormatSize(part.Len))
		}
		if d.src.Image != nil && t.Disk.Size/512 != first.Size/512 {
			return fault.New(fault.Usage, "%s and %s differ in size, and %s fills each: flash disks of one size together", first.Path, t.Disk.Path, part.Name)
		}
	}
	return nil
}

// checkState refuses a disk that was provisioned, according to a state file on it.
func (d *Deployment) checkState(to *disk.Disk) error {
	if d.src.Manifest == nil {
		return nil
	}
	for _, part := range d.src.Manifest.Partitions {
		if part.State == "" {
			continue
		}
		text, _ := ReadFile(to, part, part.State)
		switch last, ok := statefile.Last(text); {
		case !ok:
		case last.Final():
			return &disk.RefusedError{Disk: to.Path, Reason: fmt.Sprintf("%s on %s says that it was provisioned (step %d of %d): pass --reprovision to lose what is on it", part.State, part.Name, last.Step, last.Steps)}
		default:
			d.opt.Monitor.Infof("%s: %s on %s stops at step %d of %d: it is provisioned again", to.Path, part.State, part.Name, last.Step, last.Steps)
		}
	}
	return nil
}

func (d *Deployment) dryRun(ctx context.Context) error {
	if d.src.IsURL() && d.src.Image != nil {
		d.opt.Monitor.Infof("%s: its content was not fetched: it is checked when it is written", d.src.Name)
	} else if d.src.File == nil {
		var disks []*disk.Disk
		for _, t := range d.targets {
			disks = append(disks, t.Disk)
		}
		if err := d.plan.ReadThrough(ctx, disks, d.opt.Monitor); err != nil {
			return err
		}
		d.plan.Report(d.opt.Monitor)
	}
	for _, t := range d.targets {
		d.opt.Monitor.Infof("%s would be written to %s", d.plan.Describe(), Describe(t.Disk))
		d.opt.Done(Planned(t.Disk, d.plan, &d.opt))
	}
	return nil
}

func (d *Deployment) question() string {
	var disks []string
	for _, t := range d.targets {
		disks = append(disks, sanitize.Line(Describe(t.Disk)))
	}
	what := d.plan.Describe()
	if d.src.Unit != "" {
		what += " for unit " + d.src.Unit
	}
	lost := "Everything there will be lost."
	for _, t := range d.targets {
		if len(t.Disk.MountPoints()) > 0 {
			lost = "Mounted file systems will be unmounted, and everything there will be lost."
		}
	}
	return fmt.Sprintf("Write %s\nto %s?\n"+lost, sanitize.Line(what), strings.Join(disks, "\nand "))
}

// finish closes the disks and leaves a receipt of each.
func (d *Deployment) finish(ctx context.Context) error {
	// A disk is closed after it is ejected, so that nothing can mount it in between.
	var ejectErr error
	eject := d.opt.Eject && d.targets[0].Err == nil
	if eject {
		ejectErr = disk.Eject("/", d.targets[0].Disk)
	}
	for _, t := range d.targets {
		t.Release(&d.opt, eject && ejectErr == nil)
	}
	err := d.conclude(ctx)
	switch path := d.targets[0].Disk.Path; {
	case err != nil || !eject:
	case ejectErr != nil:
		d.opt.Monitor.Warnf("the image is written; unplug %s by hand: %v", path, ejectErr)
	default:
		d.opt.Monitor.Infof("%s is ejected: unplug the board, and power it off and on", path)
	}
	return err
}

// conclude reports the result of each disk, and returns the first error.
func (d *Deployment) conclude(ctx context.Context) error {
	d.opt.Monitor.EndPhase()
	var failed, logErr error
	for _, t := range d.targets {
		logErr = cmp.Or(logErr, d.opt.Log.Add(t.Disk.Path, t.Receipt))
		d.opt.Done(t.Receipt)
		switch {
		case t.Err == nil:
		case failed == nil:
			failed = t.ErrWithHint(ctx)
		default:
			d.opt.Monitor.Warnf("%v; %s", t.Err, LeftText(t.Disk.Path, t.Receipt.Left))
		}
	}
	if failed != nil && logErr != nil {
		d.opt.Monitor.Warnf("%v", logErr)
	}
	return cmp.Or(failed, logErr)
}

// ErrWithHint returns the error of a disk with what is on the disk now.
func (t *Target) ErrWithHint(ctx context.Context, more ...string) error {
	if !t.Touched || ctx.Err() != nil || errors.As(t.Err, new(*disk.MovedError)) {
		return t.Err
	}
	return fault.WithHint(t.Err, "%s", strings.Join(append([]string{LeftText(t.Disk.Path, t.Receipt.Left)}, more...), "; "))
}
