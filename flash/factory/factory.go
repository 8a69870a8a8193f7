// Package factory provisions units: devices of a board that have several media and per-unit
// data such as serial numbers and keys.
//
// [Factory.Run] writes the media of a unit from images of one build. [RunLive] provisions a
// running system from its own root file system: it makes the other media from the root, and
// then changes the root itself, so that an interruption at any point can be continued.
package factory

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"imgtool/boards"
	"imgtool/flash/deploy"
	"imgtool/flash/disk"
	"imgtool/flash/receipt"
	"imgtool/image/artifact"
	"imgtool/image/boardinfo"
	"imgtool/image/compose"
	"imgtool/image/fault"
	"imgtool/image/sanitize"
	"imgtool/image/volume"
)

// Options are how a unit is provisioned.
type Options struct {
	deploy.Options

	Source   volume.Options // how images are opened
	Board    *boards.Board
	Disks    map[string]string // names of disks by medium; media without one are left out
	Images   map[string]string // image files by medium, for each of Disks
	Unit     *Unit             // nil: the unit has no per-unit data
	Enabled  map[string]bool   // options of the board's definition
	Serials  []string          // of internal disks that may be written to, if Fixed
	DoneUnit func(*Receipt)    // called with the receipt of the unit

	// Opened is called with each image before it is used, and returns who signed it; it may be nil.
	Opened func(*volume.Source) (signers []string, err error)
}

// Factory provisions one unit.
type Factory struct {
	opt     Options
	begin   time.Time
	media   []*medium // in the order they are written
	receipt Receipt
	begun   bool // disks may have been written to
}

type medium struct {
	name string
	kind string         // of the medium, see boardinfo.Kinds
	src  *volume.Source // as it was opened

	signers []string // who signed the image
	disk    *disk.Disk
	*deploy.Target
	plan   *deploy.Plan // of the image with per-unit data, fitted to the disk
	files  []string     // names of the per-unit files
	status Status       // of the disk before it is written
}

// New returns the factory of a unit.
func New(opt Options) *Factory {
	opt.Verify, opt.Delta = "full", "auto"
	return &Factory{opt: opt, begin: time.Now(), receipt: Receipt{Board: opt.Board.Name, DryRun: opt.DryRun, variables: opt.Board.Unit.Variables}}
}

// Run checks the images, the disks and the per-unit data, and then writes the media one after
// the other, the boot medium last. It leaves one receipt.
func (f *Factory) Run(ctx context.Context) (err error) {
	if f.opt.Unit != nil {
		f.receipt.Values = f.opt.Unit.Values
	}
	defer func() {
		for _, m := range f.media {
			m.src.Close()
			m.close()
		}
		if err != nil && !f.begun && fault.Kind(err) != fault.Usage {
			for _, m := range f.order() {
				f.receipt.Media = append(f.receipt.Media, MediumReceipt{Medium: m.Name, Receipt: deploy.Unwritten(ctx, f.opt.Disks[m.Name], err, &f.opt.Options)})
			}
			err = f.conclude(ctx, err)
		}
	}()
	if err := f.prepare(ctx); err != nil {
		return err
	}
	if f.opt.DryRun {
		f.dryRun()
		return f.conclude(ctx, nil)
	}
	if f.opt.Unit != nil && !f.opt.Reprovision {
		for _, m := range f.media {
			f.opt.Log.WarnReused(f.opt.Unit.Name(), m.name, f.opt.Monitor)
		}
	}
	if f.opt.Confirm != nil {
		if err := f.opt.Confirm(ctx, f.question()); err != nil {
			return err
		}
	}
	return f.conclude(ctx, f.write(ctx, f.media))
}

