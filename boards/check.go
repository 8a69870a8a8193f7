package boards

import (
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"

	"imgtool/image/boardinfo"
)

var hexID = regexp.MustCompile(`^[0-9a-f]{4}$`)

var goodName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)

func (b *Board) check() error {
	switch {
	case !goodName.MatchString(b.Name):
		return fmt.Errorf("name is %q; it must be 1 to 64 lower-case letters, digits and any of - . _", b.Name)
	case b.Arch == "":
		return errors.New("arch is missing")
	case len(b.Media) == 0:
		return errors.New("there is no [[medium]]")
	case (b.Script.Path == "") != (b.Script.Text == ""):
		return errors.New("[script] needs both path and text")
	}
	if err := b.checkTrees(); err != nil {
		return err
	}
	media, late := map[string]bool{}, ""
	for _, m := range b.Media {
		if err := (boardinfo.Medium{Name: m.Name, Kind: m.Kind}).Check(); err != nil {
			return err
		}
		if media[m.Name] {
			return fmt.Errorf("there are two media %s", m.Name)
		}
		media[m.Name] = true
		if m.Placing.Repart() != nil {
			if late != "" {
				return fmt.Errorf("media %s and %s both leave partitions to the device: one at most can", late, m.Name)
			}
			late = m.Name
		}
		for _, blob := range m.Blobs {
			if blob.Input == "rootfs" {
				return errors.New("a blob cannot be the input rootfs: that is the root file system")
			}
			if blob.Input == "" || blob.Sector < 1 {
				return fmt.Errorf("a blob of medium %q needs an input and a sector from 1 on", m.Name)
			}
			if err := checkKind(blob.Input, blob.Kind); err != nil {
				return err
			}
		}
	}
	paths := map[string]bool{}
	taken := func(path string) error {
		if path == "" || strings.HasPrefix(path, "/") || !fs.ValidPath(path) || path == "." {
			return fmt.Errorf("%q is no path on a boot partition", path)
		}
		if lower := strings.ToLower(path); paths[lower] {
			return fmt.Errorf("the boot partition has two files %s", path)
		} else {
			paths[lower] = true
		}
		return nil
	}
	for _, f := range b.Boot {
		if f.Input == "rootfs" {
			return fmt.Errorf("the file %q on the boot partition cannot be the input rootfs: that is the root file system", f.Path)
		}
		if f.Input == "" {
			return fmt.Errorf("the file %q on the boot partition needs an input", f.Path)
		}
		if err := errors.Join(taken(f.Path), checkKind(f.Input, f.Kind)); err != nil {
			return err
		}
	}
	if b.Seed.Path != "" && b.Seed.Without != "" {
		return errors.New("[seed] has a path, and says why there is none")
	}
	if err := boardinfo.CheckSeedFormat(b.Seed.Format); err != nil {
		return err
	}
	for _, path := range []string{b.Script.Path, b.Seed.Path} {
		if path != "" {
			if err := taken(path); err != nil {
				return err
			}
		}
	}
	for _, u := range b.Recovery.USB {
		if u.Medium != "" && !media[u.Medium] || u.Medium == "" && len(b.Media) > 1 {
			return fmt.Errorf("[[recovery.usb]] is for the medium %q; there are %s", u.Medium, strings.Join(b.MediaNames(), ", "))
		}
		if !hexID.MatchString(u.VendorID) || slices.ContainsFunc(u.ProductIDs, func(id string) bool { return !hexID.MatchString(id) }) {
			return fmt.Errorf("[[recovery.usb]] has the ids %q and %q; each must be four lower-case hexadecimal digits", u.VendorID, u.ProductIDs)
		}
		for _, pattern := range []string{u.Manufacturer, u.Product, u.Vendor, u.Model, u.Rev} {
			if _, err := regexp.Compile(pattern); err != nil {
				return fmt.Errorf("[[recovery.usb]]: %w", err)
			}
		}
	}
	known := map[string]bool{"rootfs": true}
	for _, name := range b.Inputs() {
		known[name] = true
	}
	if err := b.Recovery.check(b.Inputs()); err != nil {
		return err
	}
	for _, by := range []string{b.Script.SlotSelect, b.Starter.SlotSelect} {
		if by != "" && !slices.Contains(SlotSelects, by) {
			return fmt.Errorf("slot-select is %q; there are %s", by, strings.Join(SlotSelects, ", "))
		}
	}
	for _, p := range b.Starter.Programs {
		if p.Package == "" || !fs.ValidPath(p.Path) || p.In != "initrd" && p.In != "rootfs" {
			return fmt.Errorf("[[starter.program]] %q needs a package, a path such as usr/bin/NAME, and in = \"initrd\" or \"rootfs\"", p.Path)
		}
	}
	for name := range b.Starter.Inputs {
		if !known[name] {
			return fmt.Errorf("[starter.inputs] has %q, which the board does not use; it uses %s", name, strings.Join(b.Inputs(), ", "))
		}
	}
	return nil
}

