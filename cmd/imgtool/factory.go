package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"imgtool/boards"
	"imgtool/flash"
	"imgtool/flash/disk"
	"imgtool/image/artifact"
	"imgtool/image/compose"
	"imgtool/image/fault"
	"imgtool/image/sanitize"
	"imgtool/image/statefile"
	"imgtool/image/volume"
)

type factoryOptions struct {
	board    string
	image    string
	images   map[string]*string // by medium
	disks    map[string]*string // by medium
	unit     string
	receipt  string
	yes      bool
	again    bool
	dryRun   bool
	keepKeys bool
	fixed    bool
	serials  []string
	stall    time.Duration

	live   bool
	conf   string
	root   string
	reboot bool
}

// factoryMedia are the media there are flags for.
var factoryMedia = []string{"emmc", "sd", "nvme"}

func newFactoryCommand(u *ui) *cobra.Command {
	opt := factoryOptions{images: map[string]*string{}, disks: map[string]*string{}}
	cmd := &cobra.Command{
		Use:   "factory --board NAME --image PREFIX.img --emmc DISK --sd DISK --nvme DISK --unit UNIT.toml",
		Short: "Provision a unit: write all its media, with what is its own",
		Long: `Write all media of a unit, each with its image of one build, and put in what is the
unit's own: its serial number, its id and its keys. All images, disks and keys are
checked before the first byte is written. Then the media are written and read back
one after another, the one that boots the unit last, and one receipt is left.

--image PREFIX.img.zst is PREFIX-emmc.img.zst, PREFIX-sd.img.zst and
PREFIX-nvme.img.zst. A medium that is not given is left out.

UNIT.toml has
  vsn = "W123"
  wan0-mac = "48:b0:2d:01:23:45"    or node-id = "000048B02D012345", or neither
  [keys]                            files, relative to UNIT.toml
  bk-key = "bk_key.pem"
Which keys there are and where each goes says the board's definition. Keys are
written with mode 0600 to the disks and nowhere else.

A disk that says it was provisioned is refused, unless it is of this build and unit
and the media after it are not done: then what is left is done.

With --live a unit that was flashed and runs provisions itself: recovery card and NVMe
are made of its own root file system, and then that is locked down and made the lower
layer of an overlay. -c FILE is the factory_provision.conf with what is checked. It
may be interrupted at any time, and goes on when it is run again; once it is complete
it is refused until the state file is removed. --root DIR takes the root file system
that is mounted there for the unit's, and --sd and --nvme name other disks.`,
		Example: `  imgtool factory --board photon-nx --image photon.img.zst --unit W123.toml \
      --emmc /dev/sdb --sd /dev/sdc --nvme /dev/sdd --receipt units.jsonl
  imgtool factory --board photon-nx --image photon.img.zst --unit W123.toml --sd /dev/sdc
  imgtool factory --live -r -c /etc/waggle/factory/factory_provision.conf`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if opt.live {
				return runLive(cmd.Context(), opt, u)
			}
			if opt.conf != "" || opt.root != "" || opt.reboot {
				return fault.New(fault.Usage, "--conf, --root and --reboot are for --live")
			}
			return runFactory(cmd.Context(), opt, u)
		},
	}
	f := cmd.Flags()
	f.StringVar(&opt.board, "board", "", "a board's name, or the path of its definition")
	f.StringVarP(&opt.image, "image", "i", "", "the images of all media, by what their names begin and end with")
	for _, m := range factoryMedia {
		opt.disks[m], opt.images[m] = new(string), new(string)
		f.StringVar(opt.disks[m], m, "", "disk that is to be the "+m)
		f.StringVar(opt.images[m], m+"-image", "", "image of the "+m)
	}
	f.StringVar(&opt.unit, "unit", "", "file with what is the unit's own")
	f.StringVar(&opt.receipt, "receipt", "", "append what became of the unit to this file, a JSON object a line")
	f.BoolVarP(&opt.yes, "yes", "y", false, "do not ask; guards stay")
	f.BoolVar(&opt.again, "reprovision", false, "write over disks that say they were provisioned")
	f.BoolVar(&opt.dryRun, "dry-run", false, "check everything and write nothing")
	f.BoolVar(&opt.keepKeys, "keep-registration-keys", false, "put the unit's own keys on the recovery card as well")
	f.BoolVar(&opt.fixed, "fixed", false, "take disks that are built in and used by nobody, with their --serial")
	f.BoolVar(&opt.live, "live", false, "provision the unit that this runs on from its own root file system")
	f.StringVarP(&opt.conf, "conf", "c", "", "factory_provision.conf, for --live")
	f.StringVar(&opt.root, "root", "", "root file system of a unit that is mounted here, for --live")
	f.BoolVarP(&opt.reboot, "reboot", "r", false, "reboot when it is complete, with --live")
	addStallFlag(cmd, &opt.stall)
	f.StringArrayVar(&opt.serials, "serial", nil, "serial number of a built-in disk that is meant; may be repeated")
	return cmd
}

