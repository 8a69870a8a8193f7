// Package compose makes images from images: it fits one to a disk, adds files such as
// per-unit data, and puts a seed into its boot partition. The result is composed as it is
// read; the original stays as it is.
package compose

import (
	"bytes"
	"fmt"
	"io"
	"slices"

	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/build"
	"imgtool/image/ext4"
	"imgtool/image/fault"
	"imgtool/image/gpt"
	"imgtool/image/partition"
	"imgtool/image/tree"
	"imgtool/image/volume"
)

// File is a file that is added to a partition.
type File struct {
	Path string
	Mode uint32 // permission bits
	Data []byte
}

// Fit returns the image for a disk of size bytes. The partition that fills the disk, if
// there is one, is made again at its new size with the same files, and partitions named
// in files get these in addition; everything else keeps its place. A stream cannot be
// fitted, and is returned unchanged if files is empty.
func Fit(s *volume.Source, size int64, files map[string][]File) (*volume.Source, error) {
	fill := s.FillPartition()
	if size = size / 512 * 512; fill != nil && (s.Image == nil || size == s.Manifest.Size) {
		fill = nil
	}
	if fill == nil && len(files) == 0 {
		return s, nil
	}
	f, err := newFitting(s)
	if err != nil {
		return nil, err
	}
	if fill == nil {
		size = s.Manifest.Size
	} else if err := f.grow(fill, size); err != nil {
		return nil, err
	}
	extents, err := f.extents(files)
	if err != nil {
		return nil, err
	}
	img, err := image.New(size, extents...)
	if err != nil {
		return nil, err
	}
	fitted := *s
	fitted.Image, fitted.Manifest = img, f.manifest(size)
	return &fitted, nil
}

// fitting is an image and the table of its partitions at their new sizes.
type fitting struct {
	*volume.Source
	table *gpt.Table
	old   []gpt.Part // the partitions of the image, in the order of table.Parts
}

func newFitting(s *volume.Source) (*fitting, error) {
	read, err := partition.Read(s.Image, 0)
	if err != nil {
		return nil, corrupt("its partition table: %w", err)
	}
	if read.GPT == nil {
		return nil, corrupt("its partition table is an MBR, and its manifest is of an image with a GPT")
	}
	return &fitting{s, read.GPT, slices.Clone(read.GPT.Parts)}, nil
}

func (f *fitting) find(part *artifact.Partition) (int, error) {
	i := slices.IndexFunc(f.old, func(p gpt.Part) bool { return p.Number == part.Number })
	if i < 0 || f.old[i].Off != part.Off || f.old[i].Len != part.Len {
		return 0, corrupt("its partition table does not match its manifest: %s is elsewhere", part.Name)
	}
	return i, nil
}

// grow gives a partition what is left of a disk of size bytes.
func (f *fitting) grow(fill *artifact.Partition, size int64) error {
	i, err := f.find(fill)
	if err == nil && f.old[i].Off+f.old[i].Len != f.table.End() {
		err = corrupt("its partition table does not match its manifest: %s is not the last", fill.Name)
	}
	if err != nil {
		return err
	}
	unit := int64(4096)
	if fill.Off%(1<<20) == 0 {
		unit = 1 << 20
	}
	f.table.Size = size
	f.table.Parts[i].Len = (size-gpt.TailSize)/unit*unit - fill.Off
	if f.table.Parts[i].Len <= 0 {
		return fmt.Errorf("nothing is left for %s on a disk of %d bytes", fill.Name, size)
	}
	return nil
}

func (f *fitting) extents(files map[string][]File) ([]image.Extent, error) {
	extents, err := f.table.Extents()
	if err != nil {
		return nil, err
	}
	inside := func(e image.Extent, off, end int64) bool { return off <= e.Off && e.End() <= end }
	remade := make([]bool, len(f.old))
	for e := range f.Image.Extents() {
		if inside(e, 0, gpt.HeadSize) || e.Off >= f.Image.Size()-gpt.TailSize {
			continue
		}
		i := slices.IndexFunc(f.old, func(p gpt.Part) bool { return inside(e, p.Off, p.Off+p.Len) })
		if i >= 0 && (f.table.Parts[i].Len != f.old[i].Len || len(files[f.old[i].Name]) > 0) {
			remade[i] = true
		} else {
			extents = append(extents, e)
		}
	}
	for name := range files {
		if i := slices.IndexFunc(f.old, func(p gpt.Part) bool { return p.Name == name }); i < 0 || !remade[i] {
			return nil, fmt.Errorf("%s: it has no file system to add files to", name)
		}
	}
	for i, p := range f.old {
		if !remade[i] {
			continue
		}
		content, err := f.remake(p, f.table.Parts[i].Len, files[p.Name])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.Name, err)
		}
		extents = append(extents, image.Extent{Name: p.Name, Off: p.Off, Content: content})
	}
	return extents, nil
}

// remake returns the file system of a partition at another size and with more files.
// Files that were there keep their place where the size allows it.
func (f *fitting) remake(part gpt.Part, size int64, files []File) (*image.Image, error) {
	t, opt, err := ext4.Read(io.NewSectionReader(f.Image, part.Off, part.Len), part.Len)
	if err != nil {
		return nil, corrupt("%w", err)
	}
	if opt.First = build.BootFiles(t); size != part.Len {
		opt.Size, opt.Inodes = size, 0 // the number of inodes follows the size
	}
	put := func(path string, n *tree.Inode) error {
		if t.Lookup(path) == nil {
			opt.Last = append(opt.Last, path)
		}
		n.ModTime = f.Manifest.Time
		return t.Put(path, n)
	}
	for _, file := range files {
		path, err := t.Resolve(file.Path, true)
		if err != nil {
			return nil, err
		}
		for i := range path {
			if path[i] == '/' && t.Lookup(path[:i]) == nil {
				if err := put(path[:i], &tree.Inode{Mode: tree.Dir | 0o755}); err != nil {
					return nil, err
				}
			}
		}
		if err := put(path, &tree.Inode{Mode: tree.Regular | file.Mode, Content: bytes.NewReader(file.Data)}); err != nil {
			return nil, err
		}
	}
	made, err := ext4.New(t, *opt)
	if err != nil {
		return nil, fmt.Errorf("making it with %d bytes: %w", size, err)
	}
	return made, nil
}

// manifest returns the manifest of the new image, without checksums.
func (f *fitting) manifest(size int64) *artifact.Manifest {
	m := *f.Manifest
	m.Size, m.Manifest.Entries, m.Pieces = size, nil, nil
	m.Partitions = slices.Clone(m.Partitions)
	for j := range m.Partitions {
		if i, err := f.find(&m.Partitions[j]); err == nil {
			m.Partitions[j].Len = f.table.Parts[i].Len
		}
	}
	return &m
}

func corrupt(format string, args ...any) error { return fault.New(fault.Corrupt, format, args...) }
