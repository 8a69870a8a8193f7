package main

import (
	"bytes"
	"fmt"
	"io"
	"slices"

	"imgtool/flash/disk"
	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/build"
	"imgtool/image/ext4"
	"imgtool/image/fault"
	"imgtool/image/gpt"
	"imgtool/image/partition"
	"imgtool/image/statefile"
	"imgtool/image/tree"
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
func (p *picture) fit(size int64) (*picture, error) { return p.compose(size, nil) }

// addition is a file that is put into a partition on the way to a disk.
type addition struct {
	path string
	mode uint32
	data []byte
}

// compose is fit, with more files in the file systems of some partitions, by their
// names. What was there keeps its place as far as can be.
func (p *picture) compose(size int64, more map[string][]addition) (*picture, error) {
	fill := p.filling()
	if size = size / 512 * 512; fill != nil && (p.img == nil || size == p.manifest.Size) {
		fill = nil
	}
	if fill == nil && len(more) == 0 {
		return p, nil
	}
	read, err := partition.Read(p.img, 0)
	if err != nil {
		return nil, corrupt("its partition table: %w", err)
	}
	if read.GPT == nil {
		return nil, corrupt("its partition table is an MBR, and its manifest is of an image with a GPT")
	}
	table := read.GPT
	table.Parts = slices.Clone(table.Parts)
	old := slices.Clone(table.Parts)
	find := func(part *artifact.Partition) (int, error) {
		i := slices.IndexFunc(table.Parts, func(q gpt.Part) bool { return q.Number == part.Number })
		if i < 0 || old[i].Off != part.Off || old[i].Len != part.Len {
			return 0, corrupt("its partition table is not as its manifest says: %s is elsewhere", part.Name)
		}
		return i, nil
	}
	if fill == nil {
		size = p.manifest.Size
	} else {
		i, err := find(fill)
		if err == nil && old[i].Off+old[i].Len != table.End() {
			err = corrupt("its partition table is not as its manifest says: %s is not the last", fill.Name)
		}
		if err != nil {
			return nil, err
		}
		unit := int64(4096)
		if fill.Off%(1<<20) == 0 {
			unit = 1 << 20
		}
		table.Size = size
		table.Parts[i].Len = (size-gpt.TailSize)/unit*unit - fill.Off
		if table.Parts[i].Len <= 0 {
			return nil, fmt.Errorf("nothing is left for %s on a disk of %d bytes", fill.Name, size)
		}
	}
	extents, err := table.Extents()
	if err != nil {
		return nil, err
	}
	inside := func(e image.Extent, off, end int64) bool { return off <= e.Off && e.End() <= end }
	anew := make([]bool, len(old))
	for e := range p.img.Extents() {
		if inside(e, 0, gpt.HeadSize) || e.Off >= p.img.Size()-gpt.TailSize {
			continue
		}
		i := slices.IndexFunc(old, func(q gpt.Part) bool { return inside(e, q.Off, q.Off+q.Len) })
		if i >= 0 && (table.Parts[i].Len != old[i].Len || len(more[old[i].Name]) > 0) {
			anew[i] = true
		} else {
			extents = append(extents, e)
		}
	}
	for name := range more {
		if i := slices.IndexFunc(old, func(q gpt.Part) bool { return q.Name == name }); i < 0 || !anew[i] {
			return nil, fmt.Errorf("there is no file system %s to put anything into", name)
		}
	}
	for i := range old {
		if !anew[i] {
			continue
		}
		made, err := p.remake(old[i], table.Parts[i].Len, more[old[i].Name])
		if err != nil {
			return nil, err
		}
		extents = append(extents, image.Extent{Name: old[i].Name, Off: old[i].Off, Content: made})
	}
	img, err := image.New(size, extents...)
	if err != nil {
		return nil, err
	}
	fitted, m := *p, *p.manifest
	m.Size, m.Manifest.Entries, m.Pieces = size, nil, nil
	m.Partitions = slices.Clone(m.Partitions)
	for j := range m.Partitions {
		if i, err := find(&m.Partitions[j]); err == nil {
			m.Partitions[j].Len = table.Parts[i].Len
		}
	}
	fitted.img, fitted.manifest = img, &m
	return &fitted, nil
}

// remake is the file system of a partition at another size and with more files.
func (p *picture) remake(part gpt.Part, size int64, more []addition) (*image.Image, error) {
	t, opt, err := ext4.Read(io.NewSectionReader(p.img, part.Off, part.Len), part.Len)
	if err != nil {
		return nil, corrupt("%s: %w", part.Name, err)
	}
	if opt.First = build.BootFiles(t); size != part.Len {
		opt.Size, opt.Inodes = size, 0 // as many as go with the size
	}
	put := func(path string, n *tree.Inode) error {
		if t.Lookup(path) == nil {
			opt.Last = append(opt.Last, path)
		}
		return t.Put(path, n)
	}
	for _, a := range more {
		at, err := t.Resolve(a.path, true)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", part.Name, err)
		}
		for i := range at {
			if at[i] == '/' && t.Lookup(at[:i]) == nil {
				if err := put(at[:i], &tree.Inode{Mode: tree.Dir | 0o755, ModTime: p.manifest.Time}); err != nil {
					return nil, fmt.Errorf("%s: %w", part.Name, err)
				}
			}
		}
		if err := put(at, &tree.Inode{Mode: tree.Regular | a.mode, ModTime: p.manifest.Time, Content: bytes.NewReader(a.data)}); err != nil {
			return nil, fmt.Errorf("%s: %w", part.Name, err)
		}
	}
	made, err := ext4.New(t, *opt)
	if err != nil {
		return nil, fmt.Errorf("%s, of %d bytes: %w", part.Name, size, err)
	}
	return made, nil
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
		return textIn(t, path), nil
	}
	return "", nil
}
