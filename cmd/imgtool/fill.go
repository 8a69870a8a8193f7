package main

import (
	"fmt"
	"io"
	"regexp"
	"slices"

	"imgtool/flash"
	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/ext4"
	"imgtool/image/gpt"
)

// filling is the partition of an image that takes what is left of a disk, or nil.
func (p *picture) filling() *artifact.Partition {
	if p.manifest == nil {
		return nil
	}
	for i := range p.manifest.Partitions {
		if part := &p.manifest.Partitions[i]; part.Fill {
			return part
		}
	}
	return nil
}

// fit is the image for a disk of size bytes: a partition that takes what is left
// is made anew, with what is in it. An image that comes from front to back stays as
// it is.
func (p *picture) fit(size int64) (*picture, error) {
	part := p.filling()
	if size = size / 512 * 512; part == nil || p.img == nil || size == p.manifest.Size {
		return p, nil
	}
	table, err := gpt.Read(p.img)
	if err != nil {
		return nil, corrupt("its partition table: %w", err)
	}
	i := slices.IndexFunc(table.Parts, func(q gpt.Part) bool { return q.Number == part.Number })
	if i < 0 || table.Parts[i].Off != part.Off || table.Parts[i].Off+table.Parts[i].Len != table.End() {
		return nil, corrupt("its partition table is not as its manifest says: %s is not the last", part.Name)
	}
	table.Parts = slices.Clone(table.Parts)
	old := table.Parts[i]
	unit := int64(4096)
	if part.Off%(1<<20) == 0 {
		unit = 1 << 20
	}
	table.Size = size
	table.Parts[i].Len = (size-gpt.TailSize)/unit*unit - part.Off
	if table.Parts[i].Len <= 0 {
		return nil, fmt.Errorf("nothing is left for %s on a disk of %d bytes", part.Name, size)
	}
	extents, err := table.Extents()
	if err != nil {
		return nil, err
	}
	inside := func(e image.Extent, off, end int64) bool { return off <= e.Off && e.End() <= end }
	filled := false
	for e := range p.img.Extents() {
		switch {
		case inside(e, 0, gpt.HeadSize), e.Off >= p.img.Size()-gpt.TailSize:
		case inside(e, old.Off, old.Off+old.Len):
			filled = true
		default:
			extents = append(extents, e)
		}
	}
	if filled {
		t, opt, err := ext4.Read(io.NewSectionReader(p.img, old.Off, old.Len), old.Len)
		if err != nil {
			return nil, corrupt("%s: %w", part.Name, err)
		}
		opt.Size = table.Parts[i].Len
		made, err := ext4.New(t, *opt)
		if err != nil {
			return nil, fmt.Errorf("%s on a disk of %d bytes: %w", part.Name, size, err)
		}
		extents = append(extents, image.Extent{Name: part.Name, Off: old.Off, Content: made})
	}
	img, err := image.New(size, extents...)
	if err != nil {
		return nil, err
	}
	fitted, m := *p, *p.manifest
	m.Size, m.Manifest.Entries, m.Pieces = size, nil, nil
	m.Partitions = slices.Clone(m.Partitions)
	for j := range m.Partitions {
		if m.Partitions[j].Number == part.Number {
			m.Partitions[j].Len = table.Parts[i].Len
		}
	}
	fitted.img, fitted.manifest = img, &m
	return &fitted, nil
}

// checkFill refuses what one reading of the image cannot be made of, and says what
// stays small.
func checkFill(pic *picture, units []*unit, u *ui) error {
	part := pic.filling()
	if part == nil {
		return nil
	}
	for _, n := range units {
		if pic.img == nil && n.disk.Size > pic.manifest.Size {
			u.warn(fmt.Sprintf("%s: %s stays at %s: from a file that can be read anywhere, an .img or .img.zst, it would fill the disk", n.disk.Path, part.Name, human(part.Len)))
		}
		if pic.img != nil && n.disk.Size/512 != units[0].disk.Size/512 {
			return usagef("%s and %s differ in size, and %s fills each: flash disks of one size together", units[0].disk.Path, n.disk.Path, part.Name)
		}
	}
	return nil
}

var stepDone = regexp.MustCompile(`\((\d+)/(\d+)\)`)

// checkState refuses a disk that says it was provisioned.
func checkState(disk *flash.Disk, m *artifact.Manifest, u *ui) error {
	if m == nil {
		return nil
	}
	for _, part := range m.Partitions {
		if part.State == "" {
			continue
		}
		text := stateOn(disk, part)
		all := stepDone.FindAllStringSubmatch(text, -1)
		if len(all) == 0 {
			continue
		}
		last := all[len(all)-1]
		if last[1] == last[2] {
			return &flash.RefusedError{Disk: disk.Path, Reason: fmt.Sprintf("%s on %s says that it was provisioned (step %s of %s): pass --reprovision to lose what is on it", part.State, part.Name, last[1], last[2])}
		}
		u.say("%s: %s on %s stops at step %s of %s: it is provisioned anew", disk.Path, part.State, part.Name, last[1], last[2])
	}
	return nil
}

// stateOn is the text of a state file on a disk, or nothing.
func stateOn(disk *flash.Disk, want artifact.Partition) string {
	d, err := flash.OpenRead(disk)
	if err != nil {
		return ""
	}
	defer d.Close()
	table, err := gpt.Read(d)
	if err != nil {
		return ""
	}
	for _, part := range table.Parts {
		if part.Number != want.Number || part.Name != want.Name {
			continue
		}
		t, _, err := ext4.Read(io.NewSectionReader(d, part.Off, part.Len), part.Len)
		if err != nil {
			return ""
		}
		return textIn(t, want.State)
	}
	return ""
}
