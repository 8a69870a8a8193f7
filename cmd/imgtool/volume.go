package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/ext4"
	"imgtool/image/fat"
	"imgtool/image/fault"
	"imgtool/image/gpt"
	"imgtool/image/partition"
	"imgtool/image/squashfs"
	"imgtool/image/tree"
)

// partitions are those of an image, as its table has them.
type partitions struct {
	table *gpt.Table // nil: not a GPT
	list  []gpt.Part
	mbr   bool

	front, back error // what is wrong with the two copies of a GPT
}

// readPartitions reads the partition table of an image, or the GPT at its end where the
// one at its start is damaged. It fails only where the image cannot be read.
func readPartitions(img *image.Image) (*partitions, error) {
	p := &partitions{}
	var table *partition.Table
	if table, p.front = partition.Read(img, 0); errors.As(p.front, new(*artifact.CorruptError)) {
		return nil, p.front
	}
	if p.front == nil && table.GPT == nil {
		if p.mbr, p.list = len(table.Parts) > 0, table.Parts; !p.mbr {
			p.front = errors.New("its partition table has no partitions")
		}
		return p, nil
	}
	backup, err := partition.ReadBackup(img, img.Size())
	p.back = err
	if errors.As(p.back, new(*artifact.CorruptError)) {
		return nil, p.back
	}
	if p.back == nil && p.front == nil && !table.GPT.Same(backup.GPT) {
		p.back = errors.New("it differs from the one at the start")
	}
	if table == nil {
		table = backup
	}
	if table != nil {
		p.table, p.list = table.GPT, table.Parts
	}
	return p, nil
}

// none says whether there is no partition table at all.
func (p *partitions) none() bool { return p.table == nil && !p.mbr }

// partName is what a partition is called, also if it has no name.
func partName(p gpt.Part) string {
	if p.Name == "" {
		return fmt.Sprint(p.Number)
	}
	return p.Name
}

// find is the partition with a name or, if none has that name, with the number.
func (p *partitions) find(image, name string) (gpt.Part, error) {
	var found []gpt.Part
	var names []string
	for _, part := range p.list {
		names = append(names, partName(part))
		if part.Name == name {
			found = append(found, part)
		}
	}
	if len(found) == 0 {
		for _, part := range p.list {
			if strconv.Itoa(part.Number) == name {
				found = append(found, part)
			}
		}
	}
	switch len(found) {
	case 0:
		return gpt.Part{}, fmt.Errorf("%s has no partition %q; it has %s", image, name, strings.Join(names, ", "))
	case 1:
		return found[0], nil
	}
	return gpt.Part{}, fmt.Errorf("%s has %d partitions named %q: give the number of one", image, len(found), name)
}

// volume is a file system that was read: its files, and what it says of itself.
type volume struct {
	kind string     // "squashfs", "ext4", "swap", "FAT12" to "FAT32"
	tree *tree.Tree // nil: it has no files

	squashfs squashfs.Summary
	ext4     *ext4.Options
	swap     swapReport
	fat      *fat.FS
	entries  []fat.Entry // of a FAT, in their order
}

// kindOf tells by its first bytes what r may hold: "squashfs", "ext4", "swap",
// "FAT" or nothing known.
func kindOf(r io.ReaderAt) (string, error) {
	b := make([]byte, 4096)
	if _, err := r.ReadAt(b, 0); err != nil && err != io.EOF {
		return "", err
	}
	switch {
	case string(b[:4]) == "hsqs":
		return "squashfs", nil
	case b[1080] == 0x53 && b[1081] == 0xEF: // s_magic of fs/ext4/ext4.h
		return "ext4", nil
	case string(b[4086:]) == "SWAPSPACE2": // union swap_header of include/linux/swap.h
		return "swap", nil
	case b[510] == 0x55 && b[511] == 0xAA && (b[0] == 0xEB || b[0] == 0xE9):
		return "FAT", nil
	}
	return "", nil
}

// openVolume reads the file system in r, all but what is in its files. It is nil
// where nothing is known, and with an error has its kind.
func openVolume(r io.ReaderAt, size int64) (*volume, error) {
	kind, err := kindOf(r)
	if kind == "" || err != nil {
		return nil, err
	}
	v := &volume{kind: kind}
	switch kind {
	case "squashfs":
		var s *squashfs.Reader
		if s, err = squashfs.Open(r, size); err == nil {
			v.squashfs = s.Summary()
			v.tree, err = s.Tree()
		}
	case "ext4":
		v.tree, v.ext4, err = ext4.Read(r, size)
	case "swap":
		head := make([]byte, 4096)
		if _, err = r.ReadAt(head, 0); err == io.EOF {
			err = nil
		}
		v.swap = swapReport{Label: strings.TrimRight(string(head[1052:1068]), "\x00"), UUID: uuid.UUID(head[1036:1052]).String()}
	case "FAT":
		if v.fat, err = fat.Open(r); err == nil {
			v.kind = fmt.Sprintf("FAT%d", v.fat.Kind)
			if v.entries, err = v.fat.Entries(); err == nil {
				v.tree, err = fatTree(v.entries)
			}
		}
	}
	return v, err
}

