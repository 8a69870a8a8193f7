package volume

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/gpt"
	"imgtool/image/partition"
	"imgtool/image/suggest"
	"imgtool/layouts"
)

// Partitions is the partition table of an image.
type Partitions struct {
	GPT  *gpt.Table // nil for an MBR, and without a table
	MBR  bool
	List []gpt.Part

	Primary, Backup error // what is wrong with the two copies of a GPT
}

// ReadPartitions reads the partition table of an image. If the GPT at the start is
// damaged, the backup at the end is used. It fails only if the image cannot be read.
func ReadPartitions(img *image.Image) (*Partitions, error) {
	p := &Partitions{}
	var table *partition.Table
	if table, p.Primary = partition.Read(img, 0); errors.As(p.Primary, new(*artifact.CorruptError)) {
		return nil, p.Primary
	}
	if p.Primary == nil && table.GPT == nil {
		if p.MBR, p.List = len(table.Parts) > 0, table.Parts; !p.MBR {
			p.Primary = errors.New("its partition table has no partitions")
		}
		return p, nil
	}
	backup, err := partition.ReadBackup(img, img.Size())
	if p.Backup = err; errors.As(err, new(*artifact.CorruptError)) {
		return nil, err
	}
	if p.Backup == nil && p.Primary == nil && !table.GPT.Same(backup.GPT) {
		p.Backup = errors.New("it differs from the one at the start")
	}
	if table == nil {
		table = backup
	}
	if table != nil {
		p.GPT, p.List = table.GPT, table.Parts
	}
	return p, nil
}

// None reports whether the image lacks a partition table.
func (p *Partitions) None() bool { return p.GPT == nil && !p.MBR }

// PartName returns the name of a partition, or its number if it has no name.
func PartName(p gpt.Part) string {
	if p.Name == "" {
		return strconv.Itoa(p.Number)
	}
	return p.Name
}

// names returns the numbers and names of all partitions, separated by commas.
func (p *Partitions) names() string {
	var names []string
	for _, part := range p.List {
		name := strconv.Itoa(part.Number)
		if part.Name != "" {
			name += " " + part.Name
		}
		names = append(names, name)
	}
	return strings.Join(names, ", ")
}

// find returns the partition with a name or, if none has that name, with that number.
// image is for errors.
func (p *Partitions) find(image, name string) (gpt.Part, error) {
	match := func(ok func(gpt.Part) bool) []gpt.Part {
		return slices.DeleteFunc(slices.Clone(p.List), func(part gpt.Part) bool { return !ok(part) })
	}
	found := match(func(part gpt.Part) bool { return part.Name == name })
	if len(found) == 0 {
		found = match(func(part gpt.Part) bool { return strconv.Itoa(part.Number) == name })
	}
	switch len(found) {
	case 0:
		var known []string
		for _, part := range p.List {
			known = append(known, part.Name)
		}
		return gpt.Part{}, fmt.Errorf("%s has no partition %q%s (it has %s)", image, name, suggest.DidYouMean(name, known), p.names())
	case 1:
		return found[0], nil
	}
	return gpt.Part{}, fmt.Errorf("%s has %d partitions named %q: give the number of one", image, len(found), name)
}

// Row is a partition in a list for users.
type Row struct {
	Number int    `json:"number"`
	Name   string `json:"name,omitempty"`
	Type   string `json:"type,omitempty"`
	GUID   string `json:"guid,omitempty"`
	Off    int64  `json:"offset"`
	Len    int64  `json:"length"`
	Late   bool   `json:"late,omitempty"`  // made by the device on its first boot
	Holds  string `json:"holds,omitempty"` // squashfs, erofs, ext4, FAT or swap
}

// RowOf returns a row without Holds.
func RowOf(p gpt.Part) Row {
	return Row{Number: p.Number, Name: p.Name, Type: layouts.TypeName(p.Type), GUID: p.GUID, Off: p.Off, Len: p.Len}
}

// Late returns the partitions of the manifest that the device makes on its first boot.
func (s *Source) Late() (all []Row) {
	if s.Manifest != nil {
		for _, p := range s.Manifest.Partitions {
			if p.Late {
				all = append(all, Row{Number: p.Number, Name: p.Name, Type: p.Type, Off: p.Off, Len: p.Len, Late: true})
			}
		}
	}
	return all
}

// Rows returns the partitions of the image and, after these, of [Source.Late].
func (l *Location) Rows() (all []Row, err error) {
	s := l.Source
	for _, p := range l.Partitions.List {
		row := RowOf(p)
		if row.Holds, err = Detect(io.NewSectionReader(s.Image, p.Off, p.Len)); err != nil {
			return nil, s.Wrap(err)
		}
		all = append(all, row)
	}
	return append(all, s.Late()...), nil
}
