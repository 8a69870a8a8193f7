package fat

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"math/bits"
	"slices"
	"strings"

	"imgtool/image"
)

// maxNames bounds the memory for a listing, in bytes: a file system of a few kilobytes can
// have paths of any length.
const maxNames = 256 << 20

var errNames = fmt.Errorf("too many files: their names alone take more than %d MiB", maxNames/mib)

// FS is a FAT file system. Several goroutines may read it at the same time.
type FS struct {
	Label  string
	Serial uint32
	Kind   int   // 12, 16 or 32
	Size   int64 // in bytes, as the boot sector has it
	Time   int64 // of its label, in seconds since 1970; 0 without one

	r        io.ReaderAt
	sector   int64 // in bytes
	info     int64 // offset of FSInfo in FAT32, or 0
	copied   int64 // offset of the copy of FSInfo after the backup boot sector, or 0
	state    uint8 // of the boot sector: flags that Linux sets while it is mounted
	tableOff int64
	tableLen int64
	tables   int64 // number of copies, one after the other
	rootOff  int64
	rootLen  int64  // 0 in FAT32
	root     uint32 // first cluster, in FAT32
	dataOff  int64
	cluster  int64 // in bytes
	clusters int64
}

// Open reads the boot sector and the label. Data that is not a FAT file system is an error.
// Damage elsewhere is an error of the methods that find it.
func Open(r io.ReaderAt) (*FS, error) {
	b, b32, end, err := readBoot(r)
	if err != nil {
		return nil, err
	}
	sectorSize := int64(b.SectorSize)
	table := int64(b.Table16)
	if table == 0 {
		table = int64(b32.Table32)
	}
	sectors := int64(b.Sectors16)
	if sectors == 0 {
		sectors = int64(b.Sectors32)
	}

	f := &FS{
		Size:     sectors * sectorSize,
		r:        r,
		sector:   sectorSize,
		tables:   int64(b.Tables),
		tableOff: int64(b.Reserved) * sectorSize,
		tableLen: table * sectorSize,
		rootLen:  int64(b.RootSlots) * entrySize,
		root:     b32.Root,
		cluster:  int64(b.Cluster) * sectorSize,
	}
	f.rootOff = f.tableOff + int64(b.Tables)*f.tableLen
	f.dataOff = f.rootOff + roundUp(f.rootLen, sectorSize)
	f.clusters = (f.Size - f.dataOff) / f.cluster
	if f.dataOff >= f.Size || f.clusters == 0 {
		return nil, fmt.Errorf("not a FAT file system: %d bytes of tables in a file system of %d", f.dataOff, f.Size)
	}
	width, most := int64(0), int64(0)
	switch {
	case b.Table16 == 0:
		f.Kind, width, most = 32, 32, maxClusters32
	case f.clusters < minFAT16:
		f.Kind, width, most = 12, 12, f.clusters
	default:
		f.Kind, width, most = 16, 16, maxClusters16
	}
	if room := max(0, f.tableLen*8/width-firstCluster); f.clusters > min(room, most) {
		return nil, fmt.Errorf("a damaged FAT%d file system: %d clusters, and tables for %d", f.Kind, f.clusters, min(room, most))
	}
	if f.Kind == 32 {
		if err := f.use32(b, b32); err != nil {
			return nil, err
		}
	} else if f.rootLen == 0 {
		return nil, fmt.Errorf("a damaged FAT%d file system: its root directory has no entries", f.Kind)
	}
	if end.Signature == 0x28 || end.Signature == 0x29 {
		f.Serial, f.state = end.Serial, end.State
	}
	if end.Signature == 0x29 && end.Label != noName {
		f.Label = decode(end.Label[:])
	}
	w := f.walk()
	_, label, err := w.readDir(nil)
	if err != nil {
		return nil, fmt.Errorf("reading the root directory: %w", err)
	}
	if label != "" {
		f.Label, f.Time = label, w.made
	}
	return f, nil
}

// readBoot reads the boot sector, and checks that it belongs to a FAT file system.
func readBoot(r io.ReaderAt) (b boot, b32 boot32, end bootEnd, err error) {
	first := make([]byte, sector)
	if _, err := image.ReadFull(r, first, 0); err != nil {
		return b, b32, end, fmt.Errorf("reading the boot sector: %w", err)
	}
	if !bytes.HasSuffix(first, []byte("\x55\xaa")) {
		return b, b32, end, errors.New("not a FAT file system: the first sector does not end in 55 AA")
	}
	s := bytes.NewReader(first)
	take(s, &b)
	switch {
	case b.SectorSize < sector || b.SectorSize > 4096 || bits.OnesCount16(b.SectorSize) != 1:
		return b, b32, end, fmt.Errorf("not a FAT file system: sectors of %d bytes", b.SectorSize)
	case bits.OnesCount8(b.Cluster) != 1:
		return b, b32, end, fmt.Errorf("not a FAT file system: clusters of %d sectors", b.Cluster)
	case b.Reserved == 0:
		return b, b32, end, errors.New("not a FAT file system: no sector is reserved for the boot sector")
	case b.Tables == 0:
		return b, b32, end, errors.New("not a FAT file system: it has no table")
	}
	if b.Table16 == 0 {
		take(s, &b32)
	}
	take(s, &end)
	return b, b32, end, nil
}

