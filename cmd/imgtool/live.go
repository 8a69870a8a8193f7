package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	"github.com/coreos/go-systemd/v22/journal"
	"github.com/moby/sys/mountinfo"

	"imgtool/boards"
	"imgtool/flash/disk"
	"imgtool/image/build"
	"imgtool/image/edit"
	"imgtool/image/fault"
	"imgtool/image/hostfile"
	"imgtool/image/partition"
	"imgtool/image/sanitize"
	"imgtool/image/shconf"
	"imgtool/image/source"
	"imgtool/image/statefile"
	"imgtool/image/tree"
	"imgtool/image/tree/hostfs"
	"imgtool/image/volume"
)

// live is a unit that is provisioned from its own root file system.
//
// First its media are made of the root, which stays as it is. Then what is to change
// in the root is written down beside the state file, and only then done: who goes on
// after an interruption does what is written there, whatever was done of it.
type live struct {
	opt    factoryOptions
	board  *boards.Board
	root   string
	fs     *rooted // the same
	conf   map[string]shconf.Value
	when   int64 // of everything made, seconds since 1970
	own    unitData
	build  *build.Result
	todo   todo
	stages []*station // the media, in the order of their steps
	u      *ui
}

// todo is what is to be done to the root once the media are made.
type todo struct {
	Build   string            `json:"build_id"`
	Disks   map[string]string `json:"disks"` // GUIDs of the tables, by medium
	Changes []change          `json:"changes"`
}

const todoSuffix = ".todo"

func runLive(ctx context.Context, opt factoryOptions, u *ui) (err error) {
	begin := time.Now()
	l := &live{opt: opt, root: "/", u: u}
	if opt.root != "" {
		l.root = opt.root
	}
	if err := l.prepare(); err != nil {
		return err
	}
	if l.fs, err = openRooted(l.root); err != nil {
		return fmt.Errorf("--root: %w", err)
	}
	defer l.fs.Close()
	defer func() {
		if err != nil {
			l.journal(journal.PriErr, err.Error())
		}
	}()
	log, err := receipts(opt.receipt, opt.dryRun)
	if err != nil {
		return err
	}
	defer log.Close()
	whole := unitReceipt{Board: l.board.Name}
	err = l.run(ctx, &whole)
	whole.VSN, whole.NodeID = l.own.VSN, l.own.NodeID
	if err == nil && opt.dryRun {
		return nil
	}
	if err := concludeUnit(ctx, &whole, err, begin, log, u); err != nil {
		return err
	}
	l.log("%s: provisioned, in %s", l.name(), time.Since(begin).Round(100*time.Millisecond))
	if !opt.reboot {
		l.log("it takes effect with the next boot")
		return nil
	}
	l.log("rebooting")
	return reboot(ctx)
}

func (l *live) name() string { return strings.TrimSpace(l.board.Name + " " + l.own.VSN) }

// prepare looks at the command line and reads the configuration.
func (l *live) prepare() (err error) {
	opt := l.opt
	switch {
	case opt.conf == "":
		return fault.New(fault.Usage, "say what is checked: -c FILE, such as /etc/waggle/factory/factory_provision.conf")
	case opt.image != "" || opt.unit != "" || slices.ContainsFunc(factoryMedia, func(m string) bool { return *opt.images[m] != "" }):
		return fault.New(fault.Usage, "with --live the images are made of the root file system, and what is the unit's own is there: leave out --image and --unit")
	case opt.reboot && opt.root != "":
		return fault.New(fault.Usage, "--reboot is about this system, and --root about another: leave one of them out")
	}
	text, err := hostfile.ReadStream(opt.conf, hostfile.Text)
	if err != nil {
		return fmt.Errorf("provisioning: %w", err)
	}
	if l.conf, err = shconf.Parse(opt.conf, text); err != nil {
		return fmt.Errorf("provisioning: %w", err)
	}
	if l.board, err = liveBoard(opt.board, l.conf); err != nil {
		return err
	}
	for _, m := range factoryMedia {
		if *opt.disks[m] != "" && !slices.ContainsFunc(l.board.Live.Media, func(lm boards.LiveMedium) bool { return lm.Name == m }) {
			return fault.New(fault.Usage, "--%s is given, and with --live %s writes only its %s", m, l.board.Name, strings.Join(l.liveNames(), " and "))
		}
	}
	l.when = time.Now().Unix()
	if epoch := os.Getenv("SOURCE_DATE_EPOCH"); epoch != "" {
		if l.when, err = strconv.ParseInt(epoch, 10, 64); err != nil || l.when < 0 || l.when > 1<<32-1 {
			return fault.New(fault.Usage, "SOURCE_DATE_EPOCH is %q; it must be seconds since 1970, up to %d", epoch, int64(1<<32-1))
		}
	}
	info, err := os.Stat(l.root)
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("%s is no folder", l.root)
	}
	if err != nil {
		return fmt.Errorf("--root: %w", err)
	}
	return overlaid(l.root)
}