// station is a medium on its way to being flashed.
type station struct {
	medium string
	pic    *volume.Source // as it was opened
	plan   *plan          // with what is the unit's own, fitted to the disk
	*unit
	files []string // what is the unit's own, by name
	there mark
}

// mark is what a disk says of its provisioning.
type mark struct {
	where string // a file, and the partition it is on
	step  string // "6 of 6", where it has a state file
	done  bool
	build string
	vsn   string
	id    string
	err   error // why it cannot be read
}

// unitReceipt is what became of a unit.
type unitReceipt struct {
	Time    string          `json:"time"` // of the end, RFC 3339
	Board   string          `json:"board"`
	BuildID string          `json:"build_id"`
	VSN     string          `json:"vsn,omitempty"`
	NodeID  string          `json:"node_id,omitempty"`
	Media   []mediumReceipt `json:"media"` // in the order they were written
	Missing []string        `json:"media_left_out,omitempty"`
	Seconds float64         `json:"seconds"`
	Status  int             `json:"status"` // exit status
	Error   string          `json:"error,omitempty"`
}

type mediumReceipt struct {
	Medium string   `json:"medium"`
	Files  []string `json:"unit_files,omitempty"` // what is the unit's own, by name
	receipt
}

func runFactory(ctx context.Context, opt factoryOptions, u *ui) (err error) {
	begin := time.Now()
	board, names, missing, err := factoryNames(opt)
	if err == nil {
		err = checkStall(opt.stall)
	}
	if err == nil {
		err = checkReceipts(opt.receipt)
	}
	if err != nil {
		return err
	}
	var own *unitData
	if opt.unit != "" {
		if own, err = readUnit(opt.unit, board, u); err != nil {
			return err
		}
	}
	log, err := receipts(opt.receipt, opt.dryRun)
	if err != nil {
		return err
	}
	defer log.Close()
	whole := unitReceipt{Board: board.Name, Missing: missing}
	if own != nil {
		whole.VSN, whole.NodeID = own.VSN, own.NodeID
	}
	begun := false
	defer func() {
		if err != nil && !begun && fault.Kind(err) != fault.Usage {
			for _, name := range names {
				r := receipt{Disk: *opt.disks[name]}
				r.fail(ctx, err)
				r.Left = flash.Unchanged
				whole.Media = append(whole.Media, mediumReceipt{Medium: name, receipt: r})
			}
			err = concludeUnit(ctx, &whole, err, begin, log, u)
		}
	}()
	stations, err := openStations(ctx, opt, board, names, u)
	if len(stations) > 0 {
		whole.BuildID = stations[0].pic.BuildID()
	}
	defer func() {
		for _, s := range stations {
			s.pic.Close()
			if s.plan != nil {
				s.plan.Close()
			}
		}
	}()
	if err == nil {
		err = findStations(opt, stations)
	}
	if err != nil {
		return err
	}
	flags := map[string]bool{"keep-registration-keys": opt.keepKeys}
	for _, s := range stations {
		if err := s.compose(board, own, flags); err != nil {
			return fmt.Errorf("%s: %w", s.pic.Name, err)
		}
		s.there = s.marks(board)
	}
	if err := checkMarks(stations, own, opt.again, u); err != nil {
		return err
	}
	if len(missing) > 0 {
		u.warn(fmt.Sprintf("no disk is given for the %s: this is a part of a unit", strings.Join(missing, " and the ")))
	}
	if own == nil && len(board.Unit.Files) > 0 {
		u.warn("no --unit is given: the unit is as all others of its build, and has no serial number")
	}
	for _, s := range stations {
		if err := s.pic.Check(ctx); err != nil {
			return err
		}
	}
	if opt.dryRun {
		for _, s := range stations {
			u.say("%s would be written to %s", describePicture(s.plan), describeDisk(s.disk))
		}
		return nil
	}
	if own != nil && !opt.again {
		for _, s := range stations {
			log.warnOfTwins(own.VSN, s.medium, u)
		}
	}
	if !opt.yes {
		if err := confirmFactory(ctx, stations, own, u); err != nil {
			return err
		}
	}
	begun = true
	defer u.writeDisks()()
	u.beforeEnd(func() {
		last := whole
		last.Time, last.Status, last.Error = time.Now().UTC().Format(time.RFC3339), exitInterrupted, "interrupted: a disk did not answer in time"
		log.add("", last)
	})
	failed := writeStations(ctx, stations, &whole, opt.stall, u)
	if err := concludeUnit(ctx, &whole, failed, begin, log, u); err != nil || u.json {
		return err
	}
	u.say("%s: %s written and verified, in %s", nameOf(board, own), strings.Join(names, ", "), time.Since(begin).Round(100*time.Millisecond))
	return nil
}

