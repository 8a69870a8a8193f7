// Package layouts is where things go on a disk: partitions as data, and the
// arithmetic that places them. It reads and writes nothing.
package layouts

import (
	"embed"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode/utf16"
)

//go:embed *.toml
var builtin embed.FS

// Layout is a partition table before it has met a disk.
type Layout struct {
	Name        string `toml:"name"`
	Description string `toml:"description"`
	SectorSize  int    `toml:"sector-size"`
	FirstUsable Bytes  `toml:"first-usable"`
	Align       Bytes  `toml:"align"` // what places and sizes are multiples of; 0 is 1 MiB
	Tail        Bytes  `toml:"tail"`  // left free after the last partition, where the layout fills no disk

	// Of a layout whose last partition fills the disk: how large it is, if nothing
	// else is said, and how large it has to be.
	Disk    Bytes `toml:"disk"`
	MinDisk Bytes `toml:"min-disk"`

	Partitions []Partition `toml:"partition"`
}

// Partition is one row of a layout, in the order of the disk.
type Partition struct {
	Number  int      `toml:"number"`
	Name    string   `toml:"name"`
	Type    string   `toml:"type"`     // as systemd names them, see Types
	Offset  Bytes    `toml:"offset"`   // 0: after the one before
	Size    Bytes    `toml:"size"`     // 0: what is left of the disk
	MinSize Bytes    `toml:"min-size"` // of one that takes what is left
	Content string   `toml:"content"`  // see Contents; empty: nothing is put in
	Tree    string   `toml:"tree"`     // of ext4: what it holds; empty: nothing
	Input   string   `toml:"input"`    // of content input: which
	Label   string   `toml:"label"`    // of its file system
	Format  string   `toml:"format"`   // of a late one: the file system the device makes there
	Folders []string `toml:"folders"`  // in that file system, such as /config
	Slot    string   `toml:"slot"`     // a or b; empty: shared
	Late    bool     `toml:"late"`     // made by the device on its first boot
}

// Contents are what can be in a partition: a boot volume, the root as squashfs, a
// file system with a tree in it or with nothing, swap, or an input as it is.
var Contents = []string{"boot", "rootfs", "ext4", "swap", "input"}

// Formats are the file systems that a device can make.
var Formats = []string{"vfat", "f2fs", "ext4"}

var folderName = regexp.MustCompile(`^(/[A-Za-z0-9_-]+)+$`)

// Types are the partition types by systemd's names for them.
var Types = map[string]string{
	"esp":           "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
	"xbootldr":      "BC13C2FF-59E6-4262-A352-B275FD6F7172",
	"root-arm64":    "B921B045-1DF0-41C3-AF44-4C6F280D3FAE",
	"linux-generic": "0FC63DAF-8483-4772-8E79-3D69D8477DE4",
	"swap":          "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F",
	"microsoft":     "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7",
}

// TypeName is systemd's name for a type GUID, or the GUID itself.
func TypeName(guid string) string {
	for name, g := range Types {
		if strings.EqualFold(g, guid) {
			return name
		}
	}
	return guid
}

// Names are the layouts that come with the program.
func Names() []string {
	files, _ := fs.Glob(builtin, "*.toml")
	for i, f := range files {
		files[i] = strings.TrimSuffix(f, ".toml")
	}
	return files
}

// Get returns a layout that comes with the program.
func Get(name string) (*Layout, error) {
	text, err := Source(name)
	if err != nil {
		return nil, err
	}
	return Parse("layouts/"+name+".toml", text)
}

// Source is the definition of a layout that comes with the program.
func Source(name string) ([]byte, error) {
	text, err := builtin.ReadFile(path.Base(name) + ".toml")
	if err != nil {
		return nil, fmt.Errorf("there is no layout %q; there are %s", name, strings.Join(Names(), ", "))
	}
	return text, nil
}

// Parse reads and checks a layout. Errors name file, line and key.
func Parse(file string, text []byte) (*Layout, error) {
	l := &Layout{SectorSize: 512}
	if err := Decode(file, text, l); err != nil {
		return nil, err
	}
	if err := l.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return l, nil
}

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