func (l *live) liveNames() (names []string) {
	for _, m := range l.board.Live.Media {
		names = append(names, m.Name)
	}
	return names
}

// liveBoard is the board that is named, or the one that the configuration is for.
func liveBoard(name string, conf map[string]shconf.Value) (*boards.Board, error) {
	if name != "" {
		b, err := loadBoard(name)
		if err == nil && b.Live.Tree == "" {
			err = fault.New(fault.Usage, "%s is not provisioned while it runs", b.Name)
		}
		return b, err
	}
	var fit []*boards.Board
	least := 0
	for _, name := range boards.Names() {
		b, err := boards.Get(name)
		if err != nil {
			return nil, err
		}
		if b.Live.Tree == "" {
			continue
		}
		wrong := 0
		for _, f := range b.Conf.Fixed {
			if v, ok := conf[f.Key]; ok && !slices.Equal(listOf(v), f.Is) {
				wrong++
			}
		}
		if len(fit) == 0 || wrong < least {
			fit, least = nil, wrong
		}
		if wrong == least {
			fit = append(fit, b)
		}
	}
	// The board that fits best: what does not fit is reported later, by its name.
	if len(fit) == 1 {
		return fit[0], nil
	}
	return nil, fault.New(fault.Usage, "the configuration does not say which board it is for: pass --board NAME, one of %s", strings.Join(boards.Names(), ", "))
}

func listOf(v shconf.Value) []string { return append(slices.Clone(v.List), strings.Fields(v.Text)...) }

func (l *live) run(ctx context.Context, whole *unitReceipt) error {
	state := l.board.State.Paths[0]
	at := l.path(state)
	done, err := l.steps()
	if err != nil {
		return err
	}
	steps := len(l.board.State.Steps)
	if done[steps] {
		// A kill came right after the last line.
		if !l.opt.dryRun {
			l.fs.remove(state + todoSuffix)
		}
		return &disk.RefusedError{Disk: at, Reason: "the unit is provisioned: remove this file if you know that it is not"}
	}
	ready := !slices.ContainsFunc(l.board.Live.Media, func(m boards.LiveMedium) bool { return !done[m.Step] })
	var found *todo
	if ready {
		if found, err = readTodo(l.fs, state+todoSuffix); err != nil {
			return err
		}
	}
	if err := l.check(found == nil); err != nil {
		return err
	}
	if found != nil {
		l.todo = *found
		err = l.sameDisks()
	} else {
		err = l.plan(ctx)
	}
	defer func() {
		if l.build != nil {
			l.build.Close()
		}
	}()
	if err != nil {
		return err
	}
	whole.BuildID = l.todo.Build
	if l.opt.dryRun {
		for _, s := range l.stages {
			if found == nil {
				l.u.say("%s would be written to %s", describePicture(s.plan), describeDisk(s.disk))
			}
		}
		for _, c := range l.todo.Changes {
			l.u.say("/%s would be changed", c.Path)
		}
		return nil
	}
	// Nobody is asked about the disks that the unit itself has.
	if !l.opt.yes && found == nil && (l.opt.root != "" || slices.ContainsFunc(factoryMedia, func(m string) bool { return *l.opt.disks[m] != "" })) {
		if err := confirmLive(ctx, l); err != nil {
			return err
		}
	}
	stopped, err := l.stop(ctx)
	if err == nil {
		err = l.free()
	}
	if err == nil && stopped && found == nil {
		// They wrote until then.
		l.build.Close()
		err = l.plan(ctx)
	}
	if err == nil {
		err = l.step(1)
	}
	if err != nil {
		return err
	}
	if found == nil {
		if err := l.media(ctx, done, whole); err != nil {
			return err
		}
	}
	return l.change(ctx)
}

