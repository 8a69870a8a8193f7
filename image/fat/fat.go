// Package fat makes, reads and edits FAT file systems, see Microsoft's FAT32 File System
// Specification (fatgen103).
//
// [New] returns a file system as an image: tables and directories are computed, and files
// are extents that read from their contents. It makes FAT16 up to 512 MiB and FAT32 above,
// with the geometry of mkfs.vfat and long names. [Open] reads FAT12, FAT16 and FAT32.
// [FS.Edit] changes them in place. Adding a file to a file system of New gives the bytes
// that New gives with that file as the last one.
//
// FAT has no owners, modes or links.
package fat

import (
	"fmt"
	"io"
	"sort"
	"strings"
	"time"

	"imgtool/image"
)

// MaxFile is the maximum size of a file, in bytes.
const MaxFile = 1<<32 - 1

// Options are the properties of a new file system.
type Options struct {
	Label  string // up to 11 characters of ASCII, stored in upper case; empty is none
	Serial uint32
	Time   int64 // of every entry, in seconds since 1970; stored as UTC, from 1980 to 2107
}

// File is a file by its path from the root, such as "dtbs/rockchip/x.dtb". A
// nil Content is an empty file.
type File struct {
	Path string
	image.Content
}

func (f File) length() int64 {
	if f.Content == nil {
		return 0
	}
	return f.Size()
}

// FullError means that files do not fit. The sizes are in bytes; Need and Free are whole
// clusters.
type FullError struct{ Need, Free, Size int64 }

func (e *FullError) Error() string {
	return fmt.Sprintf("%s of files do not fit: %s has %s free (%d bytes in %d)", image.FormatSize(e.Need), image.FormatSize(e.Size), image.FormatSize(e.Free), e.Need, e.Free)
}

// New returns a file system of size bytes, a multiple of 512, with files. Its extents are
// "fat", which is everything before the first cluster, in FAT32 "root directory", and each
// directory and file by its path.
//
// Files and their directories get clusters in the given order, so that a further file at
// the end does not move the others. Names that FAT cannot store, names that differ only in
// case, and files larger than [MaxFile] are errors. Files that do not fit are a
// [*FullError].
func New(size int64, opt Options, files []File) (*image.Image, error) {
	g, err := choose(size)
	if err != nil {
		return nil, err
	}
	label, err := checkLabel(opt.Label)
	if err != nil {
		return nil, err
	}

	// 1. Assign directory entries and clusters.
	l := newLayout(g, label != noName)
	for _, f := range files {
		if err := l.add(f); err != nil {
			return nil, err
		}
	}
	if l.next-firstCluster > g.clusters {
		return nil, &FullError{(l.next - l.empty) * g.clusterSize(), (g.clusters + firstCluster - l.empty) * g.clusterSize(), size}
	}

	// 2. Reserved sectors, both tables and, in FAT16, the root directory: one extent, so
	// that it overwrites old data on a disk.
	now := stampOf(opt.Time)
	table := &table{bits: g.bits, size: g.table * sector, runs: l.runs}
	tables := []image.Extent{
		{Name: "reserved", Content: g.reservedSectors(label, opt.Serial, l.next)},
		{Name: "table 1", Off: g.reserved * sector, Content: table},
		{Name: "table 2", Off: (g.reserved + g.table) * sector, Content: table},
	}

	// 3. Directories and files.
	var extents []image.Extent
	for _, f := range l.dirs {
		parts := f.encode(l, label, now)
		if f.fixed {
			tables = append(tables, image.Extent{Name: "root", Off: g.rootOff(), Content: parts[0]})
			continue
		}
		for i, r := range f.runs {
			extents = append(extents, image.Extent{Name: f.path, Off: g.clusterOff(l.runs[r].first), Content: parts[i]})
		}
	}
	m, err := image.New(g.dataOff(), tables...)
	if err != nil {
		return nil, err
	}
	// A SectionReader, because image.New splits an Image into its extents.
	extents = append(extents, image.Extent{Name: "fat", Content: io.NewSectionReader(m, 0, m.Size())})
	for i, f := range files {
		if n := f.length(); n > 0 {
			extents = append(extents, image.Extent{Name: f.Path, Off: g.clusterOff(l.starts[i]), Content: f.Content})
		}
	}
	return image.New(size, extents...)
}

// layout assigns clusters as a driver does that adds one file after the other to an empty
// file system. A directory that outgrows its clusters continues in the next free one, so
// that earlier files do not move.
type layout struct {
	geometry
	empty  int64 // first free cluster of the empty file system
	next   int64 // first free cluster; beyond the last one when it is too full
	runs   []run // in order
	starts []int64
	dirs   []*newDir
}

// run is n consecutive clusters. The chain continues at cluster then, or ends if that is 0.
type run struct{ first, n, then int64 }

func newLayout(g geometry, labelled bool) *layout {
	root := &newDir{path: "root directory", fixed: g.bits == 16, names: map[string]*node{}}
	if labelled {
		root.slots = 1
	}
	l := &layout{geometry: g, next: firstCluster, dirs: []*newDir{root}}
	if !root.fixed {
		l.extend(root)
	}
	l.empty = l.next
	return l
}

