package fat

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"imgtool/image"
)

// Editor collects changes to a file system. It writes nothing: [Editor.Change] returns the
// bytes to write. After a failed Put or Remove it must not be used any more.
type Editor struct {
	*walker
	free   int64             // clusters
	next   map[uint32]uint32 // entries of the table that change
	cursor uint32            // no cluster before it is free

	root   *directory
	loaded map[*item]*directory  // all others that were read or made
	data   []image.Extent        // of files
	slots  map[slotRef]bool      // entries of directories that change
	fresh  map[uint32]*directory // clusters that directories grew by
	freed  map[uint32]bool       // clusters that are zeroed if they stay free
}

type slotRef struct {
	d    *directory
	slot int
}

type directory struct {
	path     string
	parent   *directory // nil of the root
	item     *item      // in the parent
	clusters []uint32   // none: the root of FAT12 and FAT16
	raw      []byte
	items    []*item
	end      int // the first slot after all that were ever used
}

func (d *directory) join(name string) string { return strings.TrimPrefix(d.path+"/"+name, "/") }

// at returns the offset of an entry in the file system.
func (e *Editor) at(d *directory, slot int) int64 {
	off := int64(slot) * entrySize
	if len(d.clusters) == 0 {
		return e.rootOff + off
	}
	return e.clusterOff(d.clusters[off/e.cluster]) + off%e.cluster
}

func (e *Editor) set(d *directory, slot int, b []byte) {
	copy(d.raw[slot*entrySize:][:entrySize], b)
	e.slots[slotRef{d, slot}] = true
}

// load reads a directory, the root if it is nil.
func (w *walker) load(in *item, path string, parent *directory) (*directory, error) {
	d := &directory{path: path, parent: parent, item: in}
	first, most := w.root, max(maxSlots*entrySize/w.cluster, 1)
	if in != nil {
		first = in.first
	}
	var err error
	if in == nil && w.rootLen > 0 {
		d.raw = make([]byte, w.rootLen)
		_, err = image.ReadFull(w.r, d.raw, w.rootOff)
	} else if d.clusters, err = w.chain(first, most); err == nil {
		d.raw = make([]byte, int64(len(d.clusters))*w.cluster)
		for i, c := range d.clusters {
			if _, err = image.ReadFull(w.r, d.raw[int64(i)*w.cluster:][:w.cluster], w.clusterOff(c)); err != nil {
				break
			}
		}
	}
	if err != nil {
		return nil, err
	}
	p := &parser{}
	if _, err := p.parse(d.raw, w.Kind); err != nil {
		return nil, err
	}
	d.items, d.end = p.items, p.slot
	// Linux and fsck.fat read entries after the end, other drivers do not.
	for slot := d.end; slot < len(d.raw)/entrySize; slot++ {
		if first := d.raw[slot*entrySize]; first != 0 && first != 0xe5 {
			return nil, fmt.Errorf("its entry %d is in use, and it ends before entry %d", slot+1, d.end+1)
		}
	}
	return d, nil
}

func (e *Editor) open(d *directory, it *item) (*directory, error) {
	if sub := e.loaded[it]; sub != nil {
		return sub, nil
	}
	path := d.join(it.name)
	sub, err := e.load(it, path, d)
	if err != nil {
		return nil, fmt.Errorf("reading the directory %q: %w", path, err)
	}
	e.loaded[it] = sub
	return sub, nil
}

// Put replaces the content of a file, or makes the file and the directories it needs. It
// compares names without regard to case; an existing file keeps the spelling of its name.
// when is the time of the change, in seconds since 1970. Content that does not fit is a
// [*FullError].
func (e *Editor) Put(f File, when int64) error {
	size := f.length()
	if size < 0 || size > MaxFile {
		return fmt.Errorf("%s: the file has %d bytes; FAT holds up to %d", f.Path, size, int64(MaxFile))
	}
	names := strings.Split(f.Path, "/")
	for _, name := range names {
		if err := checkName(name); err != nil {
			return fmt.Errorf("%q: %w", f.Path, err)
		}
	}
	d, now := e.root, stampOf(when)
	for _, name := range names[:len(names)-1] {
		it := find(d.items, name)
		var err error
		switch {
		case it == nil:
			d, err = e.mkdir(d, name, now)
		case it.dir:
			d, err = e.open(d, it)
		default:
			err = fmt.Errorf("%q is a file, not a directory", it.name)
		}
		if err != nil {
			return fmt.Errorf("%q: %w", f.Path, err)
		}
	}
	name := names[len(names)-1]
	it := find(d.items, name)
	if it != nil && it.dir {
		return fmt.Errorf("%q is a directory", f.Path)
	}
	var err error
	if it != nil {
		err = e.release(it)
	} else {
		it, err = e.add(d, name, attrArchive, now)
	}
	var clusters []uint32
	if err == nil {
		clusters, err = e.alloc(ceil(size, e.cluster))
	}
	if err != nil {
		return fmt.Errorf("%q: %w", f.Path, err)
	}
	it.first, it.size = 0, size
	if len(clusters) > 0 {
		it.first = clusters[0]
		e.link(clusters)
		e.place(f, clusters)
	}
	e.update(d, it, now)
	return nil
}