// fatTree is a FAT as Linux mounts it.
func fatTree(entries []fat.Entry) (*tree.Tree, error) {
	t := tree.New(0)
	for _, e := range entries {
		n := &tree.Inode{Mode: tree.Dir | 0o755, ModTime: e.Time}
		if !e.Folder {
			n.Mode = tree.Regular | 0o755
			if e.ReadOnly {
				n.Mode = tree.Regular | 0o555
			}
			if e.Size() > 0 {
				n.Content = e.Content
			}
		}
		if t.Lookup(e.Path) != nil {
			return nil, fmt.Errorf("%q is there twice", e.Path)
		}
		if err := t.Put(e.Path, n); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// spelled is path as the file system spells it, which in a FAT may be in another
// case.
func (v *volume) spelled(path string) string {
	if v.fat == nil {
		return path
	}
	at := ""
	for name := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		best := name
		for there := range v.tree.List(at) {
			if there == name {
				best = name
				break
			}
			if strings.EqualFold(there, name) {
				best = there
			}
		}
		at = strings.TrimPrefix(at+"/"+best, "/")
	}
	return at
}

// place is something in an image: IMAGE[:PARTITION[/PATH]]. An image that is a file
// system and has no partitions is IMAGE[:/PATH].
type place struct {
	file   string
	inside bool // there is a colon
	part   string
	deep   bool // there is a slash after the partition
	path   string
}

// parsePlace splits a place at the last colon before which there is the name of a
// file that exists; a file of exactly that name comes first.
func parsePlace(arg string) place {
	file := ""
	for end := len(arg); end > 0; end = strings.LastIndexByte(arg[:end], ':') {
		if _, err := os.Stat(arg[:end]); err == nil || arg[:end] == "-" {
			file = arg[:end]
			break
		}
	}
	if file == "" {
		file, _, _ = strings.Cut(arg, ":")
	}
	p := place{file: file, inside: len(arg) > len(file)}
	if p.inside {
		p.part, p.path, p.deep = strings.Cut(arg[len(file)+1:], "/")
	}
	return p
}

// located is a place in an image that is open.
type located struct {
	place
	pic   *picture
	parts *partitions
}

// open opens the image of a place, and unpacks it if it can only be read from
// front to back.
func (p place) open(ctx context.Context, u *ui) (*located, error) {
	pic, err := openPicture(p.file, u.in)
	if err != nil {
		return nil, err
	}
	if err := pic.seek(ctx, u); err != nil {
		pic.Close()
		return nil, err
	}
	l := &located{place: p, pic: pic}
	if l.parts, err = readPartitions(pic.img); err != nil {
		pic.Close()
		return nil, fmt.Errorf("%s: %w", p.file, err)
	}
	// A FAT alone ends its first sector as an MBR does.
	if l.parts.mbr {
		if _, err := fat.Open(pic.img); err == nil {
			l.parts = &partitions{}
		}
	}
	if l.parts.table != nil && l.parts.front != nil {
		u.warn(fmt.Sprintf("%s: the copy of its partition table at its end is taken: %v", p.file, l.parts.front))
	}
	return l, nil
}

// name is the place as people would write it.
func (l *located) name() string {
	switch {
	case !l.inside:
		return l.pic.name
	case l.path == "":
		return l.pic.name + ":" + l.part
	}
	return l.pic.name + ":" + l.part + "/" + l.path
}

// section is the partition of the place, or all of an image without any.
func (l *located) section() (*io.SectionReader, error) {
	img := l.pic.img
	switch {
	case l.parts.none() && l.part != "":
		if kind, _ := kindOf(img); kind != "" {
			return nil, fmt.Errorf("%s is a file system and has no partitions: write %s:/PATH", l.pic.name, l.pic.name)
		}
		return nil, corrupt("%s has no partition table: %w", l.pic.name, l.parts.front)
	case l.parts.none():
		return io.NewSectionReader(img, 0, img.Size()), nil
	case len(l.parts.list) == 0:
		return nil, fmt.Errorf("%s: its partition table has no partitions", l.pic.name)
	case l.part == "":
		var names []string
		for _, p := range l.parts.list {
			names = append(names, partName(p))
		}
		return nil, fault.New(fault.Usage, "%s: say which partition, as in %s:%s; there are %s", l.pic.name, l.pic.name, partName(l.parts.list[0]), strings.Join(names, ", "))
	}
	p, err := l.parts.find(l.pic.name, l.part)
	if err != nil {
		if m := l.pic.manifest; m != nil {
			for _, late := range m.Partitions {
				if late.Late && late.Name == l.part {
					err = fmt.Errorf("%s: %s is made by the device on its first boot, and not in the image", l.pic.name, l.part)
				}
			}
		}
		return nil, err
	}
	return l.bytesOf(p)
}

// bytesOf is all of a partition.
func (l *located) bytesOf(p gpt.Part) (*io.SectionReader, error) {
	if end := p.Off + p.Len; end > l.pic.img.Size() {
		return nil, corrupt("%s: %s ends at byte %d of %d: the image is cut short", l.pic.name, partName(p), end, l.pic.img.Size())
	}
	return io.NewSectionReader(l.pic.img, p.Off, p.Len), nil
}

// volume is the file system of the place.
func (l *located) volume() (*volume, error) {
	s, err := l.section()
	if err != nil {
		return nil, err
	}
	v, err := openVolume(s, s.Size())
	whole := l.pic.name
	if l.part != "" {
		whole += ":" + l.part
	}
	switch {
	case err != nil:
		return nil, unreadable(whole, err)
	case v == nil && l.parts.none():
		return nil, corrupt("%s: it is no disk image and no file system that is known (squashfs, ext4, FAT)", whole)
	case v == nil || v.tree == nil:
		what := "nothing that is known"
		if v != nil {
			what = v.kind
		}
		return nil, fmt.Errorf("%s holds %s, and no file system of squashfs, ext4 and FAT", whole, what)
	}
	return v, nil
}

// unreadable is an error of reading what is in an image: it is corrupt, unless the
// file it is in could not be read.
func unreadable(name string, err error) error {
	if errors.As(err, new(*fs.PathError)) || errors.Is(err, context.Canceled) || errors.As(err, new(*artifact.CorruptError)) {
		return fmt.Errorf("%s: %w", name, err)
	}
	return corrupt("%s: %w", name, err)
}