func nameOf(board *boards.Board, own *unitData) string {
	if own == nil {
		return board.Name
	}
	return board.Name + " " + own.VSN
}

// factoryNames are the media to write, the one that boots the unit last: what it
// needs is there then. missing are those that are left out.
func factoryNames(opt factoryOptions) (board *boards.Board, names, missing []string, err error) {
	if opt.board == "" {
		return nil, nil, nil, fault.New(fault.Usage, "say which board: --board NAME, one of %s, or --board ./FILE.toml", strings.Join(boards.Names(), ", "))
	}
	if board, err = loadBoard(opt.board); err != nil {
		return nil, nil, nil, err
	}
	there := board.MediaNames()
	for _, name := range factoryMedia {
		if (*opt.disks[name] != "" || *opt.images[name] != "") && !slices.Contains(there, name) {
			return nil, nil, nil, fault.New(fault.Usage, "%s has no %s; it has %s", board.Name, name, strings.Join(there, ", "))
		}
		if *opt.images[name] != "" && *opt.disks[name] == "" {
			return nil, nil, nil, fault.New(fault.Usage, "--%s-image is given, and no disk for it: pass --%s DISK", name, name)
		}
	}
	slices.Reverse(there)
	for _, name := range there {
		switch dev := opt.disks[name]; {
		case dev != nil && *dev != "":
			names = append(names, name)
		default:
			missing = append(missing, name)
		}
	}
	if len(names) == 0 {
		return nil, nil, nil, fault.New(fault.Usage, "say which disks: --%s DISK", strings.Join(board.MediaNames(), " DISK --"))
	}
	if opt.image != "" {
		if _, err := artifact.FormatOf(opt.image); err != nil {
			return nil, nil, nil, fault.New(fault.Usage, "--image %w", err)
		}
	}
	return board, names, missing, nil
}

// openStations opens the images, which must be of one board and one build.
func openStations(ctx context.Context, opt factoryOptions, board *boards.Board, names []string, u *ui) (stations []*station, err error) {
	for _, name := range names {
		file := *opt.images[name]
		if file == "" && opt.image == "" {
			return stations, fault.New(fault.Usage, "say which image: --image PREFIX.img for PREFIX-%s.img, or --%s-image FILE", name, name)
		}
		if file == "" {
			file = withMedium(opt.image, name)
		}
		if file == "-" {
			return stations, fault.New(fault.Usage, "--%s-image is standard input: give a file, which can be read more than once", name)
		}
		pic, err := volume.Open(file, u.opening())
		if err != nil {
			return stations, err
		}
		stations = append(stations, &station{medium: name, pic: pic})
		m := pic.Manifest
		switch {
		case m == nil:
			return stations, fmt.Errorf("%s: it has no manifest, so nobody knows what it is for: put %s beside it, or give an .img.zst", file, filepath.Base(artifact.ManifestPath(file)))
		case m.Board != board.Name:
			return stations, &wrongBoardError{fmt.Errorf("%s is an image for %s, and the board is %s", file, m.Board, board.Name)}
		case m.Medium != name:
			return stations, fmt.Errorf("%s is the image of the %s, and one of the %s is wanted", file, m.Medium, name)
		}
		if first := stations[0].pic; m.BuildID != first.BuildID() {
			return stations, fmt.Errorf("%s is of build %s, and %s of build %s: give images of one build", first.Name, first.BuildID(), file, m.BuildID)
		}
		if err := pic.Seek(ctx); err != nil {
			return stations, err
		}
	}
	return stations, nil
}