// order returns the media with a disk, in the order they are written. The first medium of the
// board boots it and needs the others, so it comes last. Media without a disk are noted in
// the receipt.
func (f *Factory) order() (media []boards.Medium) {
	f.receipt.Missing = nil
	for _, m := range slices.Backward(f.opt.Board.Media) {
		if f.opt.Disks[m.Name] != "" {
			media = append(media, m)
		} else {
			f.receipt.Missing = append(f.receipt.Missing, m.Name)
		}
	}
	return media
}

func (f *Factory) prepare(ctx context.Context) error {
	for _, m := range f.order() {
		if err := f.open(ctx, m); err != nil {
			return err
		}
	}
	for _, m := range f.media {
		if err := f.find(m); err != nil {
			return err
		}
	}
	for _, m := range f.media {
		files, names := f.opt.Unit.Files(m.name, f.opt.Enabled)
		m.files = names
		if err := m.compose(files, f.opt.Unit.Name()); err != nil {
			return fmt.Errorf("%s: %w", m.src.Name, err)
		}
		m.status = ReadStatus(m.disk, m.src.Manifest, &f.opt.Board.Unit)
	}
	if err := f.checkStatus(); err != nil {
		return err
	}
	if missing := f.receipt.Missing; len(missing) > 0 {
		f.opt.Monitor.Warnf("no disk is given for the %s: this is a part of a unit", strings.Join(missing, " and the "))
	}
	if f.opt.Unit == nil && len(f.opt.Board.Unit.Files) > 0 {
		f.opt.Monitor.Warnf("no --unit is given: the unit is as all others of its build, and has no serial number")
	}
	for _, m := range f.media {
		if err := m.src.Check(ctx); err != nil {
			return err
		}
	}
	return nil
}

// open opens the image of a medium. All images must be of one board and one build.
func (f *Factory) open(ctx context.Context, of boards.Medium) error {
	opening := f.opt.Source
	opening.Registry.Medium = of.Name
	src, err := volume.Open(f.opt.Images[of.Name], opening)
	if err != nil {
		return err
	}
	f.media = append(f.media, &medium{name: of.Name, kind: of.Kind, src: src})
	if src.Manifest == nil {
		return fmt.Errorf("%s: it has no manifest, so its board and medium are not known: put %s beside it, or give an .img.zst", src.Name, filepath.Base(artifact.ManifestPath(src.Name)))
	}
	if err := deploy.CheckBoard(src, f.opt.Board.Name); err != nil {
		return err
	}
	if m := src.Manifest; m.Medium != of.Name {
		return fmt.Errorf("%s is the image of the %s, and one of the %s is needed", src.Name, m.Medium, of.Name)
	}
	first := f.media[0].src
	if src.BuildID() != first.BuildID() {
		return fmt.Errorf("%s is of build %s, and %s of build %s: give images of one build", first.Name, first.BuildID(), src.Name, src.BuildID())
	}
	f.receipt.BuildID = first.BuildID()
	if f.opt.Opened != nil {
		if f.media[len(f.media)-1].signers, err = f.opt.Opened(src); err != nil {
			return err
		}
	}
	return src.Seek(ctx)
}

func (f *Factory) find(m *medium) (err error) {
	if m.disk, err = deploy.Find(f.opt.Disks[m.name]); err != nil {
		return err
	}
	for _, other := range f.media {
		if other != m && other.disk != nil && m.disk.Same(other.disk) {
			return fault.New(fault.Usage, "the %s %s and the %s %s are one disk", other.name, other.disk.Path, m.name, m.disk.Path)
		}
	}
	for _, other := range f.media {
		if err := deploy.CheckSource(m.disk, other.src); err != nil {
			return err
		}
	}
	if kind := kindOf(m.disk); kind != "" && m.kind != "" && kind != m.kind {
		return &disk.RefusedError{Disk: m.disk.Path, Reason: fmt.Sprintf("it is an %s by its bus, and is given as the %s: swap the disks", kind, m.name)}
	}
	need := deploy.Need(m.src)
	if m.disk.Fixed() && f.opt.Fixed {
		need.Fixed = true
		for _, serial := range f.opt.Serials {
			if serial == m.disk.Serial || m.disk.Serial == "" && serial == m.disk.WWN {
				need.Serial = serial
			}
		}
	}
	return deploy.Check(m.disk, need)
}