// LeaveOut takes a partition out of the layout. Those after it move up, and their
// numbers with them.
func (l *Layout) LeaveOut(name string) error {
	i := slices.IndexFunc(l.Partitions, func(p Partition) bool { return p.Name == name })
	if i < 0 {
		return fmt.Errorf("the layout %s has no partition %s", l.Name, name)
	}
	number := l.Partitions[i].Number
	l.Partitions = slices.Delete(l.Partitions, i, i+1)
	for j := range l.Partitions {
		if p := &l.Partitions[j]; p.Number > number {
			p.Number--
		}
	}
	return nil
}

func typeNames() []string {
	var names []string
	for name := range Types {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Placed is a layout whose partitions have their places.
type Placed struct {
	Size        int64  // of the image, in bytes
	Floor       int64  // the smallest disk that holds all partitions, late ones too
	FirstUsable int64  // where the first partition may start, in bytes
	Parts       []Part // in the order of the disk
}

// Part is a partition with its place in bytes. Len is 0 for one that takes what
// is left of the disk.
type Part struct {
	Partition
	Off, Len int64
}

// tailSize is what the backup table takes at the end of a disk: 33 sectors.
const tailSize = 33 * 512

// Place gives every partition its place. slots is "a", where partitions marked
// late are left to the device, or "ab", where those of a slot are in the image.
// disk is how large a disk is to be filled, in bytes; 0 is what the layout says,
// and the only one for a layout that fills none.
func (l *Layout) Place(slots string, disk int64) (*Placed, error) {
	if slots != "a" && slots != "ab" {
		return nil, fmt.Errorf("slots are %q; they must be a or ab", slots)
	}
	switch {
	case disk != 0 && l.Disk == 0:
		return nil, fmt.Errorf("the layout %s fills no disk: it has no size to choose", l.Name)
	case disk != 0 && disk < int64(l.MinDisk):
		return nil, fmt.Errorf("a disk of %d bytes is too small: the layout %s needs %d", disk, l.Name, l.MinDisk)
	case disk == 0:
		disk = int64(l.Disk)
	}
	p := &Placed{FirstUsable: int64(l.FirstUsable)}
	at := max(int64(l.FirstUsable), int64(l.Align))
	lateName := ""
	for _, part := range l.Partitions {
		if slots == "ab" && part.Slot != "" {
			part.Late = false
		}
		if part.Offset != 0 {
			if int64(part.Offset) < at {
				return nil, fmt.Errorf("%s at %s overlaps what ends at %s", part.Name, part.Offset, Bytes(at))
			}
			at = int64(part.Offset)
		}
		placed := Part{part, at, int64(part.Size)}
		if disk != 0 && part.Size == 0 {
			placed.Len = (disk-tailSize)/int64(l.Align)*int64(l.Align) - at
			if placed.Len < max(int64(l.Align), int64(part.MinSize)) {
				return nil, fmt.Errorf("nothing is left for %s on a disk of %d bytes", part.Name, disk)
			}
		}
		at += max(placed.Len, int64(part.MinSize))
		if at < placed.Off {
			return nil, fmt.Errorf("%s ends beyond any disk", part.Name)
		}
		if !part.Late {
			if lateName != "" {
				return nil, fmt.Errorf("%s is in the image but %s before it is late", part.Name, lateName)
			}
			p.Size = at + int64(l.Tail)
		} else {
			lateName = part.Name
		}
		p.Parts = append(p.Parts, placed)
	}
	if disk != 0 {
		if at > disk-tailSize {
			return nil, fmt.Errorf("the partitions end at byte %d; a disk of %d bytes has room for them up to %d", at, disk, disk-tailSize)
		}
		p.Size, p.Floor = disk, int64(l.MinDisk)
		return p, nil
	}
	if p.Size == 0 {
		return nil, fmt.Errorf("all partitions are late: nothing is in the image")
	}
	if int64(l.Tail) < MiB {
		return nil, fmt.Errorf("tail is %s; the backup table needs %s", l.Tail, Bytes(MiB))
	}
	p.Floor = max(p.Size, roundUp(at, MiB)+MiB)
	return p, nil
}

func roundUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }
