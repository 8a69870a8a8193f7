package factory

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"imgtool/boards"
	"imgtool/flash/deploy"
	"imgtool/flash/disk"
	"imgtool/image/artifact"
	"imgtool/image/build"
	"imgtool/image/fault"
	"imgtool/image/sanitize"
	"imgtool/image/shconf"
	"imgtool/image/statefile"
	"imgtool/image/tree"
)

// LiveOptions are how a system is provisioned from its own root file system. Of the Options
// the images and the unit are not used: they come from the root.
type LiveOptions struct {
	Options

	Root     string // root directory; "/" is the running system
	ConfName string // name of the configuration, for messages
	Conf     map[string]shconf.Value
	Time     int64 // of everything made, seconds since 1970
	TempDir  string
	Reboot   bool // reboot when it is complete
}

// live is a system that is provisioned from its own root file system.
//
// First its other media are made from the root, which stays as it is. Then the changes to
// the root are written to a journal beside the state file, and only then made.
type live struct {
	*Factory
	opt     *LiveOptions
	board   *boards.Board
	fs      *rootDir
	build   *build.Result
	journal todo
}

// CheckRoot refuses a root that cannot be changed.
func CheckRoot(dir string) error {
	info, err := os.Stat(dir)
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("%s is not a directory", dir)
	}
	var st unix.Statfs_t
	if err == nil {
		err = unix.Statfs(dir, &st)
	}
	if err != nil {
		return fmt.Errorf("--root: %w", err)
	}
	const overlayfs = 0x794c7630 // Linux, include/uapi/linux/magic.h
	if dir == "/" && uint32(st.Type) == overlayfs {
		return &disk.RefusedError{Disk: dir, Reason: "it is an overlay, and changes to it would not be in the root file system: mount that read-write and name it with --root"}
	}
	return nil
}

// RunLive provisions a system from its own root file system. Options.Board must have a [live]
// section, see [LiveBoard], and its root must satisfy [CheckRoot].
func RunLive(ctx context.Context, opt LiveOptions) (err error) {
	l := &live{Factory: New(opt.Options), opt: &opt, board: opt.Board}
	root, err := os.OpenRoot(opt.Root)
	if err != nil {
		return fmt.Errorf("--root: %w", err)
	}
	l.fs = &rootDir{root}
	defer l.fs.Close()
	defer func() {
		if l.build != nil {
			l.build.Close()
		}
		if err != nil {
			l.toJournal(journal.PriErr, err.Error())
		}
	}()
	err = l.run(ctx)
	if err := l.conclude(ctx, err); err != nil || opt.DryRun {
		return err
	}
	name := strings.TrimSpace(l.board.Name + " " + nameIn(&l.board.Unit, l.receipt.Values))
	l.log("%s: provisioned, in %s", name, time.Since(l.begin).Round(100*time.Millisecond))
	if !opt.Reboot {
		l.log("it takes effect with the next boot")
		return nil
	}
	l.log("rebooting")
	return reboot(ctx)
}