// kindOf returns the kind of medium of a disk by its bus, or "" for a disk on an adapter.
func kindOf(d *disk.Disk) string {
	switch {
	case d.Bus == "nvme":
		return "nvme"
	case d.Bus == "mmc" && d.Kind == "MMC":
		return "emmc"
	case d.Bus == "mmc" && d.Kind == "SD":
		return "sd"
	}
	return ""
}

// compose makes the plan and the target of the medium, from its image with more files.
func (m *medium) compose(files map[string][]compose.File, unit string) error {
	src, err := compose.Fit(m.src, m.disk.Size, files)
	if err != nil {
		return err
	}
	own := *src
	own.Unit = unit
	m.close()
	if m.plan, err = deploy.NewPlan(&own); err != nil {
		return err
	}
	m.Target, err = deploy.NewTarget(m.disk, m.plan)
	return err
}

func (m *medium) close() {
	if m.plan != nil {
		m.plan.Close()
	}
}

// checkStatus refuses disks that were provisioned. A disk of this build and unit is accepted
// if another that is written after it is not done: an interrupted provisioning continues.
func (f *Factory) checkStatus() error {
	unfinished := false // a later medium is not done
	for _, m := range slices.Backward(f.media) {
		s, path := m.status, m.disk.Path
		isUnits := len(m.files) > 0 || s.isForAnother(nil)
		same := (s.build == "" || s.build == m.src.BuildID()) && (!isUnits || s.isFor(f.receipt.Values))
		switch {
		case f.opt.Reprovision && s.err != nil:
			f.opt.Monitor.Infof("%s: its content cannot be read and will be lost (%v)", path, s.err)
		case f.opt.Reprovision && s.Done:
			f.opt.Monitor.Infof("%s: its content will be lost: %s", path, s)
		case f.opt.Reprovision:
		case s.err != nil:
			return &disk.RefusedError{Disk: path, Reason: fmt.Sprintf("its content cannot be read (%v), so it may be in use by a unit; pass --reprovision to lose it", s.err)}
		case s.Done && !(same && unfinished):
			return &disk.RefusedError{Disk: path, Reason: s.String() + ": pass --reprovision to lose what is on it"}
		case s.Done:
			f.opt.Monitor.Infof("%s: %s: it is compared, and what differs is written", path, s)
		}
		unfinished = unfinished || !s.Done
	}
	return nil
}

func (f *Factory) dryRun() {
	for _, m := range f.media {
		f.opt.Monitor.Infof("%s would be written to %s", m.plan.Describe(), deploy.Describe(m.disk))
		f.receipt.Media = append(f.receipt.Media, MediumReceipt{m.name, m.files, deploy.Planned(m.disk, m.plan, &f.opt.Options)})
	}
}

// lines describes what is written to which disk.
func (f *Factory) lines() string {
	var lines []string
	for _, m := range f.media {
		lines = append(lines, sanitize.Sprintf("%s to %s", m.plan.Describe(), deploy.Describe(m.disk)))
	}
	return strings.Join(lines, "\nand ")
}

func (f *Factory) question() string {
	who := "for no unit in particular"
	if f.opt.Unit != nil {
		who = "for unit " + f.opt.Unit.Name()
	}
	return fmt.Sprintf("Write, %s,\n%s.\nEverything there will be lost.", sanitize.Line(who), f.lines())
}