// path is a path of the unit's root, as this system has it.
func (l *live) path(p string) string { return filepath.Join(l.root, p) }

// steps are those that the state file says were done.
func (l *live) steps() (map[int]bool, error) {
	text, err := l.fs.readFile(l.board.State.Paths[0])
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	done := map[int]bool{}
	for _, e := range statefile.Parse(string(text)) {
		if e.Steps == len(l.board.State.Steps) {
			done[e.Step] = true
		}
	}
	if len(text) > 0 && len(done) == 0 {
		return nil, &disk.RefusedError{Disk: l.path(l.board.State.Paths[0]), Reason: "it is no state file that is known: remove it if the unit is not provisioned"}
	}
	return done, nil
}

// step notes that a step is done, unless that is noted.
func (l *live) step(n int) error {
	done, err := l.steps()
	if err != nil || done[n] {
		return err
	}
	at := l.board.State.Paths[0]
	text, err := l.fs.readFile(at)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	steps := l.board.State.Steps
	entry := statefile.Entry{Step: n, Steps: len(steps), Name: steps[n-1], Board: l.board.Name, Build: l.todo.Build}
	text = append(text, entry.Line(time.Now())...)
	if n == len(steps) {
		// The first path counts, and comes last.
		for _, other := range slices.Backward(l.board.State.Paths[1:]) {
			if err := l.fs.replaceFile(other, text, 0o644); err != nil {
				return err
			}
		}
	}
	if err := l.fs.replaceFile(at, text, 0o644); err != nil {
		return err
	}
	l.log("%s", entry)
	return nil
}

// log says something to whoever watches, and to the journal.
func (l *live) log(format string, args ...any) {
	l.u.say(format, args...)
	l.journal(journal.PriNotice, fmt.Sprintf(format, args...))
}

func (l *live) journal(p journal.Priority, text string) {
	if journal.Enabled() {
		journal.Send(text, p, map[string]string{"SYSLOG_IDENTIFIER": l.board.Live.Log})
	}
}

// check looks at files and disks before anything is touched. files is whether those
// of the configuration must be there: once the root is changed it need not be.
func (l *live) check(files bool) error {
	var faults []error
	c := l.board.Conf
	each := func(keys []string, do func(key, value string)) {
		for _, key := range keys {
			for _, value := range listOf(l.conf[key]) {
				do(key, value)
			}
		}
	}
	if files {
		each(c.Require, func(key, p string) {
			if info, err := l.fs.stat(p); err != nil || !info.Mode().IsRegular() || info.Size() == 0 {
				faults = append(faults, fmt.Errorf("%s is not there or empty, and %s of %s wants it: the unit must be registered first", l.path(p), key, l.opt.conf))
			}
		})
		each(c.Forbid, func(key, p string) {
			if l.fs.has(p) {
				faults = append(faults, fmt.Errorf("%s is there, and %s of %s does not want it: it is deleted when the unit has registered", l.path(p), key, l.opt.conf))
			}
		})
	}
	each(c.Devices, func(key, dev string) {
		ours := slices.ContainsFunc(l.board.Media, func(m boards.Medium) bool { return m.Device == dev })
		if info, err := os.Stat(dev); !ours && (err != nil || info.Mode()&fs.ModeDevice == 0) {
			faults = append(faults, fmt.Errorf("%s is no device, and %s of %s wants it", dev, key, l.opt.conf))
		}
	})
	if err := errors.Join(faults...); err != nil {
		return err
	}
	for _, name := range l.liveNames() {
		i := slices.IndexFunc(l.board.Media, func(m boards.Medium) bool { return m.Name == name })
		m := l.board.Media[i]
		at := m.Device
		if given := l.opt.disks[name]; given != nil && *given != "" {
			at = *given
		}
		dev, err := findDisk(at)
		if err != nil {
			return err
		}
		for _, other := range l.stages {
			if other.disk.Same(dev) {
				return fault.New(fault.Usage, "%s and %s are one disk", other.disk.Path, dev.Path)
			}
		}
		// It is built in, and the one that the board has there.
		need := disk.Need{Floor: int64(m.Placing.MinDisk), Who: l.board.Name, SectorSize: 512}
		if dev.Fixed() {
			need.Fixed, need.Serial = true, dev.Serial
			if dev.Serial == "" {
				need.Serial = dev.WWN
			}
		}
		if err := dev.Check(need); err != nil {
			return err
		}
		l.stages = append(l.stages, &station{medium: name, unit: &unit{disk: dev}})
	}
	// What makes the unit itself is in its root.
	for _, f := range l.board.Unit.Files {
		if into := map[string]*string{"@VSN@": &l.own.VSN, "@NODE_ID@": &l.own.NodeID}[strings.TrimSpace(f.Text)]; into != nil {
			text, _ := l.fs.readFile(f.Path)
			*into = strings.TrimSpace(string(text))
		}
	}
	return nil
}

