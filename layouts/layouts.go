// Package layouts describes partition tables as data, and computes the offsets of their
// partitions. [Parse] reads a [Layout] from TOML, [Layout.Place] computes the offsets for
// a disk.
package layouts

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"strings"

	"imgtool/image/suggest"
)

//go:embed *.toml
var builtin embed.FS

// Layout is a partition table without offsets.
type Layout struct {
	Name        string `toml:"name"`
	Description string `toml:"description"`
	SectorSize  int    `toml:"sector-size"`
	FirstUsable Bytes  `toml:"first-usable"`
	Align       Bytes  `toml:"align"` // of offsets and sizes; 0: 1 MiB
	Tail        Bytes  `toml:"tail"`  // free space after the last partition of an image that fills no disk

	// The default and the minimum size of the disk, for a layout whose last partition
	// fills it. If both are equal, the size is fixed.
	Disk    Bytes `toml:"disk"`
	MinDisk Bytes `toml:"min-disk"`

	Partitions []Partition `toml:"partition"`
}

// Partition is a partition of a layout. Partitions are in the order of the disk.
type Partition struct {
	Number      int      `toml:"number"`
	Name        string   `toml:"name"`
	Type        string   `toml:"type"`        // of Types
	Offset      Bytes    `toml:"offset"`      // 0: after the previous partition
	Size        Bytes    `toml:"size"`        // 0: the rest of the disk
	MinSize     Bytes    `toml:"min-size"`    // of a partition that takes the rest
	Content     string   `toml:"content"`     // of Contents; empty: nothing
	Tree        string   `toml:"tree"`        // of content ext4; empty: no files
	Input       string   `toml:"input"`       // of content input
	Label       string   `toml:"label"`       // of its file system
	Format      string   `toml:"format"`      // of a deferred partition: the file system that the device makes
	Directories []string `toml:"directories"` // in that file system, such as /config
	Slot        string   `toml:"slot"`        // a or b; empty: shared
	Deferred    bool     `toml:"deferred"`    // made by the device on its first boot

	FormerFolders []string `toml:"folders" former:"directories"`
	FormerLate    bool     `toml:"late" former:"deferred"`
}

// Contents are the contents of partitions: a boot partition, the root file system as
// squashfs, an ext4 file system, swap space, or an input as it is.
var Contents = []string{"boot", "rootfs", "ext4", "swap", "input"}

// Formats are the file systems that a device can make in a deferred partition.
var Formats = []string{"vfat", "f2fs", "ext4"}

var directoryPath = regexp.MustCompile(`^(/[A-Za-z0-9_-]+)+$`)

// Types are the GUIDs of partition types by systemd's names, see systemd-gpt-auto-generator(8).
var Types = map[string]string{
	"esp":           "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
	"xbootldr":      "BC13C2FF-59E6-4262-A352-B275FD6F7172",
	"root-arm64":    "B921B045-1DF0-41C3-AF44-4C6F280D3FAE",
	"linux-generic": "0FC63DAF-8483-4772-8E79-3D69D8477DE4",
	"swap":          "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F",
	"microsoft":     "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7",
}

// TypeName returns systemd's name of a type GUID, or the GUID if it has none.
func TypeName(guid string) string {
	for name, g := range Types {
		if strings.EqualFold(g, guid) {
			return name
		}
	}
	return guid
}

// Names returns the names of the built-in layouts.
func Names() []string {
	files, _ := fs.Glob(builtin, "*.toml")
	for i, f := range files {
		files[i] = strings.TrimSuffix(f, ".toml")
	}
	return files
}

// Get returns a built-in layout.
func Get(name string) (*Layout, error) {
	text, err := Source(name)
	if err != nil {
		return nil, err
	}
	return Parse("layouts/"+name+".toml", text)
}

// Source returns the definition of a built-in layout.
func Source(name string) ([]byte, error) {
	text, err := builtin.ReadFile(path.Base(name) + ".toml")
	if err != nil {
		return nil, errors.New(suggest.Unknown("layout", name, Names()))
	}
	return text, nil
}

// Parse reads and checks a layout. Errors have the file, the line and the key.
func Parse(file string, text []byte) (*Layout, error) {
	l := &Layout{SectorSize: 512}
	if err := Decode(file, text, l); err != nil {
		return nil, err
	}
	for i := range l.Partitions {
		p := &l.Partitions[i]
		p.Deferred = p.Deferred || p.FormerLate
		p.Directories = append(p.Directories, p.FormerFolders...)
		p.FormerLate, p.FormerFolders = false, nil
	}
	if err := l.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return l, nil
}