// write writes media one after the other, and stops at the first error. All are opened
// before, so that no other program can take one in between.
func (f *Factory) write(ctx context.Context, media []*medium) error {
	var targets []*deploy.Target
	for _, m := range media {
		m.Target.Configure(m.plan, &f.opt.Options)
		m.Receipt.SignedBy = m.signers
		targets = append(targets, m.Target)
	}
	closeAll, err := deploy.Open(ctx, targets, f.opt.Monitor)
	if err != nil {
		return err
	}
	defer closeAll()
	f.begun = true
	defer f.opt.Begin()()
	for i, m := range media {
		f.opt.Monitor.Infof("%d of %d: %s, %s", i+1, len(media), m.name, deploy.Title(m.disk)+" at "+m.disk.Path)
		deploy.Write(ctx, m.plan, []*deploy.Target{m.Target}, &f.opt.Options)
		m.Release(&f.opt.Options, false)
		f.receipt.Media = append(f.receipt.Media, MediumReceipt{m.name, m.files, m.Target.Receipt})
		if m.Err != nil {
			return m.ErrWithHint(ctx, "run it again, and what is left is done")
		}
		f.opt.Monitor.Infof("%s", m.Target.Receipt.Summary())
	}
	return nil
}

// Abandon leaves a receipt when the program must end although a disk does not answer.
func (f *Factory) Abandon() {
	if !f.begun {
		return
	}
	r := f.receipt
	err := fault.New(fault.Interrupted, "interrupted: a disk did not answer in time")
	r.Status, r.Error = f.opt.Status(err), err.Error()
	f.opt.Log.Add("", &r)
	f.opt.DoneUnit(&r)
}

// Receipt is the result of provisioning a unit. In JSON the values of its variables are
// among the fields, with _ for -.
type Receipt struct {
	Board   string
	BuildID string
	Values  map[string]string // of the unit's variables
	Media   []MediumReceipt   // in the order they were written
	Missing []string          // media that were left out
	Changes []string          // of a dry run with --live: paths in the root file system that would be changed
	DryRun  bool              // nothing was written
	Seconds float64
	Status  int // exit status
	Error   string

	variables []boardinfo.Variable
}

// MediumReceipt is the receipt of one medium.
type MediumReceipt struct {
	Medium string   `json:"medium"`
	Files  []string `json:"unit_files,omitempty"` // names of the per-unit files
	deploy.Receipt
}

// MarshalJSON returns the receipt, with the present time, as a JSON object.
func (r *Receipt) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	var err error
	add := func(name string, v any) {
		text, e := json.Marshal(v)
		if err == nil {
			err = e
		}
		b.WriteString(`,"` + name + `":`)
		b.Write(text)
	}
	add("time", receipt.Now())
	add("board", r.Board)
	if r.BuildID != "" {
		add("build_id", r.BuildID)
	}
	for _, v := range r.variables {
		if r.Values[v.Name] != "" {
			add(strings.ReplaceAll(v.Name, "-", "_"), r.Values[v.Name])
		}
	}
	if r.DryRun {
		add("dry_run", true)
	}
	add("media", append([]MediumReceipt{}, r.Media...))
	if len(r.Changes) > 0 {
		add("changes", r.Changes)
	}
	if len(r.Missing) > 0 {
		add("media_left_out", r.Missing)
	}
	add("seconds", r.Seconds)
	add("status", r.Status)
	if r.Error != "" {
		add("error", r.Error)
	}
	return append(append([]byte("{"), b.Bytes()[1:]...), '}'), err
}

// conclude completes the receipt, adds it to the log and, if all went well, hands it over.
func (f *Factory) conclude(ctx context.Context, failed error) error {
	r := &f.receipt
	r.Seconds = time.Since(f.begin).Seconds()
	if failed != nil {
		r.Status, r.Error = f.opt.ExitStatus(ctx, failed), failed.Error()
	}
	f.opt.Monitor.EndPhase()
	err := f.opt.Log.Add("", r)
	f.opt.DoneUnit(r)
	if failed == nil {
		return err
	}
	if err != nil {
		f.opt.Monitor.Warnf("%v", err)
	}
	return failed
}
