package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"imgtool/image"
	"imgtool/image/fat"
	"imgtool/image/fault"
	"imgtool/image/fileinfo"
	"imgtool/image/gpt"
	"imgtool/image/oci"
	"imgtool/image/rauc"
	"imgtool/image/remote"
	"imgtool/image/suggest"
	"imgtool/image/tree"
)

// PlaceHelp explains to users how a place is written.
const PlaceHelp = `IMAGE is an image of any format, a disk, a file system alone (squashfs, erofs, ext4, FAT), or
- for standard input (after --, as in -- -:boot-a). PARTITION is a name or a number. A
file system alone has no partitions: IMAGE:/PATH. An update bundle (.raucb) has its own
files there, and its images as partitions. Names of files may contain colons: the longest
part of the argument before a colon, or all of it, that names a file is the image. An
image can also be a URL of http or https, in whose path a colon is written as %3A, or
oci://HOST/REPOSITORY:TAG in a registry.`

// Place is part of an image: IMAGE, IMAGE:PARTITION or IMAGE:PARTITION/PATH. In an image
// that is a file system without partitions it is IMAGE:/PATH.
type Place struct {
	File   string
	Inside bool   // there is a colon after the file
	Part   string // name or number of the partition
	Deep   bool   // there is a slash after the partition
	Path   string // in the file system
}

// ParsePlace splits an argument after the longest prefix that names a file and is followed
// by a colon or nothing.
func ParsePlace(arg string) Place {
	file := ""
	for end := len(arg); end > 0; end = strings.LastIndexByte(arg[:end], ':') {
		if _, err := os.Stat(arg[:end]); err == nil || arg[:end] == "-" {
			file = arg[:end]
			break
		}
	}
	switch {
	case remote.IsURL(arg):
		file = cutURL(arg)
	case oci.IsReference(arg):
		file = cutOCI(arg)
	}
	if file == "" {
		file, _, _ = strings.Cut(arg, ":")
	}
	p := Place{File: file, Inside: len(arg) > len(file)}
	if p.Inside {
		p.Part, p.Path, p.Deep = strings.Cut(arg[len(file)+1:], "/")
	}
	return p
}

// cutURL returns the URL that an argument begins with: up to the first colon after its host
// and port.
func cutURL(arg string) string {
	scheme, rest, _ := strings.Cut(arg, "://")
	host, path, _ := strings.Cut(rest, "/")
	path, _, _ = strings.Cut(path, ":")
	return scheme + "://" + host + "/" + path
}

// Location is a place in an open image.
type Location struct {
	Place
	Source     *Source
	Partitions *Partitions
}

// Open opens the image of the place with random access.
func (p Place) Open(ctx context.Context, opt Options) (*Location, error) {
	opt.Context = ctx
	s, err := Open(p.File, opt)
	if err != nil {
		return nil, err
	}
	if err = s.Seek(ctx); err == nil {
		var l *Location
		if l, err = s.Locate(p); err == nil {
			return l, nil
		}
	}
	s.Close()
	return nil, err
}

// Locate returns a place in the source, which must have random access.
func (s *Source) Locate(p Place) (*Location, error) {
	parts, err := ReadPartitions(s.Image)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.Name, err)
	}
	// The first sector of a FAT has the signature of an MBR.
	if parts.MBR {
		if _, err := fat.Open(s.Image); err == nil {
			parts = &Partitions{}
		}
	}
	if parts.GPT != nil && parts.Primary != nil {
		s.opt.Reporter.Warnf("%s: the backup partition table is used: %v", s.Name, parts.Primary)
	}
	return &Location{Place: p, Source: s, Partitions: parts}, nil
}

// Name returns the place as users write it.
func (l *Location) Name() string {
	switch {
	case !l.Inside:
		return l.Source.Name
	case l.Path == "":
		return l.Source.Name + ":" + l.Part
	}
	return l.Source.Name + ":" + l.Part + "/" + l.Path
}

// Wrap adds the name of the place to an error of a path in its file system.
func (l *Location) Wrap(err error) error {
	missing, ok := errors.AsType[*tree.NotExistError](err)
	if !ok {
		return fmt.Errorf("%s: %w", l.Name(), err)
	}
	text := l.Name() + " does not exist"
	if missing.Missing != strings.Trim(missing.Path, "/") {
		text = fmt.Sprintf("%s: %s does not exist", l.Name(), missing.Missing)
	}
	return fault.New(fault.Input, "%s%s", text, suggest.Question(missing.Like))
}

