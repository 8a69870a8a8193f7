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

func typeNames() []string {
	var names []string
	for name := range Types {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
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
