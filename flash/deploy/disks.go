package deploy

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"imgtool/flash/disk"
	"imgtool/image"
	"imgtool/image/fsprobe"
	"imgtool/image/gpt"
	"imgtool/image/partition"
	"imgtool/layouts"
)

// A Candidate is a disk of this computer that an image may be written to.
type Candidate struct {
	disk.Disk
	Refused error // why it cannot be written; nil if it can
}

// Reason returns why the disk cannot be written, without its name, or "".
func (c *Candidate) Reason() string {
	if refused, ok := errors.AsType[*disk.RefusedError](c.Refused); ok {
		return refused.Reason
	}
	if c.Refused != nil {
		return c.Refused.Error()
	}
	return ""
}

// Disks returns the disks of this computer, suitable disks first.
func Disks(need disk.Need) ([]Candidate, error) {
	disks, err := disk.List("/")
	if err != nil {
		return nil, err
	}
	var all []Candidate
	for _, d := range disks {
		all = append(all, Candidate{d, d.Check(need)})
	}
	slices.SortStableFunc(all, func(a, b Candidate) int {
		return cmp.Compare(min(1, len(a.Reason())), min(1, len(b.Reason())))
	})
	return all, nil
}

// Offered reports whether a disk is offered to users who name none: it can be written, and is
// not a loop or nbd device.
func (c *Candidate) Offered() bool {
	return c.Refused == nil && c.Bus != "loop" && c.Bus != "nbd"
}

// Title returns size and model of a disk, such as "14.9 GiB SanDisk Ultra".
func Title(d *disk.Disk) string {
	what := strings.TrimSpace(d.Vendor + " " + d.Model)
	switch {
	case d.File:
		what = "file"
	case what == "" && d.Kind != "":
		what = d.Kind + " card"
	case what == "":
		what = "disk"
	}
	return image.FormatSize(d.Size) + " " + what
}

// Describe returns a clause that identifies a disk and says what is on it.
func Describe(d *disk.Disk) string {
	return fmt.Sprintf("%s, which has %s", identify(d), Contents(d))
}

// identify returns a clause that identifies a disk.
func identify(d *disk.Disk) string {
	about := []string{strings.TrimSpace(d.Bus + " " + d.Kind)}
	if d.Serial != "" {
		about = append(about, "serial "+d.Serial)
	}
	if d.USB != nil && d.USB.Port != "" {
		about = append(about, "port "+d.USB.Port)
	}
	about = slices.DeleteFunc(about, func(s string) bool { return s == "" })
	text := Title(d) + " at " + d.Path
	if len(about) > 0 {
		text += " (" + strings.Join(about, ", ") + ")"
	}
	return text
}

// Contents returns what is on a disk: partitions and file systems with their labels, and where
// they are mounted.
func Contents(d *disk.Disk) string {
	text := contents(d)
	if at := d.MountPoints(); len(at) > 0 {
		text += ", mounted at " + strings.Join(at, ", ")
	}
	return text
}

func contents(d *disk.Disk) string {
	const unreadable = "contents that cannot be read"
	t, err := disk.Peek(d)
	if errors.Is(err, fs.ErrPermission) {
		return cmp.Or(udevContents(d), unreadable+" (permission denied)")
	}
	if err != nil {
		return unreadable
	}
	defer t.Close()
	first := make([]byte, 2*image.Block)
	if n, _ := t.ReadAt(first, 0); n < len(first) {
		return unreadable
	}
	if table, err := partition.Read(t, sectorSize(d)); err == nil && len(table.Parts) > 0 {
		return partitions(t, table)
	}
	whole := fsprobe.Probe(t).String()
	switch {
	case bytes.HasPrefix(first[recordOff:], []byte(recordMagic)):
		return "an image that was not written completely"
	case whole != "":
		return whole
	case first[510] == 0x55 && first[511] == 0xAA:
		return "a partition table without partitions"
	case image.IsZero(first):
		return "no partition table"
	}
	return "data of an unknown kind"
}

// partitions describes a single partition by its file system, and several by name and kind.
func partitions(r io.ReaderAt, table *partition.Table) string {
	var parts []string
	for _, p := range table.Parts {
		found := fsprobe.Probe(io.NewSectionReader(r, p.Off, p.Len))
		if len(table.Parts) == 1 && found.Kind != "" {
			return found.String()
		}
		name := p.Name
		if name == "" {
			name = strconv.Itoa(p.Number)
		}
		parts = append(parts, fmt.Sprintf("%s (%s)", name, holds(found, p)))
	}
	if len(parts) == 1 {
		return "the partition " + parts[0]
	}
	return fmt.Sprintf("%d partitions: %s", len(parts), list(parts, 6))
}

// holds returns kind, label and size of a partition.
func holds(found fsprobe.Info, p gpt.Part) string {
	found.Used = -1
	kind := cmp.Or(found.String(), layouts.TypeName(p.Type))
	if found.Label == p.Name {
		kind = cmp.Or(found.Kind, kind)
	}
	return strings.TrimSpace(kind + " " + image.FormatSize(p.Len))
}

// udevContents returns what udev has found on a disk that only root can read, or "".
func udevContents(d *disk.Disk) string {
	names := []string{d.Name}
	for _, p := range d.Parts {
		names = append(names, p.Name)
	}
	var found []string
	for _, name := range names {
		number, _ := os.ReadFile(filepath.Join("/sys/class/block", name, "dev"))
		text, _ := os.ReadFile("/run/udev/data/b" + strings.TrimSpace(string(number)))
		i := fsprobe.Info{Used: -1}
		for line := range strings.Lines(string(text)) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
			switch key {
			case "E:ID_FS_TYPE":
				i.Kind = strings.Replace(value, "vfat", "FAT", 1)
			case "E:ID_FS_LABEL":
				i.Label = value
			}
		}
		if i.Kind != "" {
			found = append(found, i.String())
		}
	}
	return list(found, 6)
}