// findStations finds the disks and looks whether each may be written, and is none
// of the others.
func findStations(opt factoryOptions, stations []*station) error {
	for i, s := range stations {
		dev, err := findDisk(*opt.disks[s.medium])
		if err != nil {
			return err
		}
		s.unit = &unit{disk: dev}
		for _, other := range stations[:i] {
			if other.disk.Same(dev) {
				return fault.New(fault.Usage, "--%s %s and --%s %s are one disk", other.medium, other.disk.Path, s.medium, dev.Path)
			}
		}
		for _, other := range stations {
			if err := refuseSame(dev, other.pic); err != nil {
				return err
			}
		}
		if is := kindOfDisk(dev); is != "" && is != s.medium {
			return &disk.RefusedError{Disk: dev.Path, Reason: fmt.Sprintf("its bus says it is an %s, and it is given as --%s: swap the disks", is, s.medium)}
		}
		p := &plan{pic: s.pic, size: s.pic.Manifest.Size}
		need := p.need()
		if dev.Fixed() && opt.fixed {
			need.Fixed = true
			for _, serial := range opt.serials {
				if serial == dev.Serial || dev.Serial == "" && serial == dev.WWN {
					need.Serial = serial
				}
			}
		}
		if err := dev.Check(need); err != nil {
			return err
		}
	}
	return nil
}

