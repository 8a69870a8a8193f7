package factory

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"imgtool/boards"
	"imgtool/flash/deploy"
	"imgtool/flash/disk"
	"imgtool/image/build"
	"imgtool/image/edit"
	"imgtool/image/fault"
	"imgtool/image/source"
	"imgtool/image/tree"
	"imgtool/image/tree/hostfs"
	"imgtool/image/volume"
)

// check checks the files and devices that the configuration names, and finds the disks and
// the unit's values. Files are not checked once the root may have been changed.
func (l *live) check(files bool) error {
	if err := l.checkConf(files); err != nil {
		return err
	}
	for _, name := range LiveMedia(l.board) {
		i := slices.IndexFunc(l.board.Media, func(m boards.Medium) bool { return m.Name == name })
		if err := l.findDisk(l.board.Media[i]); err != nil {
			return err
		}
	}
	l.receipt.Values = map[string]string{}
	for _, f := range l.board.Unit.Files {
		if v, ok := l.board.Unit.Holds(f); ok {
			text, _ := l.fs.readFile(f.Path)
			l.receipt.Values[v.Name] = strings.TrimSpace(string(text))
		}
	}
	return nil
}

func (l *live) checkConf(files bool) error {
	var errs []error
	each := func(keys []string, check func(key, value string) error) {
		for _, key := range keys {
			for _, value := range l.opt.Conf[key].Items() {
				errs = append(errs, check(key, value))
			}
		}
	}
	c, name := l.board.Conf, l.opt.ConfName
	if files {
		each(c.Require, func(key, p string) error {
			if at, err := l.fs.resolve(p); err == nil {
				if info, err := l.fs.Lstat(at); err == nil && info.Mode().IsRegular() && info.Size() > 0 {
					return nil
				}
			}
			return fmt.Errorf("%s is missing or empty, and %s of %s requires it: the unit must be registered first", l.fs.path(p), key, name)
		})
		each(c.Forbid, func(key, p string) error {
			if !l.fs.exists(p) {
				return nil
			}
			return fmt.Errorf("%s exists, and %s of %s forbids it: it is deleted when the unit has registered", l.fs.path(p), key, name)
		})
	}
	each(c.Devices, func(key, dev string) error {
		info, err := os.Stat(dev)
		if err == nil && info.Mode()&fs.ModeDevice != 0 || slices.ContainsFunc(l.board.Media, func(m boards.Medium) bool { return m.Device == dev }) {
			return nil
		}
		return fmt.Errorf("%s is not a device, and %s of %s requires it", dev, key, name)
	})
	return errors.Join(errs...)
}

// findDisk finds the disk of a medium: the one given, or the board's own.
func (l *live) findDisk(m boards.Medium) error {
	d, err := deploy.Find(cmp.Or(l.opt.Disks[m.Name], m.Device))
	if err != nil {
		return err
	}
	for _, other := range l.media {
		if d.Same(other.disk) {
			return fault.New(fault.Usage, "%s and %s are one disk", other.disk.Path, d.Path)
		}
	}
	need := disk.Need{Floor: int64(m.Layout.MinDisk), Who: l.board.Name, SectorSize: 512}
	if d.Fixed() { // the board's disks are internal ones
		need.Fixed, need.Serial = true, cmp.Or(d.Serial, d.WWN)
	}
	if err := d.Check(need); err != nil {
		return err
	}
	l.media = append(l.media, &medium{name: m.Name, kind: m.Kind, disk: d})
	return nil
}