// Section returns the bytes of the partition, or of the whole image if it has no
// partitions.
func (l *Location) Section() (*io.SectionReader, error) {
	img, name := l.Source.Image, l.Source.Name
	switch {
	case l.Partitions.None() && l.Part != "" && l.Source.IsBundle():
		return l.bundled()
	case l.Partitions.None() && l.Part != "":
		if kind, _ := Detect(img); kind != "" {
			return nil, fmt.Errorf("%s is a file system and has no partitions: write %s:/PATH", name, name)
		}
		return nil, corrupt("%s: %w", name, l.Partitions.Primary)
	case l.Partitions.None():
		return io.NewSectionReader(img, 0, img.Size()), nil
	case len(l.Partitions.List) == 0:
		return nil, fmt.Errorf("%s: its partition table has no partitions", name)
	case l.Part == "":
		return nil, fault.New(fault.Usage, "%s: name a partition, as in %s:%s (it has %s)", name, name, PartName(l.Partitions.List[0]), l.Partitions.names())
	}
	p, err := l.Partitions.find(name, l.Part)
	if err != nil {
		if slices.ContainsFunc(l.Source.Late(), func(r Row) bool { return r.Name == l.Part }) {
			err = fmt.Errorf("%s: %s is not in the image: the device makes it on its first boot", name, l.Part)
		}
		return nil, err
	}
	return l.Partition(p)
}

// Partition returns the bytes of a partition.
func (l *Location) Partition(p gpt.Part) (*io.SectionReader, error) {
	if end := p.Off + p.Len; end > l.Source.Image.Size() {
		return nil, corrupt("%s: %s ends at byte %d of %d: the image is cut short", l.Source.Name, PartName(p), end, l.Source.Image.Size())
	}
	return io.NewSectionReader(l.Source.Image, p.Off, p.Len), nil
}

// FileSystem returns the file system of the partition, or of the whole image if it has no
// partitions.
func (l *Location) FileSystem() (*FileSystem, error) {
	r, err := l.Section()
	if err != nil {
		return nil, err
	}
	name := l.Source.Name
	if l.Part != "" {
		name += ":" + l.Part
	}
	v, err := ReadFS(r, r.Size())
	switch {
	case err != nil:
		return nil, Unreadable(name, err)
	case v == nil && l.Part == "" && rauc.Is(r, r.Size()):
		if _, err := rauc.Open(r, r.Size()); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		return nil, fmt.Errorf("%s: %w", name, errEncrypted)
	case v == nil && l.Partitions.None():
		return nil, corrupt("%s: it is neither a disk image nor a known file system (squashfs, erofs, ext4, FAT)", name)
	case v == nil:
		return nil, fmt.Errorf("%s has no known file system (squashfs, erofs, ext4, FAT)", name)
	case v.Tree == nil && v.Kind == "erofs":
		return nil, fmt.Errorf("%s is a compressed erofs (%s), whose files are not read: extract them with fsck.erofs --extract", name, v.Erofs.Compression())
	case v.Tree == nil:
		return nil, fmt.Errorf("%s is %s, and no file system (squashfs, erofs, ext4, FAT)", name, v.Kind)
	}
	return v, nil
}

// Content returns the file at the place, or the bytes of the partition if the place has no
// path.
func (l *Location) Content() (image.Content, error) {
	if !l.Deep && l.Part != "" {
		return l.Section()
	}
	v, err := l.FileSystem()
	if err != nil {
		return nil, err
	}
	n, err := v.Tree.Open(v.spelling(l.Path))
	if err == nil && n.Type() != tree.Regular {
		err = errors.New("it is not a regular file, but a " + fileinfo.Type(n))
		if n.Type() == tree.Dir {
			err = errors.New("it is a directory: list it with imgtool ls")
		}
	}
	if err != nil {
		return nil, l.Wrap(err)
	}
	if n.Content == nil {
		return image.Zeros(0), nil
	}
	return n.Content, nil
}
