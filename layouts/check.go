package layouts

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf16"

	"imgtool/image/suggest"
)

func (l *Layout) check() error {
	switch {
	case l.Name == "":
		return errors.New("name is missing")
	case l.SectorSize != 512:
		return fmt.Errorf("sector-size is %d; it must be 512", l.SectorSize)
	case len(l.Partitions) == 0:
		return errors.New("no [[partition]]")
	}
	l.Align = cmp.Or(l.Align, MiB)
	switch {
	case l.Align%512 != 0 || l.FirstUsable%l.Align != 0:
		return fmt.Errorf("align is %s; it must be whole sectors, and first-usable a multiple of it", l.Align)
	case l.MinDisk != 0 && l.Disk < l.MinDisk:
		return fmt.Errorf("disk is %s, less than min-disk with %s", l.Disk, l.MinDisk)
	}
	names, numbers := map[string]bool{}, map[int]string{}
	for i, p := range l.Partitions {
		err := p.check()
		switch last := i == len(l.Partitions)-1; {
		case err != nil:
		case names[p.Name]:
			err = errors.New("another partition has this name")
		case numbers[p.Number] != "":
			err = fmt.Errorf("number %d belongs to %s", p.Number, numbers[p.Number])
		default:
			err = l.checkPlace(p, last)
		}
		if err != nil {
			return fmt.Errorf("partition %d (%s): %w", i+1, p.Name, err)
		}
		names[p.Name], numbers[p.Number] = true, p.Name
	}
	for _, slots := range []string{"a", "ab"} {
		if _, err := l.Place(slots, 0); err != nil {
			return err
		}
	}
	return nil
}

// check checks a partition without its neighbours.
func (p *Partition) check() error {
	switch {
	case p.Name == "":
		return errors.New("name is missing")
	case len(utf16.Encode([]rune(p.Name))) > 36:
		return errors.New("the name has more than 36 characters")
	case strings.ContainsAny(p.Name, "/:") || strings.ContainsFunc(p.Name, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		return errors.New("the name has a space, slash or colon")
	case p.Number < 1 || p.Number > 128:
		return fmt.Errorf("number is %d; it must be 1 to 128", p.Number)
	case Types[p.Type] == "":
		return errors.New(suggest.Unknown("type", p.Type, slices.Sorted(maps.Keys(Types))))
	case p.Content != "" && !slices.Contains(Contents, p.Content):
		return errors.New(suggest.Unknown("content", p.Content, Contents))
	case p.Tree != "" && p.Content != "ext4":
		return errors.New("tree is for content ext4 only")
	case (p.Input != "") != (p.Content == "input"):
		return errors.New("input is needed for content input, and is for that only")
	case p.Slot != "" && p.Slot != "a" && p.Slot != "b":
		return fmt.Errorf("unknown slot %q (known: a, b)", p.Slot)
	case p.Format != "" && (!p.Deferred || !slices.Contains(Formats, p.Format)):
		return fmt.Errorf("format is %q; it is for deferred partitions, and must be one of %s", p.Format, strings.Join(Formats, ", "))
	case len(p.Directories) > 0 && p.Format == "":
		return errors.New("directories need a format")
	case slices.ContainsFunc(p.Directories, func(dir string) bool { return !directoryPath.MatchString(dir) }):
		return fmt.Errorf("directories are %q; each must be a path such as /config", p.Directories)
	}
	return nil
}

func (l *Layout) checkPlace(p Partition, last bool) error {
	switch {
	case p.Offset%l.Align != 0 || p.Size%l.Align != 0:
		return fmt.Errorf("offset and size must be multiples of %s", l.Align)
	case p.Size == 0 && !last:
		return errors.New("size is missing: only the last partition can take the rest of the disk")
	case p.Size == 0 && !p.Deferred && l.Disk == 0:
		return errors.New("size is missing: the partition must be deferred, or the layout needs disk")
	case l.Disk != 0 && p.Deferred:
		return errors.New("a layout with disk has no deferred partitions")
	}
	return nil
}