// plan reads the root, and plans the images of the media and the changes to the root.
func (l *live) plan(ctx context.Context) error {
	root, err := l.readRoot()
	if err != nil {
		return err
	}
	o, err := l.buildOptions(root)
	if err != nil {
		return err
	}
	defer o.Opener.Close()
	if l.build, err = build.Build(ctx, o); err != nil {
		return err
	}
	for _, img := range l.build.Images {
		i := slices.IndexFunc(l.media, func(m *medium) bool { return m.name == img.Manifest.Medium })
		m := l.media[i]
		m.src = volume.FromImage("the "+m.name+" made of "+l.opt.Root, img.Image, img.Manifest)
		if err := m.compose(nil, ""); err != nil {
			return err
		}
		m.status = ReadStatus(m.disk, img.Manifest, &l.board.Unit)
		l.journal.Build = img.Manifest.BuildID
		switch s := m.status; {
		case s.isForAnother(l.receipt.Values) && !l.opt.Reprovision:
			return &disk.RefusedError{Disk: m.disk.Path, Reason: s.String() + ", and belongs to another unit: pass --reprovision to lose what is on it"}
		case s.Done:
			l.log("%s: its content will be lost: %s", m.disk.Path, s)
		}
	}
	suffix := "." + time.Now().Format("20060102-150405") + ".bck"
	final := l.build.Trees[l.board.Live.Tree].Without(func(p string) bool { return slices.Contains(l.board.State.Paths, "/"+p) })
	l.journal.Disks = map[string]string{}
	l.journal.Changes, err = changes(root, final, l.board.Live.Last, suffix)
	return err
}

// readRoot reads the root without what only a running system has there, and the journal.
func (l *live) readRoot() (*tree.Tree, error) {
	var changed sync.Map // paths
	skip := func(p string) bool {
		if slices.ContainsFunc(edit.Live, func(pattern string) bool { ok, _ := path.Match(pattern[1:], p); return ok }) {
			return true
		}
		return slices.ContainsFunc(l.board.State.Paths, func(s string) bool {
			rest, ok := strings.CutPrefix("/"+p, s)
			return ok && slices.Contains([]string{"", todoSuffix, newSuffix, oldSuffix, todoSuffix + newSuffix, todoSuffix + oldSuffix}, rest)
		})
	}
	return hostfs.ReadLive(l.opt.Root, l.opt.Time, skip, func(p string) {
		if _, again := changed.LoadOrStore(p, true); !again {
			l.opt.Monitor.Warnf("/%s changes while it is copied: the copy may be a mix of both", p)
		}
	})
}

// buildOptions returns how the media are made from the root. Its opener must be closed.
func (l *live) buildOptions(root *tree.Tree) (build.Options, error) {
	m := l.opt.Monitor
	o := build.Options{Board: l.board, Media: LiveMedia(l.board), Sizes: map[string]int64{}, Vars: map[string]string{}, Inputs: map[string]string{"rootfs": "live"},
		Root: &source.Root{Tree: root, Digest: outline(root), Origin: "live"}, Time: l.opt.Time, TempDir: l.opt.TempDir,
		Warn: func(text string) { m.Warnf("%s", text) }, Phases: m.Phase, Compression: "zstd", Flags: l.opt.Enabled}
	used := slices.Concat(l.board.Conf.Require, l.board.Conf.Forbid, l.board.Conf.Devices)
	for _, key := range slices.Sorted(maps.Keys(l.opt.Conf)) {
		if slices.Contains(used, key) {
			continue
		}
		if err := o.ApplySetting(key, l.opt.Conf[key]); err != nil {
			return o, fmt.Errorf("%s: %s: %w", l.opt.ConfName, key, err)
		}
	}
	for _, key := range l.board.Conf.Require {
		o.Allow = append(o.Allow, l.opt.Conf[key].Items()...)
	}
	for _, m := range l.media {
		o.Sizes[m.name] = m.disk.Size / 512 * 512
	}
	o.Opener = source.NewOpener(source.Options{Arch: l.board.Arch, ModTime: l.opt.Time, Unpacked: l.opt.Scratch})
	return o, nil
}

// outline returns a digest of a tree without the content of files, which takes long to read.
func outline(t *tree.Tree) string {
	h := sha256.New()
	for p, n := range t.All() {
		fmt.Fprintf(h, "%q %o %d %d %d %q %d\n", p, n.Mode, n.UID, n.GID, n.ModTime, n.Target, n.Size())
	}
	return hex.EncodeToString(h.Sum(nil))
}