// kindOfDisk is which medium a disk can only be, where it hangs on a bus of its own
// and not on an adapter.
func kindOfDisk(d *disk.Disk) string {
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

// compose makes of the image what this disk of this unit gets.
func (s *station) compose(board *boards.Board, own *unitData, flags map[string]bool) error {
	more, files := own.additions(board, s.medium, flags)
	s.files = files
	pic, err := compose.Fit(s.pic, s.disk.Size, more)
	if err != nil {
		return err
	}
	if own != nil {
		c := *pic
		c.Unit = own.VSN
		pic = &c
	}
	if s.plan, err = newPlan(pic); err != nil {
		return err
	}
	if s.job, err = s.plan.job(s.disk.Size); err != nil {
		return corrupt("it cannot be put on %s: %w", s.disk.Path, err)
	}
	return nil
}

// marks reads from a disk what it says of its provisioning.
func (s *station) marks(board *boards.Board) (m mark) {
	for _, part := range s.pic.Manifest.Partitions {
		if part.State == "" {
			continue
		}
		all := statefile.Parse(stateOn(s.disk, part))
		if n := len(all); n > 0 {
			last := all[n-1]
			m.where, m.step, m.done = part.State+" on "+part.Name, fmt.Sprintf("%d of %d", last.Step, last.Steps), last.Final()
		}
		if i := slices.IndexFunc(all, func(e statefile.Entry) bool { return e.Build != "" }); i >= 0 {
			m.build = all[i].Build
		}
	}
	for _, place := range board.Unit.Places {
		of, name, _ := strings.Cut(place.Partition, "/")
		i := slices.IndexFunc(s.pic.Manifest.Partitions, func(p artifact.Partition) bool { return p.Name == name })
		if of != s.medium || i < 0 {
			continue
		}
		part := s.pic.Manifest.Partitions[i]
		for _, f := range board.Unit.Files {
			into := map[string]*string{"@VSN@": &m.vsn, "@NODE_ID@": &m.id}[strings.TrimSpace(f.Text)]
			if into == nil || !slices.Contains(place.Files, f.Name) {
				continue
			}
			at := path.Join("/", place.Directory, f.Path)
			text, err := fileOn(s.disk, part, at)
			*into = strings.TrimSpace(text)
			switch {
			case part.State != "":
			case err != nil:
				m.err = fmt.Errorf("%s: %w", part.Name, err)
			case text != "":
				m.where, m.done = cmp.Or(m.where, at+" on "+part.Name), true
			}
		}
	}
	return m
}

// what is a mark in words.
func (m mark) what() string {
	var about []string
	if m.step != "" {
		about = append(about, "step "+m.step)
	}
	if m.build != "" {
		about = append(about, "build "+m.build)
	}
	if m.vsn != "" {
		about = append(about, "unit "+m.vsn)
	}
	return fmt.Sprintf("%s says that it was provisioned (%s)", m.where, strings.Join(about, ", "))
}

// checkMarks refuses disks that were provisioned. Those of this very build and unit
// are fine as long as one that is written after them is not done: an interrupted
// provisioning goes on.
func checkMarks(stations []*station, own *unitData, again bool, u *ui) error {
	var vsn, id string
	if own != nil {
		vsn, id = own.VSN, own.NodeID
	}
	left := false // something after this one is not done
	for _, s := range slices.Backward(stations) {
		m := s.there
		same := (m.build == "" || m.build == s.pic.BuildID()) && (!s.isUnits() || m.vsn == vsn && m.id == id)
		switch {
		case again && m.err != nil:
			u.say("%s: lost is what is on it and cannot be read (%v)", s.disk.Path, m.err)
		case again && m.done:
			u.say("%s: lost is what is on it: %s", s.disk.Path, m.what())
		case again:
		case m.err != nil:
			return &disk.RefusedError{Disk: s.disk.Path, Reason: fmt.Sprintf("what is on it cannot be read (%v): it was in use somewhere; pass --reprovision to lose it", m.err)}
		case m.done && !(same && left):
			return &disk.RefusedError{Disk: s.disk.Path, Reason: m.what() + ": pass --reprovision to lose what is on it"}
		case m.done:
			u.say("%s: %s: it is compared, and what differs is written", s.disk.Path, m.what())
		}
		left = left || !m.done
	}
	return nil
}

// isUnits says whether anything of the unit's own goes to the medium.
func (s *station) isUnits() bool { return len(s.files) > 0 || s.there.vsn != "" || s.there.id != "" }

func confirmFactory(ctx context.Context, stations []*station, own *unitData, u *ui) error {
	var lines []string
	for _, s := range stations {
		lines = append(lines, sanitize.Sprintf("%s to %s", describePicture(s.plan), describeDisk(s.disk)))
	}
	who := "for no unit in particular"
	if own != nil {
		who = "for unit " + own.VSN
	}
	ok, err := u.ask(ctx, fmt.Sprintf("Write, %s,\n%s.\nEverything there will be lost.", sanitize.Line(who), strings.Join(lines, "\nand ")))
	if err == nil && !ok {
		err = &disk.RefusedError{Disk: stations[0].disk.Path, Reason: "not written: the answer was not yes"}
	}
	return err
}

// writeStations writes one medium after the other, and none after one that failed.
// All are opened before: nobody takes one in between.
func writeStations(ctx context.Context, stations []*station, whole *unitReceipt, stall time.Duration, u *ui) (err error) {
	defer u.writeDisks()()
	var disks []string
	for _, s := range stations {
		s.job.Verify, s.receipt.Verify = flash.Full, "full"
		s.job.Timeout = u.patience(s.disk.Path, stall)
		s.job.Watch = new(flash.Watch)
		s.job.Delta = alike(s.disk, s.plan)
		disks = append(disks, s.disk.Path)
	}
	defer func() {
		for _, s := range stations {
			if s.target != nil {
				s.target.Close()
			}
		}
	}()
	for _, s := range stations {
		if s.target, err = disk.Open(s.disk); errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0 {
			return fault.WithHint(err, "writing to a disk takes root's rights: run it with sudo")
		}
		if err != nil {
			return err
		}
	}
	if awake, err := flash.Awake("writing " + strings.Join(disks, ", ")); err == nil {
		defer awake()
	} else if !errors.Is(err, errors.ErrUnsupported) {
		u.warn(fmt.Sprintf("keep this computer from going to sleep: %v", err))
	}
	for _, s := range stations {
		if !u.json {
			u.say("%s: %s", s.medium, s.disk.Path)
		}
		flashAll(ctx, []*unit{s.unit}, s.plan, u)
		s.release(u, false)
		s.target = nil
		whole.Media = append(whole.Media, mediumReceipt{s.medium, s.files, s.receipt})
		if s.err != nil {
			if s.touched && ctx.Err() == nil && !errors.As(s.err, new(*disk.MovedError)) {
				return fault.WithHint(s.err, "%s; run it again, and what is left is done", s.leaves())
			}
			return s.err
		}
		if !u.json {
			u.say("%s", s.receipt.summary())
		}
		u.leaves("the unit is not whole: run it again, and what is left is done")
	}
	u.leaves("")
	return nil
}

// concludeUnit leaves the receipt of a unit.
func concludeUnit(ctx context.Context, whole *unitReceipt, failed error, begin time.Time, log *receiptLog, u *ui) error {
	whole.Time, whole.Seconds = time.Now().UTC().Format(time.RFC3339), time.Since(begin).Seconds()
	if failed != nil {
		if whole.Status, whole.Error = exitStatus(failed), failed.Error(); ctx.Err() != nil {
			whole.Status = exitInterrupted
		}
	}
	u.endPhase()
	lost := log.add("", whole)
	switch {
	case failed != nil && lost != nil:
		u.warn(lost.Error())
	case failed == nil && u.json:
		return errors.Join(u.print(whole), lost)
	case failed == nil:
		return lost
	}
	return failed
}