// place puts the content of a file into clusters, with zeros after the end.
func (e *Editor) place(f File, clusters []uint32) {
	at := int64(0)
	for first, n := range rows(clusters) {
		off, room := e.clusterOff(first), n*e.cluster
		used := min(room, f.length()-at)
		e.data = append(e.data, image.Extent{Name: f.Path, Off: off, Content: io.NewSectionReader(f.Content, at, used)},
			image.Extent{Name: f.Path, Off: off + used, Content: image.Zeros(room - used)})
		at += used
	}
}

// Remove removes a file, and directories that become empty. The error is [fs.ErrNotExist]
// if the file does not exist.
func (e *Editor) Remove(path string) error {
	d := e.root
	names := strings.Split(path, "/")
	for i, name := range names {
		it := find(d.items, name)
		switch last := i == len(names)-1; {
		case it == nil:
			return fmt.Errorf("%q: %w", path, fs.ErrNotExist)
		case last && it.dir:
			return fmt.Errorf("%q is a directory", path)
		case last:
			return e.unlink(d, it)
		case !it.dir:
			return fmt.Errorf("%q: %w", path, fs.ErrNotExist)
		}
		var err error
		if d, err = e.open(d, it); err != nil {
			return fmt.Errorf("%q: %w", path, err)
		}
	}
	panic("fat: internal error: a path without names")
}

// unlink removes an entry from a directory, and frees its clusters.
func (e *Editor) unlink(d *directory, it *item) error {
	if err := e.release(it); err != nil {
		return err
	}
	first, end := it.slot-it.long, it.slot+1
	for slot := first; slot < end; slot++ {
		b := make([]byte, entrySize)
		if end < d.end {
			copy(b, d.raw[slot*entrySize:])
			b[0] = 0xe5
		}
		e.set(d, slot, b)
	}
	if end == d.end {
		d.end = first
		e.shrink(d, end)
	}
	d.items = slices.DeleteFunc(d.items, func(other *item) bool { return other == it })
	if len(d.items) > 0 || d.parent == nil {
		return nil
	}
	return e.unlink(d.parent, d.item)
}

// shrink frees the last clusters of a directory if all their entries were removed. The
// removed entries ended before slot end.
func (e *Editor) shrink(d *directory, end int) {
	perCluster := int(e.cluster / entrySize)
	keep := max(1, (d.end+perCluster-1)/perCluster)
	if len(d.clusters) == 0 || (end+perCluster-1)/perCluster < len(d.clusters) || keep == len(d.clusters) {
		return
	}
	for _, c := range d.clusters[keep:] {
		e.drop(c)
	}
	e.next[d.clusters[keep-1]] = endOfChain
	d.clusters, d.raw = d.clusters[:keep], d.raw[:int64(keep)*e.cluster]
}

// release frees the clusters of a file or directory.
func (e *Editor) release(it *item) error {
	if sub := e.loaded[it]; sub != nil {
		for _, c := range sub.clusters {
			e.drop(c)
		}
		sub.clusters, sub.raw = nil, nil
		return nil
	}
	if it.first == 0 {
		return nil
	}
	clusters, err := e.chain(it.first, e.clusters)
	if err != nil {
		return err
	}
	for _, c := range clusters {
		e.drop(c)
	}
	return nil
}

// drop frees a cluster.
func (e *Editor) drop(c uint32) {
	e.next[c] = 0
	e.freed[c] = true
	delete(e.fresh, c)
	e.free++
	e.cursor = min(e.cursor, c)
}

// alloc allocates the first n free clusters.
func (e *Editor) alloc(n int64) ([]uint32, error) {
	if n > e.free {
		return nil, &FullError{n * e.cluster, e.free * e.cluster, e.Size}
	}
	list := make([]uint32, 0, n)
	for ; int64(len(list)) < n; e.cursor++ {
		if int64(e.cursor) >= e.clusters+firstCluster {
			return nil, fmt.Errorf("the table changed while it was read: %d clusters of %d are free", len(list), n)
		}
		v, err := e.now(e.cursor)
		if err != nil {
			return nil, err
		}
		if v == 0 {
			list = append(list, e.cursor)
		}
	}
	e.free -= n
	return list, nil
}

// now returns an entry of the changed table.
func (e *Editor) now(n uint32) (uint32, error) {
	if v, ok := e.next[n]; ok {
		return v, nil
	}
	return e.value(n)
}