// plan reads the root, makes of it what the media and the root itself are to be, and
// changes nothing.
func (l *live) plan(ctx context.Context) error {
	state := l.board.State.Paths
	var mu sync.Mutex
	var changed []string
	root, err := hostfs.ReadLive(l.root, l.when, func(p string) bool {
		if slices.ContainsFunc(edit.Live, func(pattern string) bool { ok, _ := path.Match(pattern[1:], p); return ok }) {
			return true
		}
		return slices.ContainsFunc(state, func(s string) bool {
			rest, ok := strings.CutPrefix("/"+p, s)
			return ok && slices.Contains([]string{"", todoSuffix, newSuffix, oldSuffix, todoSuffix + newSuffix, todoSuffix + oldSuffix}, rest)
		})
	}, func(p string) {
		mu.Lock()
		defer mu.Unlock()
		if !slices.Contains(changed, p) {
			changed = append(changed, p)
			l.u.warn(fmt.Sprintf("/%s changes while it is copied: the copy may be a mix of both", p))
		}
	})
	if err != nil {
		return err
	}
	o := build.Options{Board: l.board, Media: l.liveNames(), Sizes: map[string]int64{}, Vars: map[string]string{}, Inputs: map[string]string{"rootfs": "live"},
		Root: &source.Root{Tree: root, Digest: outline(root), Origin: "live"}, Time: l.when, TempDir: os.Getenv("TMPDIR"), Warn: l.u.warn, Phases: l.u.phases, Compression: "zstd"}
	o.Opener = source.NewOpener(source.Options{Arch: l.board.Arch, ModTime: l.when, Unpacked: &l.u.unpacked})
	defer o.Opener.Close()
	if l.opt.keepKeys {
		o.Flags = map[string]bool{"keep-registration-keys": true}
	}
	used := slices.Concat(l.board.Conf.Require, l.board.Conf.Forbid, l.board.Conf.Devices)
	for _, key := range slices.Sorted(maps.Keys(l.conf)) {
		if slices.Contains(used, key) {
			continue
		}
		if err := applyValue(&o, key, l.conf[key], l.u); err != nil {
			return fmt.Errorf("%s: %s: %w", l.opt.conf, key, err)
		}
	}
	for _, key := range l.board.Conf.Require {
		o.Allow = append(o.Allow, listOf(l.conf[key])...)
	}
	for _, s := range l.stages {
		o.Sizes[s.medium] = s.disk.Size / 512 * 512
	}
	if l.build, err = build.Build(ctx, o); err != nil {
		return err
	}
	for _, img := range l.build.Images {
		i := slices.IndexFunc(l.stages, func(s *station) bool { return s.medium == img.Manifest.Medium })
		s := l.stages[i]
		s.pic = volume.FromImage("the "+s.medium+" made of "+l.root, img.Image, img.Manifest)
		if err := s.compose(l.board, nil, nil); err != nil {
			return err
		}
		s.there = s.marks(l.board)
		m := s.there
		l.todo.Build = img.Manifest.BuildID
		switch other := m.id != "" && m.id != l.own.NodeID || m.vsn != "" && m.vsn != l.own.VSN; {
		case other && !l.opt.again:
			return &disk.RefusedError{Disk: s.disk.Path, Reason: fmt.Sprintf("%s, and is another unit's: pass --reprovision to lose what is on it", m.what())}
		case m.done:
			l.log("%s: lost is what is on it: %s", s.disk.Path, m.what())
		}
	}
	suffix := "." + time.Now().Format("20060102-150405") + ".bck"
	final := l.build.Trees[l.board.Live.Tree].Without(func(p string) bool { return slices.Contains(state, "/"+p) })
	if l.todo.Changes, err = changes(root, final, l.board.Live.Last, suffix); err != nil {
		return err
	}
	l.todo.Disks = map[string]string{}
	return nil
}

