package deploy

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"imgtool/flash/disk"
	"imgtool/image"
	"imgtool/image/partition"
	"imgtool/layouts"
)

// Describe returns a line that identifies the image.
func (p *Plan) Describe() string {
	size := image.FormatSize(p.size)
	switch m := p.src.Manifest; {
	case m != nil:
		return fmt.Sprintf("%s (%s build %s, %s)", p.src.Name, m.Board, m.BuildID, size)
	case p.board != "":
		return fmt.Sprintf("%s (%s, and not known to be for %s: it has no manifest)", p.src.Name, size, p.board)
	}
	return fmt.Sprintf("%s (%s)", p.src.Name, size)
}

// Describe returns a line that identifies a disk and says what is on it.
func Describe(d *disk.Disk) string {
	about := []string{image.FormatSize(d.Size)}
	if name := strings.TrimSpace(d.Vendor + " " + d.Model); name != "" {
		about = append(about, name)
	}
	if d.Serial != "" {
		about = append(about, "serial "+d.Serial)
	}
	if d.Bus != "" {
		about = append(about, d.Bus)
	}
	if d.File {
		about = append(about, "a file")
	}
	if len(d.Mounted) > 0 {
		about = append(about, "mounted at "+strings.Join(d.Mounted, ", "))
	}
	return fmt.Sprintf("%s (%s), which has %s", d.Path, strings.Join(about, ", "), contents(d))
}

// contents says which partitions a disk has. It reads the disk, because the kernel may not
// have read its partition table.
func contents(d *disk.Disk) string {
	const unreadable = "contents that cannot be read"
	t, err := disk.OpenRead(d)
	if err != nil {
		return unreadable
	}
	defer t.Close()
	first := make([]byte, 2*image.Block)
	if n, _ := t.ReadAt(first, 0); n < len(first) {
		return unreadable
	}
	if table, err := partition.Read(t, sectorSize(d)); err == nil && len(table.Parts) > 0 {
		return "the partitions " + partitions(table)
	}
	switch {
	case bytes.HasPrefix(first[recordOff:], []byte(recordMagic)):
		return "an image that was not written completely"
	case first[510] == 0x55 && first[511] == 0xAA:
		return "a partition table or file system of another kind"
	case bytes.Count(first, []byte{0}) == len(first):
		return "no partition table"
	}
	return "something other than partitions"
}

func partitions(table *partition.Table) string {
	const most = 8
	var parts []string
	for i, p := range table.Parts {
		if i == most {
			parts = append(parts, fmt.Sprintf("and %d more", len(table.Parts)-i))
			break
		}
		name := strconv.Quote(p.Name)
		if p.Name == "" {
			name = fmt.Sprintf("%d (type %s)", p.Number, layouts.TypeName(p.Type))
		}
		parts = append(parts, fmt.Sprintf("%s of %s", name, image.FormatSize(p.Len)))
	}
	return strings.Join(parts, ", ")
}