func (e *Editor) link(clusters []uint32) {
	for i, c := range clusters {
		e.next[c] = endOfChain
		if i > 0 {
			e.next[clusters[i-1]] = c
		}
	}
}

func (e *Editor) mkdir(d *directory, name string, now stamp) (*directory, error) {
	it, err := e.add(d, name, attrDir, now)
	if err != nil {
		return nil, err
	}
	clusters, err := e.alloc(1)
	if err != nil {
		return nil, err
	}
	it.dir, it.first = true, clusters[0]
	e.link(clusters)
	sub := &directory{path: d.join(name), parent: d, item: it, clusters: clusters, raw: make([]byte, e.cluster), end: 2}
	e.fresh[clusters[0]], e.loaded[it] = sub, sub
	up := uint32(0)
	if d.parent != nil {
		up = d.clusters[0]
	}
	for i, first := range []uint32{clusters[0], up} {
		dot := pack(strings.Repeat(".", i+1), "")
		e.set(sub, i, e.encode(newEntry(dot, attrDir, now), first, 0))
	}
	e.update(d, it, now)
	return sub, nil
}

// add adds the entries of a new name to a directory, without clusters.
func (e *Editor) add(d *directory, name string, attr uint8, now stamp) (*item, error) {
	n := int(entries(name))
	slot, err := e.room(d, name, n)
	if err != nil {
		return nil, err
	}
	alias := d.alias(name)
	var b bytes.Buffer
	if n > 1 {
		for _, l := range longEntries(name, checksum(alias)) {
			put(&b, l)
		}
	}
	en := newEntry(alias, attr, now)
	put(&b, en)
	for i := range n {
		e.set(d, slot+i, b.Next(entrySize))
	}
	d.end = max(d.end, slot+n)
	it := &item{name: name, alias: shortName(en), slot: slot + n - 1, long: n - 1}
	d.items = append(d.items, it)
	return it, nil
}

// room returns the first of n consecutive free slots. It extends the directory if needed.
func (e *Editor) room(d *directory, name string, n int) (int, error) {
	all, run, longest := len(d.raw)/entrySize, 0, 0
	for slot := range all {
		if slot < d.end && d.raw[slot*entrySize] != 0xe5 {
			run = 0
			continue
		}
		run++
		longest = max(longest, run)
		if run == n {
			return slot - n + 1, nil
		}
	}
	slot := all - run
	switch {
	case len(d.clusters) == 0:
		return 0, fmt.Errorf("the root directory is full: %q needs %d entries in a row, and of its %d at most %d in a row are free", name, n, all, longest)
	case slot+n > maxSlots:
		return 0, fmt.Errorf("the directory is full: %q needs %d entries more, and of the %d that a directory can have %d are in use", name, n, maxSlots, slot)
	}
	grow, err := e.alloc(ceil(int64(slot+n-all)*entrySize, e.cluster))
	if err != nil {
		return 0, err
	}
	e.link(grow)
	e.next[d.clusters[len(d.clusters)-1]] = grow[0]
	for _, c := range grow {
		e.fresh[c] = d
	}
	d.clusters = append(d.clusters, grow...)
	d.raw = append(d.raw, make([]byte, int64(len(grow))*e.cluster)...)
	return slot, nil
}

// alias returns a short name for name that is not used in the directory.
func (d *directory) alias(name string) [11]byte {
	if field, ok := short(name); ok {
		return field
	}
	taken := map[[11]byte]bool{}
	for slot := range d.end {
		taken[[11]byte(d.raw[slot*entrySize:])] = true
	}
	base, ext := basis(name)
	for n := 1; ; n++ {
		if field := numbered(base, ext, n); !taken[field] {
			return field
		}
	}
}

func newEntry(name [11]byte, attr uint8, now stamp) entry {
	return entry{
		Name: name, Attr: attr, Tenths: now.tenths, CreateTime: now.time, CreateDate: now.date,
		AccessDate: now.date, WriteTime: now.time, WriteDate: now.date,
	}
}

func (e *Editor) encode(en entry, first uint32, size int64) []byte {
	en.ClusterLow, en.Size = uint16(first), uint32(size)
	if e.Kind == 32 {
		en.ClusterHigh = uint16(first >> 16)
	}
	var b bytes.Buffer
	put(&b, en)
	return b.Bytes()
}

// update sets cluster, size and times in the entry of an item.
func (e *Editor) update(d *directory, it *item, now stamp) {
	var en entry
	take(bytes.NewReader(d.raw[it.slot*entrySize:][:entrySize]), &en)
	if !it.dir {
		en.Attr |= attrArchive
	}
	en.AccessDate, en.WriteTime, en.WriteDate = now.date, now.time, now.date
	e.set(d, it.slot, e.encode(en, it.first, it.size))
}