// use32 sets the fields that only FAT32 has.
func (f *FS) use32(b boot, b32 boot32) error {
	f.rootOff, f.rootLen = 0, 0
	if b32.Flags&notMirrored != 0 {
		n := int64(b32.Flags & 0xf)
		if n >= int64(b.Tables) {
			return fmt.Errorf("a damaged FAT32 file system: table %d of %d is in use", n+1, b.Tables)
		}
		f.tableOff += n * f.tableLen
		f.tables = 1
	}
	if n := int64(b32.Info); n > 0 && n < int64(b.Reserved) {
		f.info = n * f.sector
		if backup := int64(b32.Backup); backup > 0 && backup+n < int64(b.Reserved) {
			f.copied = (backup + n) * f.sector
		}
	}
	return nil
}

// take reads v, a pointer to a struct of fixed size.
func take(r io.Reader, v any) {
	if err := binary.Read(r, binary.LittleEndian, v); err != nil {
		panic("fat: internal error: " + err.Error())
	}
}

// Entry is a file or directory.
type Entry struct {
	File
	Dir      bool // the Content is nil
	ReadOnly bool
	Time     int64 // of the last write, in seconds since 1970; the disk's local time is taken as UTC
}

// Entries returns all files and directories, a directory before its entries. Contents are
// read from the disk when they are needed.
func (f *FS) Entries() ([]Entry, error) {
	w := f.walk()
	var all []Entry
	var list func(path string, in *item) error
	list = func(path string, in *item) error {
		items, _, err := w.readDir(in)
		if err != nil {
			return fmt.Errorf("reading the directory %q: %w", "/"+path, err)
		}
		for _, it := range items {
			e := Entry{File: File{Path: it.name}, Dir: it.dir, ReadOnly: it.readOnly, Time: it.written}
			if path != "" {
				e.Path = path + "/" + it.name
			}
			if w.names += int64(len(e.Path)) + 128; w.names > maxNames {
				return errNames
			}
			if it.dir {
				all = append(all, e)
				if err := list(e.Path, it); err != nil {
					return err
				}
				continue
			}
			if e.Content, err = w.content(it); err != nil {
				return fmt.Errorf("reading %q: %w", "/"+e.Path, err)
			}
			all = append(all, e)
		}
		return nil
	}
	err := list("", nil)
	return all, err
}

// Open finds a file by its path, without regard to case, and also by short names. The path
// of the returned File is spelled as on the disk. The error is [fs.ErrNotExist] if the
// file does not exist.
func (f *FS) Open(path string) (File, error) {
	w := f.walk()
	var in *item
	var spelled []string
	for _, name := range strings.Split(path, "/") {
		if in != nil && !in.dir {
			return File{}, fmt.Errorf("%q: %w", path, fs.ErrNotExist)
		}
		items, _, err := w.readDir(in)
		if err != nil {
			return File{}, fmt.Errorf("%q: %w", path, err)
		}
		if in = find(items, name); in == nil {
			return File{}, fmt.Errorf("%q: %w", path, fs.ErrNotExist)
		}
		spelled = append(spelled, in.name)
	}
	if in.dir {
		return File{}, fmt.Errorf("%q is a directory", path)
	}
	c, err := w.content(in)
	if err != nil {
		return File{}, fmt.Errorf("%q: %w", path, err)
	}
	return File{strings.Join(spelled, "/"), c}, nil
}

func find(items []*item, name string) *item {
	folded := fold(name)
	i := slices.IndexFunc(items, func(it *item) bool { return fold(it.name) == folded })
	if i < 0 {
		i = slices.IndexFunc(items, func(it *item) bool { return fold(it.alias) == folded })
	}
	if i < 0 {
		return nil
	}
	return items[i]
}

type item struct {
	name  string
	alias string
	dir   bool
	first uint32
	size  int64

	readOnly bool
	written  int64 // in seconds since 1970

	slot int // of its entry
	long int // number of entries before it with its long name
}

// walker follows chains. It visits no cluster twice, which bounds its work by the size of
// the disk even if chains form loops.
type walker struct {
	*FS
	seen   map[uint32]uint64 // 64 clusters each
	window []byte            // of the table
	at     int64
	names  int64
	made   int64 // time of the label in the root directory
}

func (f *FS) walk() *walker { return &walker{FS: f, seen: map[uint32]uint64{}} }

