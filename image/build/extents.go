package build

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"imgtool/boards"
	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/fat"
	"imgtool/image/gpt"
	"imgtool/image/starter"
	"imgtool/image/swap"
	"imgtool/image/uboot"
	"imgtool/layouts"
)

// extents returns the extents of a medium. It makes the squashfs last.
func (b *builder) extents(ctx context.Context, d *disk) ([]image.Extent, error) {
	table := &gpt.Table{GUID: b.guid(d.prefix + "disk"), Size: d.placed.Size, FirstUsable: d.placed.FirstUsable}
	for _, p := range d.placed.Parts {
		if !p.Deferred {
			table.Parts = append(table.Parts, gpt.Part{Number: p.Number, Name: p.Name, Type: layouts.Types[p.Type], GUID: b.guid(d.prefix + p.Name), Off: p.Off, Len: p.Len})
		}
	}
	extents, err := table.Extents()
	if err != nil {
		return nil, err
	}
	for _, blob := range d.Blobs {
		extents = append(extents, image.Extent{Name: blob.Input, Off: blob.Sector * 512, Content: b.files[blob.Input].Content})
	}
	if extents, err = fillGaps(extents, table.Start()); err != nil {
		return nil, err
	}
	for _, p := range d.placed.Parts {
		if p.Deferred {
			// The device makes a file system here if it finds none.
			if p.Off < d.placed.Size {
				extents = append(extents, image.Extent{Name: p.Name + "/blank", Off: p.Off, Content: image.Zeros(min(1<<20, d.placed.Size-gpt.TailSize-p.Off))})
			}
			continue
		}
		c, err := b.partition(d, p)
		if err != nil {
			return nil, err
		}
		if c != nil {
			extents = append(extents, image.Extent{Name: p.Name, Off: p.Off, Content: c})
		}
	}
	// Check the rest before the long compression.
	if _, err := image.New(d.placed.Size, extents...); err != nil {
		return nil, err
	}
	var rootfs image.Content
	for _, p := range d.placed.Parts {
		if p.Content != "rootfs" || p.Deferred {
			continue
		}
		if b.parts[d.Name+"/"+p.Name] != nil {
			if b.Board.Verity {
				return nil, fmt.Errorf("partition %s: its content cannot be given, because the boot script has the root hash of the root file system", p.Name)
			}
			continue
		}
		if rootfs == nil {
			if rootfs, err = b.rootfs(ctx, d, p); err != nil {
				return nil, err
			}
		}
		if rootfs.Size() > p.Len {
			return nil, b.tooLarge(p.Name, rootfs.Size(), p.Len, 0)
		}
		extents = append(extents, image.Extent{Name: p.Name, Off: p.Off, Content: rootfs})
	}
	if b.Board.Verity {
		// The boot script has the root hash.
		return extents, b.remakeBoot(d, extents)
	}
	return extents, nil
}

// partition returns the content of a partition, or nil for a squashfs and for an empty
// partition.
func (b *builder) partition(d *disk, p layouts.Part) (image.Content, error) {
	if c := b.parts[d.Name+"/"+p.Name]; c != nil {
		if c.Size() > p.Len {
			return nil, fmt.Errorf("%d bytes do not fit in the partition %s, which has %d", c.Size(), p.Name, p.Len)
		}
		return c, nil
	}
	switch p.Content {
	case "boot":
		return b.bootVolume(p)
	case "ext4":
		return b.ext4(d, p)
	case "swap":
		return swap.New(p.Len, b.uuid("swap "+d.prefix+p.Name), p.Label)
	case "input":
		if f := b.files[p.Input]; f != nil {
			return fitting(f, p.Input, p.Name, p.Len)
		}
	}
	return nil, nil
}

// fillGaps adds zeros between the extents before end, so that old data there is overwritten.
func fillGaps(extents []image.Extent, end int64) ([]image.Extent, error) {
	slices.SortFunc(extents, func(a, b image.Extent) int { return int(a.Off/512 - b.Off/512) })
	var gaps []image.Extent
	at := int64(0)
	for i, e := range extents {
		if e.Off >= end {
			break
		}
		if e.Off < at {
			before := extents[i-1]
			return nil, fmt.Errorf("%s ends at byte %d and overlaps %s: %s starts at byte %d (sector %d)", before.Name, before.End(), e.Name, e.Name, e.Off, e.Off/512)
		}
		if e.Off > at {
			gaps = append(gaps, image.Extent{Name: "gap", Off: at, Content: image.Zeros(e.Off - at)})
		}
		at = e.End()
		if at > end {
			return nil, fmt.Errorf("%s is too large: it ends at byte %d, and the first partition starts at byte %d (sector %d)", e.Name, at, end, end/512)
		}
	}
	if at < end {
		gaps = append(gaps, image.Extent{Name: "gap", Off: at, Content: image.Zeros(end - at)})
	}
	return append(extents, gaps...), nil
}

