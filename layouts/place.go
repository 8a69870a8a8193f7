package layouts

import (
	"fmt"
	"slices"
)

// LeaveOut removes a partition. Those after it move up, and get lower numbers.
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

// Placed is a layout with offsets.
type Placed struct {
	Size        int64  // of the image, in bytes
	Floor       int64  // the smallest disk for all partitions, deferred ones included
	FirstUsable int64  // where the first partition may start, in bytes
	Parts       []Part // in the order of the disk
}

// Part is a partition with its offset and length in bytes. The length is 0 if it takes the
// rest of an unknown disk.
type Part struct {
	Partition
	Off, Len int64
}

// tailSize is the size of the backup table at the end of a disk: 33 sectors.
const tailSize = 33 * 512

// Place computes the offsets. With slots "a" the device makes the deferred partitions; with
// "ab" deferred partitions of a slot are in the image. disk is the size of the disk to fill, in bytes; 0
// is the default of the layout. It must be 0 for a layout that fills no disk.
func (l *Layout) Place(slots string, disk int64) (*Placed, error) {
	if slots != "a" && slots != "ab" {
		return nil, fmt.Errorf("slots are %q; they must be a or ab", slots)
	}
	switch {
	case disk != 0 && l.Disk == 0:
		return nil, fmt.Errorf("the layout %s fills no disk: its size cannot be chosen", l.Name)
	case disk != 0 && disk < int64(l.MinDisk):
		return nil, fmt.Errorf("a disk of %d bytes is too small: the layout %s needs %d", disk, l.Name, l.MinDisk)
	case disk == 0:
		disk = int64(l.Disk)
	}
	p := &Placed{FirstUsable: int64(l.FirstUsable)}
	at := max(int64(l.FirstUsable), int64(l.Align))
	deferred := ""
	for _, part := range l.Partitions {
		if slots == "ab" && part.Slot != "" {
			part.Deferred = false
		}
		if part.Offset != 0 {
			if int64(part.Offset) < at {
				return nil, fmt.Errorf("%s at %s overlaps the previous partition, which ends at %s", part.Name, part.Offset, Bytes(at))
			}
			at = int64(part.Offset)
		}
		placed := Part{part, at, int64(part.Size)}
		if disk != 0 && part.Size == 0 {
			placed.Len = (disk-tailSize)/int64(l.Align)*int64(l.Align) - at
			if placed.Len < max(int64(l.Align), int64(part.MinSize)) {
				return nil, fmt.Errorf("no space is left for %s on a disk of %d bytes", part.Name, disk)
			}
		}
		at += max(placed.Len, int64(part.MinSize))
		if at < placed.Off {
			return nil, fmt.Errorf("%s ends beyond any disk", part.Name)
		}
		if !part.Deferred {
			if deferred != "" {
				return nil, fmt.Errorf("%s is in the image, but %s before it is deferred", part.Name, deferred)
			}
			p.Size = at + int64(l.Tail)
		} else {
			deferred = part.Name
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
		return nil, fmt.Errorf("all partitions are deferred: the image would be empty")
	}
	if int64(l.Tail) < MiB {
		return nil, fmt.Errorf("tail is %s; the backup table needs %s", l.Tail, Bytes(MiB))
	}
	p.Floor = max(p.Size, (at+MiB-1)/MiB*MiB+MiB)
	return p, nil
}