// outline tells trees apart by all but what is in their files, which takes long to
// read.
func outline(t *tree.Tree) string {
	h := sha256.New()
	for p, n := range t.All() {
		fmt.Fprintf(h, "%q %o %d %d %d %q %d\n", p, n.Mode, n.UID, n.GID, n.ModTime, n.Target, n.Size())
	}
	return hex.EncodeToString(h.Sum(nil))
}

// media writes the disks that are not done, and then what is left to do.
func (l *live) media(ctx context.Context, done map[int]bool, whole *unitReceipt) error {
	for i, s := range l.stages {
		m := l.board.Live.Media[i]
		// Of a step that was done the disk must say so.
		if !done[m.Step] || !s.there.done && s.hasState() {
			if err := writeStations(ctx, []*station{s}, whole, l.opt.stall, l.u); err != nil {
				return err
			}
		}
		guid, err := diskGUID(s.disk)
		if err != nil {
			return err
		}
		l.todo.Disks[s.medium] = guid
		if i == len(l.stages)-1 {
			text, err := json.Marshal(l.todo)
			if err != nil {
				return err
			}
			if err := l.fs.replaceFile(l.board.State.Paths[0]+todoSuffix, text, 0o600); err != nil {
				return err
			}
		}
		if err := l.step(m.Step); err != nil {
			return err
		}
	}
	return nil
}

func (s *station) hasState() bool {
	for _, part := range s.pic.Manifest.Partitions {
		if part.State != "" {
			return true
		}
	}
	return false
}

func diskGUID(dev *disk.Disk) (string, error) {
	d, err := disk.OpenRead(dev)
	if err != nil {
		return "", err
	}
	defer d.Close()
	table, err := partition.Read(d, tableSector(dev))
	if err != nil {
		return "", fmt.Errorf("%s: %w", dev.Path, err)
	}
	if table.GPT == nil {
		return "", fmt.Errorf("%s: its partition table is an MBR, which has no GUID", dev.Path)
	}
	return table.GPT.GUID, nil
}

// sameDisks looks whether the media are those that were made.
func (l *live) sameDisks() error {
	for _, s := range l.stages {
		if guid, err := diskGUID(s.disk); err != nil || guid != l.todo.Disks[s.medium] {
			return &disk.RefusedError{Disk: s.disk.Path, Reason: fmt.Sprintf("it is not the %s that was made of this root, parts of which are nowhere else: put that one back", s.medium)}
		}
	}
	return nil
}

// free looks whether something is mounted below what is to be moved or removed.
func (l *live) free() error {
	mounts, err := mountinfo.GetMounts(nil)
	if errors.Is(err, errors.ErrUnsupported) || err != nil && os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	root, err := filepath.Abs(l.root)
	if err == nil {
		root, err = filepath.EvalSymlinks(root)
	}
	if err != nil {
		return err
	}
	for _, c := range l.todo.Changes {
		if c.Link != "" || !c.Remove && c.Mode&tree.TypeMask == tree.Dir {
			continue
		}
		at := filepath.Join(root, c.Path)
		for _, m := range mounts {
			if m.Mountpoint == at || strings.HasPrefix(m.Mountpoint, at+"/") {
				return &disk.RefusedError{Disk: at, Reason: m.Mountpoint + " is mounted, and is to be moved or replaced: unmount it first"}
			}
		}
	}
	return nil
}