// bootVolume returns the FAT file system of a boot partition. The seed is the last file, so
// that it does not move the others.
func (b *builder) bootVolume(p layouts.Part) (*image.Image, error) {
	var files []fat.File
	for _, f := range b.Board.Boot {
		files = append(files, fat.File{Path: f.Path, Content: b.files[f.Input].Content})
	}
	if s := b.Board.Script; s.Path != "" {
		text := strings.NewReplacer("@BUILD_ID@", b.buildID, "@SLOT_SELECT@", b.slotSelect(), rootfsTypeMark, b.rootfsType(),
			boards.VerityMark, b.verityArgs()).Replace(strings.TrimLeft(s.Text, "\n"))
		text, err := putCmdline(text, strings.TrimSpace("init=/sbin/init "+b.Cmdline))
		if err != nil {
			return nil, err
		}
		scr, err := uboot.Script(text, b.Time)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.Path, err)
		}
		files = append(files, fat.File{Path: s.Path, Content: bytes.NewReader(scr)})
	}
	if b.Seed != nil && p.Slot == "a" {
		files = append(files, fat.File{Path: b.Board.Seed.Path, Content: bytes.NewReader(b.seed)})
	}
	v, err := fat.New(p.Len, fat.Options{Label: p.Label, Serial: binary.LittleEndian.Uint32(b.derived("fat " + p.Name)), Time: b.Time}, files)
	if errors.As(err, new(*fat.FullError)) {
		return nil, fmt.Errorf("%s: %w: give a smaller kernel or initrd, or a larger partition in the layout", p.Name, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.Name, err)
	}
	return v, nil
}

// rootfsType returns the kind of the root file system in slots, as the kernel names it.
func (b *builder) rootfsType() string {
	if b.root != nil && b.root.Ready != nil {
		return b.root.Format
	}
	return "squashfs"
}

// warnRootfsType warns of a boot script that cannot name the kind of the root file system.
func (b *builder) warnRootfsType() {
	if kind, script := b.rootfsType(), b.Board.Script.Text; kind != "squashfs" && script != "" && !strings.Contains(script, rootfsTypeMark) {
		b.Warn(fmt.Sprintf("rootfs: it is %s, and the boot script of %s has no %s: check that the device mounts it", kind, b.Board.Name, rootfsTypeMark))
	}
}

// slotSelect returns how the slot is chosen. The starter's root file system has its own way
// of marking slots good.
func (b *builder) slotSelect() string {
	by := b.Board.Script.SlotSelect
	if b.Inputs["rootfs"] == starter.Scheme+"rootfs" {
		by = cmp.Or(b.Board.Starter.SlotSelect, by)
	}
	return cmp.Or(by, boards.SlotSelects[0])
}

func (b *builder) manifest(d *disk) *artifact.Manifest {
	m := &artifact.Manifest{Board: b.Board.Name, Medium: d.Name, BuildID: b.buildID, Time: b.Time, Floor: d.placed.Floor,
		Cmdline: b.Cmdline, Info: b.Board.Info(d.Name), Inputs: b.inputs}
	if l := d.Layout; l.Disk != 0 && l.Disk == l.MinDisk {
		m.Disk = d.placed.Size
	}
	if b.root != nil && b.root.Ready == nil && slices.ContainsFunc(d.placed.Parts, func(p layouts.Part) bool { return p.Content == "rootfs" }) {
		m.Codec = b.codec
	}
	for _, p := range d.placed.Parts {
		part := artifact.Partition{Number: p.Number, Name: p.Name, Type: p.Type, Off: p.Off, Len: p.Len, Late: p.Deferred, Slot: p.Slot, Boot: p.Content == "boot"}
		if p.Deferred {
			part.Format = p.Format
		} else {
			part.GUID = b.guid(d.prefix + p.Name)
			part.Fill = p.Size == 0 && d.Layout.MinDisk != d.Layout.Disk
		}
		if p.Content == "rootfs" && !p.Deferred {
			part.Verity = b.verity
		}
		if t := b.trees[p.Tree]; t != nil && len(b.Board.State.Paths) > 0 && t.Lookup(strings.Trim(b.Board.State.Paths[0], "/")) != nil {
			part.State = b.Board.State.Paths[0]
		}
		m.Partitions = append(m.Partitions, part)
	}
	return m
}
