package main

import (
	"fmt"
	"io"

	"imgtool/flash/disk"

	"imgtool/image/artifact"
	"imgtool/image/edit"
	"imgtool/image/ext4"
	"imgtool/image/fault"
	"imgtool/image/partition"
	"imgtool/image/statefile"
	"imgtool/image/volume"
)

// checkFill refuses what one reading of the image cannot be made of, and says what
// stays small.
func checkFill(pic *volume.Source, units []*unit, u *ui) error {
	part := pic.FillPartition()
	if part == nil {
		return nil
	}
	for _, n := range units {
		if pic.Image == nil && n.disk.Size > pic.Manifest.Size {
			u.warn(fmt.Sprintf("%s: %s stays at %s: from a file that can be read anywhere, an .img or .img.zst, it would fill the disk", n.disk.Path, part.Name, human(part.Len)))
		}
		if pic.Image != nil && n.disk.Size/512 != units[0].disk.Size/512 {
			return fault.New(fault.Usage, "%s and %s differ in size, and %s fills each: flash disks of one size together", units[0].disk.Path, n.disk.Path, part.Name)
		}
	}
	return nil
}

// checkState refuses a disk that says it was provisioned.
func checkState(dev *disk.Disk, m *artifact.Manifest, u *ui) error {
	if m == nil {
		return nil
	}
	for _, part := range m.Partitions {
		if part.State == "" {
			continue
		}
		last, ok := statefile.Last(stateOn(dev, part))
		switch {
		case !ok:
		case last.Final():
			return &disk.RefusedError{Disk: dev.Path, Reason: fmt.Sprintf("%s on %s says that it was provisioned (step %d of %d): pass --reprovision to lose what is on it", part.State, part.Name, last.Step, last.Steps)}
		default:
			u.say("%s: %s on %s stops at step %d of %d: it is provisioned anew", dev.Path, part.State, part.Name, last.Step, last.Steps)
		}
	}
	return nil
}

// stateOn is the text of a state file on a disk, or nothing.
func stateOn(dev *disk.Disk, want artifact.Partition) string {
	text, _ := fileOn(dev, want, want.State)
	return text
}

// fileOn is the text of a file on a disk, or nothing. The error is a file system in
// the partition that cannot be read.
func fileOn(dev *disk.Disk, want artifact.Partition, path string) (string, error) {
	d, err := disk.OpenRead(dev)
	if err != nil {
		return "", nil
	}
	defer d.Close()
	table, err := partition.Read(d, tableSector(dev))
	if err != nil {
		return "", nil
	}
	for _, part := range table.Parts {
		if part.Number != want.Number || part.Name != want.Name {
			continue
		}
		t, _, err := ext4.Read(io.NewSectionReader(d, part.Off, part.Len), part.Len)
		if err != nil {
			return "", err
		}
		return (&volume.FileSystem{Tree: t}).ReadText(path, edit.MaxText), nil
	}
	return "", nil
}
