package layouts

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf16"
)

func (l *Layout) check() error {
	if l.Name == "" {
		return fmt.Errorf("name is missing")
	}
	if l.SectorSize != 512 {
		return fmt.Errorf("sector-size is %d; only 512 is known", l.SectorSize)
	}
	if len(l.Partitions) == 0 {
		return fmt.Errorf("there is no [[partition]]")
	}
	if l.Align == 0 {
		l.Align = MiB
	}
	if l.Align%512 != 0 || l.FirstUsable%l.Align != 0 {
		return fmt.Errorf("align is %s; it must be whole sectors, and first-usable a multiple of it", l.Align)
	}
	if l.MinDisk != 0 && l.Disk < l.MinDisk {
		return fmt.Errorf("disk is %s, less than min-disk with %s", l.Disk, l.MinDisk)
	}
	names, numbers := map[string]bool{}, map[int]string{}
	for i, p := range l.Partitions {
		fault := func(format string, args ...any) error {
			return fmt.Errorf("partition %d (%s): %s", i+1, p.Name, fmt.Sprintf(format, args...))
		}
		switch {
		case p.Name == "":
			return fault("name is missing")
		case len(utf16.Encode([]rune(p.Name))) > 36:
			return fault("a name has at most 36 characters")
		case strings.ContainsAny(p.Name, "/:") || strings.ContainsFunc(p.Name, func(r rune) bool { return r <= ' ' || r == 0x7f }):
			return fault("a name has no spaces, slashes or colons")
		case names[p.Name]:
			return fault("there are two of this name")
		case p.Number < 1 || p.Number > 128:
			return fault("number is %d; it must be 1 to 128", p.Number)
		case numbers[p.Number] != "":
			return fault("number %d is %s's already", p.Number, numbers[p.Number])
		case Types[p.Type] == "":
			return fault("type %q is not known; there are %s", p.Type, strings.Join(typeNames(), ", "))
		case p.Content != "" && !slices.Contains(Contents, p.Content):
			return fault("content %q is not known; there are %s", p.Content, strings.Join(Contents, ", "))
		case p.Tree != "" && p.Content != "ext4":
			return fault("only content ext4 has a tree")
		case (p.Input != "") != (p.Content == "input"):
			return fault("content input needs an input, and nothing else has one")
		case p.Slot != "" && p.Slot != "a" && p.Slot != "b":
			return fault("slot %q is not known; there are a, b", p.Slot)
		case p.Offset%l.Align != 0 || p.Size%l.Align != 0:
			return fault("offset and size must be multiples of %s", l.Align)
		case p.Format != "" && (!p.Late || !slices.Contains(Formats, p.Format)):
			return fault("format %q is for a late one, and one of %s", p.Format, strings.Join(Formats, ", "))
		case len(p.Folders) > 0 && p.Format == "":
			return fault("folders are for one with a format")
		case slices.ContainsFunc(p.Folders, func(folder string) bool { return !folderName.MatchString(folder) }):
			return fault("folders are %q; each must be a path such as /config", p.Folders)
		case p.Size == 0 && i < len(l.Partitions)-1:
			return fault("only the last one can take what is left: give it a size")
		case p.Size == 0 && !p.Late && l.Disk == 0:
			return fault("one that takes what is left must be late, or the layout needs disk")
		case l.Disk != 0 && p.Late:
			return fault("a layout with disk has no late ones")
		}
		names[p.Name], numbers[p.Number] = true, p.Name
	}
	_, err := l.Place("a", 0)
	if err == nil {
		_, err = l.Place("ab", 0)
	}
	return err
}