func (w *walker) visit(n uint32) error {
	if n < firstCluster || int64(n) >= w.clusters+firstCluster {
		return fmt.Errorf("it continues in cluster %d; the file system has %d clusters", n, w.clusters)
	}
	if w.seen[n/64]>>(n%64)&1 != 0 {
		return fmt.Errorf("its cluster %d is in use twice", n)
	}
	w.seen[n/64] |= 1 << (n % 64)
	return nil
}

// last returns the smallest value in the table that ends a chain.
func (f *FS) last() uint32 { return uint32(endOfChain&(1<<min(f.Kind, 28)-1)) &^ 7 }

// value returns entry n of the table, without the four bits that FAT32 reserves.
func (w *walker) value(n uint32) (uint32, error) {
	off, length := int64(n)*int64(w.Kind)/8, int64(4)
	if w.Kind != 32 {
		length = 2
	}
	if off < w.at || off+length > w.at+int64(len(w.window)) {
		p := make([]byte, min(4096, w.tableLen-off))
		if _, err := image.ReadFull(w.r, p, w.tableOff+off); err != nil {
			return 0, fmt.Errorf("reading the table: %w", err)
		}
		w.window, w.at = p, off
	}
	p := w.window[off-w.at:]
	switch w.Kind {
	case 12:
		return uint32(binary.LittleEndian.Uint16(p)) >> (n % 2 * 4) & 0xfff, nil
	case 16:
		return uint32(binary.LittleEndian.Uint16(p)), nil
	}
	return binary.LittleEndian.Uint32(p) & endOfChain, nil
}

// follow yields the clusters of a chain, or an error at last.
func (w *walker) follow(first uint32) iter.Seq2[uint32, error] {
	return func(yield func(uint32, error) bool) {
		for n := first; ; {
			err := w.visit(n)
			if !yield(n, err) || err != nil {
				return
			}
			if n, err = w.value(n); err != nil {
				yield(0, err)
				return
			}
			if n >= w.last() {
				return
			}
		}
	}
}

// chain returns the clusters of a chain. A chain of more than most clusters is an error.
func (w *walker) chain(first uint32, most int64) (list []uint32, err error) {
	for n, err := range w.follow(first) {
		if err != nil {
			return nil, err
		}
		if list = append(list, n); int64(len(list)) > most {
			return nil, fmt.Errorf("it has more than %d clusters", most)
		}
	}
	return list, nil
}

func (w *walker) clusterOff(n uint32) int64 {
	return w.dataOff + (int64(n)-firstCluster)*w.cluster
}

// readDir reads a directory, the root directory if in is nil.
func (w *walker) readDir(in *item) ([]*item, string, error) {
	p := &parser{}
	if in == nil && w.rootLen > 0 {
		buf := make([]byte, w.rootLen)
		if _, err := image.ReadFull(w.r, buf, w.rootOff); err != nil {
			return nil, "", err
		}
		_, err := p.parse(buf, w.Kind)
		w.made = p.made
		return p.items, p.label, err
	}
	n := w.root
	if in != nil {
		n = in.first
	}
	buf := make([]byte, w.cluster)
	read := int64(0)
	for n, err := range w.follow(n) {
		if err != nil {
			return nil, "", err
		}
		if read += w.cluster; read > max(maxSlots*entrySize, w.cluster) {
			return nil, "", fmt.Errorf("it has more than %d entries", maxSlots)
		}
		if _, err := image.ReadFull(w.r, buf, w.clusterOff(n)); err != nil {
			return nil, "", err
		}
		end, err := p.parse(buf, w.Kind)
		if in == nil {
			w.made = p.made
		}
		if err != nil || end {
			return p.items, p.label, err
		}
	}
	return p.items, p.label, nil
}

// content returns the content of a file, with an extent for each run of clusters.
func (w *walker) content(it *item) (image.Content, error) {
	if it.size == 0 {
		return image.Zeros(0), nil
	}
	var clusters []uint32
	room := int64(0)
	for n, err := range w.follow(it.first) {
		if err != nil {
			return nil, err
		}
		clusters = append(clusters, n)
		if room += w.cluster; room >= it.size {
			break
		}
	}
	if room < it.size {
		return nil, fmt.Errorf("it ends after %d of %d bytes", room, it.size)
	}
	var extents []image.Extent
	at := int64(0)
	for first, n := range rows(clusters) {
		length := min(n*w.cluster, it.size-at)
		extents = append(extents, image.Extent{Name: it.name, Off: at, Content: io.NewSectionReader(w.r, w.clusterOff(first), length)})
		at += length
	}
	if len(extents) == 1 {
		return extents[0].Content, nil
	}
	m, err := image.New(it.size, extents...)
	if err != nil {
		return nil, err
	}
	// A SectionReader, because image.New splits an Image into its extents.
	return io.NewSectionReader(m, 0, it.size), nil
}