// change does what is left to do in the root, what switches the boot over at the end.
func (l *live) change(ctx context.Context) error {
	if err := l.free(); err != nil {
		return err
	}
	last := func(c change) bool { return slices.Contains(l.board.Live.Last, "/"+c.Path) }
	noted := false
	note := func() error {
		noted = true
		for n := 2; n < len(l.board.State.Steps); n++ {
			if err := l.step(n); err != nil {
				return err
			}
		}
		return nil
	}
	for _, c := range l.todo.Changes {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if last(c) && !noted {
			if err := note(); err != nil {
				return err
			}
		}
		if err := c.make(l.fs); err != nil {
			return err
		}
		l.journal(journal.PriInfo, "changed /"+c.Path)
	}
	if err := note(); err != nil {
		return err
	}
	if err := l.step(len(l.board.State.Steps)); err != nil {
		return err
	}
	return l.fs.remove(l.board.State.Paths[0] + todoSuffix)
}

func readTodo(root *rooted, p string) (*todo, error) {
	at := root.path(p)
	text, err := root.readFile(p)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &disk.RefusedError{Disk: at, Reason: "it is not there, and the state file says that the media are made: remove the state file and start over"}
	}
	if err != nil {
		return nil, err
	}
	t := &todo{}
	if err := json.Unmarshal(text, t); err != nil {
		return nil, &disk.RefusedError{Disk: at, Reason: fmt.Sprintf("it is damaged (%v): remove it and the state file, and start over", err)}
	}
	for _, c := range t.Changes {
		for _, p := range []string{c.Path, c.Link, c.Backup} {
			if p != "" && (!fs.ValidPath(p) || p == ".") || c.Path == "" {
				return nil, &disk.RefusedError{Disk: at, Reason: fmt.Sprintf("it is damaged: %q is not a path: remove it and the state file, and start over", p)}
			}
		}
	}
	return t, nil
}

func confirmLive(ctx context.Context, l *live) error {
	var lines []string
	for _, s := range l.stages {
		lines = append(lines, sanitize.Sprintf("%s to %s", describePicture(s.plan), describeDisk(s.disk)))
	}
	ok, err := l.u.ask(ctx, fmt.Sprintf("Write %s,\nand lock %s down.\nEverything on the disks will be lost.", strings.Join(lines, "\nand "), sanitize.Line(l.root)))
	if err == nil && !ok {
		err = &disk.RefusedError{Disk: l.root, Reason: "not provisioned: the answer was not yes"}
	}
	return err
}

// stop stops what writes to folders that are moved, and says whether anything ran.
// Nobody starts it again: the unit reboots, or is provisioned again.
func (l *live) stop(ctx context.Context) (stopped bool, err error) {
	if _, err := os.Stat("/run/systemd/system"); err != nil || l.opt.root != "" || len(l.board.Live.Stop) == 0 {
		return false, nil
	}
	bus, err := dbus.NewSystemConnectionContext(ctx)
	if err != nil {
		return false, fmt.Errorf("stopping %s: %w", strings.Join(l.board.Live.Stop, ", "), err)
	}
	defer bus.Close()
	for _, name := range l.board.Live.Stop {
		state, err := bus.GetUnitPropertyContext(ctx, name, "ActiveState")
		if err != nil {
			return stopped, fmt.Errorf("stopping %s: %w", name, err)
		}
		if now, _ := state.Value.Value().(string); now == "inactive" || now == "failed" {
			continue
		}
		ended := make(chan string, 1)
		if _, err := bus.StopUnitContext(ctx, name, "replace", ended); err != nil {
			return stopped, fmt.Errorf("stopping %s: %w", name, err)
		}
		select {
		case how := <-ended:
			if how != "done" && how != "skipped" {
				return stopped, fmt.Errorf("stopping %s: it ended as %s", name, how)
			}
		case <-time.After(2 * time.Minute):
			return stopped, fmt.Errorf("stopping %s: it still runs after 2 minutes", name)
		case <-ctx.Done():
			return stopped, context.Cause(ctx)
		}
		stopped = true
		l.log("%s is stopped", name)
	}
	return stopped, nil
}

func reboot(ctx context.Context) error {
	bus, err := dbus.NewSystemConnectionContext(ctx)
	if err != nil {
		return fmt.Errorf("rebooting: %w: reboot by hand", err)
	}
	defer bus.Close()
	if _, err := bus.StartUnitContext(ctx, "reboot.target", "replace-irreversibly", nil); err != nil {
		return fmt.Errorf("rebooting: %w: reboot by hand", err)
	}
	return nil
}