// add assigns entries and clusters to f and to its new directories.
func (l *layout) add(f File) error {
	size := f.length()
	if size < 0 || size > MaxFile {
		return fmt.Errorf("%s: the file has %d bytes; FAT holds up to %d", f.Path, size, int64(MaxFile))
	}
	in := l.dirs[0]
	names := strings.Split(f.Path, "/")
	for i, name := range names {
		if err := checkName(name); err != nil {
			return fmt.Errorf("%q: %w", f.Path, err)
		}
		last := i == len(names)-1
		if old := in.names[fold(name)]; old != nil {
			switch {
			case old.sub != nil && old.name == name && !last:
				in = old.sub
				continue
			case old.sub != nil && old.name != name && !last:
				return fmt.Errorf("%q: its directory %q is also spelled %q, which is the same name in FAT", f.Path, name, old.name)
			case old.sub == nil && old.name == name && last:
				return fmt.Errorf("%q appears twice", f.Path)
			case old.name == name:
				return fmt.Errorf("%q: %q is both a file and a directory", f.Path, name)
			}
			return fmt.Errorf("%q: %q has the same name in FAT", f.Path, old.name)
		}
		n := &node{name: name}
		in.nodes = append(in.nodes, n)
		in.names[fold(name)] = n
		if err := l.grow(in, entries(name)); err != nil {
			return fmt.Errorf("%q: %w", f.Path, err)
		}
		n.first = l.next
		switch clusters := ceil(size, l.clusterSize()); {
		case !last:
			n.sub = &newDir{path: strings.Join(names[:i+1], "/"), parent: in, slots: 2, names: map[string]*node{}}
			l.extend(n.sub)
			l.dirs = append(l.dirs, n.sub)
			in = n.sub
		case clusters == 0:
			n.first = 0
		default:
			n.size = size
			l.runs = append(l.runs, run{first: l.next, n: clusters})
			l.next += clusters
		}
		if last {
			l.starts = append(l.starts, n.first)
		}
	}
	return nil
}

func (l *layout) grow(f *newDir, n int64) error {
	f.slots += n
	if f.fixed && f.slots > rootSlots {
		return fmt.Errorf("the root directory of FAT16 has %d entries, and a long name takes several", rootSlots)
	}
	if f.slots > maxSlots {
		return fmt.Errorf("a directory has at most %d entries, and a long name takes several", maxSlots)
	}
	for !f.fixed && f.slots*entrySize > f.clusters*l.clusterSize() {
		l.extend(f)
	}
	return nil
}

// extend adds the next free cluster to f.
func (l *layout) extend(f *newDir) {
	last := len(f.runs) - 1
	if last >= 0 && f.runs[last] == len(l.runs)-1 {
		l.runs[len(l.runs)-1].n++
	} else {
		if last >= 0 {
			l.runs[f.runs[last]].then = l.next
		}
		f.runs = append(f.runs, len(l.runs))
		l.runs = append(l.runs, run{first: l.next, n: 1})
	}
	f.clusters++
	l.next++
}

// table is a file allocation table, computed when it is read.
type table struct {
	bits int
	size int64
	runs []run
}

func (t *table) Size() int64 { return t.size }

func (t *table) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= t.size {
		return 0, io.EOF
	}
	var short error
	if int64(len(p)) > t.size-off {
		p, short = p[:t.size-off], io.EOF
	}
	width := int64(t.bits / 8)
	n := off / width
	i := sort.Search(len(t.runs), func(i int) bool { return t.runs[i].first+t.runs[i].n > n })
	skip := off % width
	for done := 0; done < len(p); n++ {
		var value uint32
		switch {
		case n == 0:
			value = endOfChain&^0xff | media
		case n == 1:
			value = endOfChain // marked as unmounted cleanly, without errors
		case i < len(t.runs) && n >= t.runs[i].first:
			r := t.runs[i]
			switch {
			case n < r.first+r.n-1:
				value = uint32(n + 1)
			case r.then != 0:
				value, i = uint32(r.then), i+1
			default:
				value, i = endOfChain, i+1
			}
		}
		entry := [4]byte{byte(value), byte(value >> 8), byte(value >> 16), byte(value >> 24)}
		done += copy(p[done:], entry[skip:width])
		skip = 0
	}
	return len(p), short
}

// stamp is the time in a directory entry.
type stamp struct {
	date, time uint16
	tenths     uint8 // hundredths of a second, up to 199
}

func stampOf(seconds int64) stamp {
	first := time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC).Unix()
	last := time.Date(2107, 12, 31, 23, 59, 59, 0, time.UTC).Unix()
	t := time.Unix(min(max(seconds, first), last), 0).UTC()
	return stamp{
		date:   uint16((t.Year()-1980)<<9 | int(t.Month())<<5 | t.Day()),
		time:   uint16(t.Hour()<<11 | t.Minute()<<5 | t.Second()/2),
		tenths: uint8(t.Second() % 2 * 100),
	}
}

// seconds returns the time in seconds since 1970.
func (s stamp) seconds() int64 {
	return time.Date(1980+int(s.date>>9), time.Month(s.date>>5&0xf), int(s.date&0x1f), int(s.time>>11), int(s.time>>5&0x3f), int(s.time&0x1f)*2, 0, time.UTC).Unix() +
		int64(s.tenths/100)
}

func ceil(n, of int64) int64 { return (n + of - 1) / of }

func roundUp(n, to int64) int64 { return ceil(n, to) * to }