// LiveBoard returns the built-in board that a configuration is for.
func LiveBoard(conf map[string]shconf.Value) (*boards.Board, error) {
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
			if v, ok := conf[f.Key]; ok && !slices.Equal(v.Items(), f.Is) {
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
	// Of the board that fits best, the settings that do not fit are reported later.
	if len(fit) == 1 {
		return fit[0], nil
	}
	return nil, fault.New(fault.Usage, "the configuration does not say which board it is for: pass --board NAME (%s)", strings.Join(boards.Names(), ", "))
}

// LiveMedia returns the names of the media that a board makes from its root.
func LiveMedia(b *boards.Board) (names []string) {
	for _, m := range b.Live.Media {
		names = append(names, m.Name)
	}
	return names
}

func (l *live) run(ctx context.Context) error {
	state := l.board.State.Paths[0]
	_, done, err := l.steps()
	if err != nil {
		return err
	}
	if done[len(l.board.State.Steps)] {
		// It may have been killed right after the last step.
		if !l.opt.DryRun {
			l.fs.removeFile(state + todoSuffix)
		}
		return &disk.RefusedError{Disk: l.fs.path(state), Reason: "the unit is provisioned: remove this file if you know that it is not"}
	}
	var found *todo // the journal, if the media are made
	if !slices.ContainsFunc(l.board.Live.Media, func(m boards.LiveMedium) bool { return !done[m.Step] }) {
		if found, err = readTodo(l.fs, state+todoSuffix); err != nil {
			return err
		}
	}
	if err := l.check(found == nil); err != nil {
		return err
	}
	if found != nil {
		l.journal = *found
		err = l.checkDisks()
	} else {
		err = l.plan(ctx)
	}
	if err != nil {
		return err
	}
	l.receipt.BuildID = l.journal.Build
	if l.opt.DryRun {
		if found == nil {
			l.dryRun()
		}
		for _, c := range l.journal.Changes {
			l.opt.Monitor.Infof("/%s would be changed", c.Path)
			l.receipt.Changes = append(l.receipt.Changes, "/"+c.Path)
		}
		return nil
	}
	// The disks of the running system itself are not asked about.
	if l.opt.Confirm != nil && found == nil && (l.opt.Root != "/" || len(l.opt.Disks) > 0) {
		question := fmt.Sprintf("Write %s,\nand lock %s down.\nEverything on the disks will be lost.", l.lines(), sanitize.Line(l.opt.Root))
		if err := l.opt.Confirm(ctx, question); err != nil {
			return err
		}
	}
	if err := l.quiesce(ctx, found == nil); err != nil {
		return err
	}
	if err := l.step(1); err != nil {
		return err
	}
	if found == nil {
		if err := l.writeMedia(ctx, done); err != nil {
			return err
		}
	}
	return l.changeRoot(ctx)
}

// quiesce stops what writes to the directories that are moved. If something was running,
// the plan is made again, as files may have changed until then.
func (l *live) quiesce(ctx context.Context, planned bool) error {
	stopped := false
	if l.opt.Root == "/" {
		var err error
		if stopped, err = stop(ctx, l.board.Live.Stop, l.log); err != nil {
			return err
		}
	}
	if err := l.checkMounts(); err != nil {
		return err
	}
	if stopped && planned {
		l.build.Close()
		return l.plan(ctx)
	}
	return nil
}

// steps returns the content of the state file, and the steps that are done according to it.
func (l *live) steps() (text []byte, done map[int]bool, err error) {
	path := l.board.State.Paths[0]
	text, err = l.fs.readFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	done = map[int]bool{}
	for _, e := range statefile.Parse(string(text)) {
		if e.Steps == len(l.board.State.Steps) {
			done[e.Step] = true
		}
	}
	if len(text) > 0 && len(done) == 0 {
		return nil, nil, &disk.RefusedError{Disk: l.fs.path(path), Reason: "it is not a known state file: remove it if the unit is not provisioned"}
	}
	return text, done, nil
}

// step adds a step to the state file, once.
func (l *live) step(n int) error {
	text, done, err := l.steps()
	if err != nil || done[n] {
		return err
	}
	paths, steps := l.board.State.Paths, l.board.State.Steps
	entry := statefile.Entry{Step: n, Steps: len(steps), Name: steps[n-1], Board: l.board.Name, Build: l.journal.Build}
	text = append(text, entry.Line(time.Now())...)
	if n == len(steps) {
		// Only the first file is read, so it is written last.
		for _, other := range slices.Backward(paths[1:]) {
			if err := l.fs.replaceFile(other, text, 0o644); err != nil {
				return err
			}
		}
	}
	if err := l.fs.replaceFile(paths[0], text, 0o644); err != nil {
		return err
	}
	l.log("%s", entry)
	return nil
}

// log informs the user and the system's journal.
func (l *live) log(format string, args ...any) {
	l.opt.Monitor.Infof(format, args...)
	l.toJournal(journal.PriNotice, fmt.Sprintf(format, args...))
}

func (l *live) toJournal(p journal.Priority, text string) {
	if journal.Enabled() {
		journal.Send(text, p, map[string]string{"SYSLOG_IDENTIFIER": l.board.Live.Log})
	}
}

// checkDisks refuses disks that the journal does not belong to.
func (l *live) checkDisks() error {
	for _, m := range l.media {
		if guid, err := deploy.GUID(m.disk); err != nil || guid != l.journal.Disks[m.name] {
			return &disk.RefusedError{Disk: m.disk.Path, Reason: fmt.Sprintf("it is not the %s that was made from this root, and has parts of it that are nowhere else: put that one back", m.name)}
		}
	}
	return nil
}

// checkMounts refuses mounts below paths that are moved or removed.
func (l *live) checkMounts() error {
	mounts, err := mountinfo.GetMounts(nil)
	if errors.Is(err, errors.ErrUnsupported) || err != nil && os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	root, err := filepath.Abs(l.opt.Root)
	if err == nil {
		root, err = filepath.EvalSymlinks(root)
	}
	if err != nil {
		return err
	}
	for _, c := range l.journal.Changes {
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

// writeMedia writes the disks that are not done, and then the journal.
func (l *live) writeMedia(ctx context.Context, done map[int]bool) error {
	hasState := func(p artifact.Partition) bool { return p.State != "" }
	for i, m := range l.media {
		step := l.board.Live.Media[i].Step
		// A disk that can say that it is done must say so.
		if !done[step] || !m.status.Done && slices.ContainsFunc(m.src.Manifest.Partitions, hasState) {
			if err := l.write(ctx, []*medium{m}); err != nil {
				return err
			}
		}
		guid, err := deploy.GUID(m.disk)
		if err != nil {
			return err
		}
		l.journal.Disks[m.name] = guid
		if i == len(l.media)-1 {
			if err := l.journal.write(l.fs, l.board.State.Paths[0]+todoSuffix); err != nil {
				return err
			}
		}
		if err := l.step(step); err != nil {
			return err
		}
	}
	return nil
}

// changeRoot makes the changes of the journal. All steps but the last are recorded before Live.Last.
func (l *live) changeRoot(ctx context.Context) error {
	if err := l.checkMounts(); err != nil {
		return err
	}
	next, steps := 2, len(l.board.State.Steps)
	record := func(until int) error {
		for ; next < until; next++ {
			if err := l.step(next); err != nil {
				return err
			}
		}
		return nil
	}
	for _, c := range l.journal.Changes {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if slices.Contains(l.board.Live.Last, "/"+c.Path) {
			if err := record(steps); err != nil {
				return err
			}
		}
		if err := c.make(l.fs); err != nil {
			return err
		}
		l.toJournal(journal.PriInfo, "changed /"+c.Path)
	}
	if err := record(steps + 1); err != nil {
		return err
	}
	return l.fs.removeFile(l.board.State.Paths[0] + todoSuffix)
}

// todo is the journal: what is left to do in the root after the other media were made.
type todo struct {
	Build   string            `json:"build_id"`
	Disks   map[string]string `json:"disks"` // GUIDs of the partition tables, by medium
	Changes []change          `json:"changes"`
}

// todoSuffix is added to the name of the state file.
const todoSuffix = ".todo"

func readTodo(root *rootDir, p string) (*todo, error) {
	const restart = "remove it and the state file, and start over"
	at := root.path(p)
	text, err := root.readFile(p)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &disk.RefusedError{Disk: at, Reason: "it is missing, and the state file says that the media are made: remove the state file and start over"}
	}
	if err != nil {
		return nil, err
	}
	t := &todo{}
	if err := json.Unmarshal(text, t); err != nil {
		return nil, &disk.RefusedError{Disk: at, Reason: fmt.Sprintf("it is damaged (%v): %s", err, restart)}
	}
	for _, c := range t.Changes {
		for _, p := range []string{c.Path, c.Link, c.Backup} {
			if p != "" && (!fs.ValidPath(p) || p == ".") || c.Path == "" {
				return nil, &disk.RefusedError{Disk: at, Reason: fmt.Sprintf("it is damaged: %q is not a path: %s", p, restart)}
			}
		}
	}
	return t, nil
}

// write writes the journal to a file that only root can read.
func (t *todo) write(root *rootDir, p string) error {
	text, err := json.Marshal(t)
	if err != nil {
		return err
	}
	return root.replaceFile(p, text, 0o600)
}