func (b *Board) checkTrees() error {
	known := map[string]bool{"rootfs": true, "": true}
	for _, t := range b.Trees {
		switch {
		case !goodName.MatchString(t.Name) || known[t.Name]:
			return fmt.Errorf("a tree's name is %q; it must be 1 to 64 lower-case letters, digits and any of - . _, and be there once", t.Name)
		case !known[t.From]:
			return fmt.Errorf("tree %s is from %q, and no tree before it is", t.Name, t.From)
		}
		for _, s := range t.Steps {
			if s.Profile != "" && !slices.Contains(Profiles, s.Profile) {
				return fmt.Errorf("tree %s: profile %q is not known; there are %s", t.Name, s.Profile, strings.Join(Profiles, ", "))
			}
		}
		known[t.Name] = true
	}
	for _, m := range b.Media {
		for _, p := range m.Placing.Partitions {
			if p.Tree == "rootfs" || !known[p.Tree] {
				return fmt.Errorf("partition %s of medium %s holds the tree %q, which there is not", p.Name, m.Name, p.Tree)
			}
		}
	}
	for _, t := range b.Trees {
		for _, s := range t.Steps {
			if _, err := b.Partition(s.Partition); s.Partition != "" && err != nil {
				return fmt.Errorf("tree %s: %w", t.Name, err)
			}
		}
	}
	if err := b.checkConf(); err != nil {
		return err
	}
	for _, o := range b.Optional {
		if err := checkKind(o.Input, o.Kind); err != nil {
			return err
		}
	}
	if err := b.checkLive(); err != nil {
		return err
	}
	return b.checkUnit()
}

func (b *Board) checkLive() error {
	l, steps := b.Live, map[int]bool{}
	if l.Tree == "" {
		return nil
	}
	if !slices.ContainsFunc(b.Trees, func(t Tree) bool { return t.Name == l.Tree }) {
		return fmt.Errorf("[live] has the tree %q, which there is not", l.Tree)
	}
	if len(b.State.Paths) == 0 || len(b.State.Steps) < 2 {
		return errors.New("[live] needs [state] with paths and steps")
	}
	for _, m := range l.Media {
		if !slices.Contains(b.MediaNames(), m.Name) {
			return fmt.Errorf("[[live.medium]] is %q; there are %s", m.Name, strings.Join(b.MediaNames(), ", "))
		}
		if m.Step < 2 || m.Step >= len(b.State.Steps) || steps[m.Step] {
			return fmt.Errorf("[[live.medium]] %s has the step %d; it must be one of its own from 2 to %d", m.Name, m.Step, len(b.State.Steps)-1)
		}
		steps[m.Step] = true
	}
	return nil
}

func (b *Board) checkUnit() error {
	if err := b.Unit.Check(); err != nil {
		return err
	}
	for _, place := range b.Unit.Places {
		p, err := b.Partition(place.Partition)
		switch {
		case err != nil:
			return fmt.Errorf("[[unit.place]]: %w", err)
		case p.Content != "ext4":
			return fmt.Errorf("[[unit.place]]: the content of %s is %q; it must be ext4", place.Partition, p.Content)
		case place.Only != "" && !slices.Contains(b.Options(), place.Only):
			return fmt.Errorf("[[unit.place]] %s: unknown option %q", place.Partition, place.Only)
		}
	}
	return nil
}
