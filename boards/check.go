package boards

import (
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"

	"imgtool/image/boardinfo"
	"imgtool/image/sanitize"
	"imgtool/image/suggest"
)

var hexID = regexp.MustCompile(`^[0-9a-f]{4}$`)

func (b *Board) check() error {
	switch {
	case !boardinfo.GoodName(b.Name):
		return fmt.Errorf("name is %q; it must be %s", b.Name, boardinfo.NameRule)
	case b.Arch == "":
		return errors.New("arch is missing")
	case len(b.Media) == 0:
		return errors.New("no [[medium]]")
	}
	if !sanitize.IsLine(b.Description) {
		return fmt.Errorf("description is %q: it must be one line of printable characters", b.Description)
	}
	if sanitize.Text(b.AfterFlash) != b.AfterFlash {
		return fmt.Errorf("after-flash is %q: it must have no other control characters than line ends and tabs", b.AfterFlash)
	}
	for _, check := range []func() error{b.checkTrees, b.checkConf, b.checkKinds, b.checkLive, b.checkUnit, b.checkMedia, b.checkBoot, b.checkRecovery, b.checkStarter, b.checkRAUC} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (b *Board) checkMedia() error {
	seen, deferred := map[string]bool{}, ""
	for _, m := range b.Media {
		if err := (boardinfo.Medium{Name: m.Name, Kind: m.Kind}).Check(); err != nil {
			return err
		}
		if seen[m.Name] {
			return fmt.Errorf("two media have the name %s", m.Name)
		}
		seen[m.Name] = true
		if m.Layout.Repart() != nil {
			if deferred != "" {
				return fmt.Errorf("media %s and %s both have deferred partitions: only one medium can", deferred, m.Name)
			}
			deferred = m.Name
		}
		for _, blob := range m.Blobs {
			switch {
			case blob.Input == "rootfs":
				return errors.New("a blob cannot be the input rootfs, which is the root file system")
			case blob.Input == "" || blob.Sector < 1:
				return fmt.Errorf("a blob of medium %q needs an input and a sector from 1 on", m.Name)
			}
		}
	}
	return nil
}

// checkBoot checks the files on the boot partitions, the script and the seed included.
func (b *Board) checkBoot() error {
	if (b.Script.Path == "") != (b.Script.Text == "") {
		return errors.New("[script] needs both path and text")
	}
	if by := b.Script.SlotSelect; by != "" && !slices.Contains(SlotSelects, by) {
		return fmt.Errorf("[script]: %s", suggest.Unknown("slot-select", by, SlotSelects))
	}
	if b.Verity && !strings.Contains(b.Script.Text, VerityMark) {
		return fmt.Errorf("verity needs a boot script with %s among the kernel's arguments, which is replaced by the root hash", VerityMark)
	}
	if b.Seed.Path != "" && b.Seed.Without != "" {
		return errors.New("[seed] has both a path and a reason for having none")
	}
	if err := boardinfo.CheckSeedFormat(b.Seed.Format); err != nil {
		return err
	}
	paths := map[string]bool{}
	add := func(path string) error {
		if strings.HasPrefix(path, "/") || !fs.ValidPath(path) || path == "." {
			return fmt.Errorf("%q is not a path on a boot partition", path)
		}
		lower := strings.ToLower(path)
		if paths[lower] {
			return fmt.Errorf("the boot partition has two files %s", path)
		}
		paths[lower] = true
		return nil
	}
	for _, f := range b.Boot {
		switch f.Input {
		case "rootfs":
			return fmt.Errorf("the file %q on the boot partition cannot be the input rootfs, which is the root file system", f.Path)
		case "":
			return fmt.Errorf("the file %q on the boot partition needs an input", f.Path)
		}
		if err := add(f.Path); err != nil {
			return err
		}
	}
	for _, path := range []string{b.Script.Path, b.Seed.Path} {
		if path != "" {
			if err := add(path); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *Board) checkRecovery() error {
	media := b.MediaNames()
	for _, u := range b.Recovery.USB {
		if u.Medium != "" && !slices.Contains(media, u.Medium) || u.Medium == "" && len(media) > 1 {
			return fmt.Errorf("[[recovery.usb]]: %s", suggest.Unknown("medium", u.Medium, media))
		}
		if !hexID.MatchString(u.VendorID) || slices.ContainsFunc(u.ProductIDs, func(id string) bool { return !hexID.MatchString(id) }) {
			return fmt.Errorf("[[recovery.usb]] has the IDs %q and %q; each must be four lower-case hexadecimal digits", u.VendorID, u.ProductIDs)
		}
		for _, pattern := range []string{u.Manufacturer, u.Product, u.Vendor, u.Model, u.Rev} {
			if _, err := regexp.Compile(pattern); err != nil {
				return fmt.Errorf("[[recovery.usb]]: %w", err)
			}
		}
	}
	return b.Recovery.checkCommands(b.Inputs())
}

func (b *Board) checkStarter() error {
	if by := b.Starter.SlotSelect; by != "" && !slices.Contains(SlotSelects, by) {
		return fmt.Errorf("[starter]: %s", suggest.Unknown("slot-select", by, SlotSelects))
	}
	for _, p := range b.Starter.Programs {
		if p.Package == "" || !fs.ValidPath(p.Path) || p.In != "initrd" && p.In != "rootfs" {
			return fmt.Errorf("[[starter.program]] %q needs a package, a path such as usr/bin/NAME, and in = \"initrd\" or \"rootfs\"", p.Path)
		}
		if p.If != "" && p.If != "verity" {
			return fmt.Errorf("[[starter.program]] %q: if = %q is not known; it can be \"verity\"", p.Path, p.If)
		}
	}
	inputs := b.Inputs()
	for name := range b.Starter.Inputs {
		if name != "rootfs" && !slices.Contains(inputs, name) {
			return fmt.Errorf("[starter.inputs] has %q, which the board does not use; it uses %s", name, strings.Join(inputs, ", "))
		}
	}
	return nil
}

func (b *Board) checkTrees() error {
	known := map[string]bool{"rootfs": true, "": true}
	for _, t := range b.Trees {
		switch {
		case !boardinfo.GoodName(t.Name):
			return fmt.Errorf("a tree's name is %q; it must be %s", t.Name, boardinfo.NameRule)
		case known[t.Name]:
			return fmt.Errorf("two trees have the name %s", t.Name)
		case !known[t.From]:
			return fmt.Errorf("tree %s is made from %q, which is not a tree before it", t.Name, t.From)
		}
		for _, s := range t.Steps {
			if s.Profile != "" && !slices.Contains(Profiles, s.Profile) {
				return fmt.Errorf("tree %s: %s", t.Name, suggest.Unknown("profile", s.Profile, Profiles))
			}
			if _, err := b.Partition(s.Partition); s.Partition != "" && err != nil {
				return fmt.Errorf("tree %s: %w", t.Name, err)
			}
		}
		known[t.Name] = true
	}
	for _, m := range b.Media {
		for _, p := range m.Layout.Partitions {
			if p.Tree == "rootfs" || !known[p.Tree] {
				return fmt.Errorf("partition %s of medium %s: %s", p.Name, m.Name, suggest.Unknown("tree", p.Tree, b.treeNames()))
			}
		}
	}
	return nil
}

func (b *Board) checkLive() error {
	l, steps := b.Live, map[int]bool{}
	if l.Tree == "" {
		return nil
	}
	if !slices.Contains(b.treeNames(), l.Tree) {
		return fmt.Errorf("[live]: %s", suggest.Unknown("tree", l.Tree, b.treeNames()))
	}
	if len(b.State.Paths) == 0 || len(b.State.Steps) < 2 {
		return errors.New("[live] needs [state] with paths and steps")
	}
	for _, m := range l.Media {
		if !slices.Contains(b.MediaNames(), m.Name) {
			return fmt.Errorf("[[live.medium]]: %s", suggest.Unknown("medium", m.Name, b.MediaNames()))
		}
		if m.Step < 2 || m.Step >= len(b.State.Steps) || steps[m.Step] {
			return fmt.Errorf("[[live.medium]] %s has the step %d; it must be from 2 to %d, and be used once", m.Name, m.Step, len(b.State.Steps)-1)
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
