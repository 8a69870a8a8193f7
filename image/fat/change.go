package fat

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"imgtool/image"
)

// DirtyError means that a file system is marked as mounted or as having had errors.
type DirtyError struct{ Reason string }

func (e *DirtyError) Error() string {
	return e.Reason + ": unmount it where it is mounted, or check it with fsck.fat -a, and run this again"
}

// The bits of entry 1 of the table, counted from the most significant, and of the boot
// sector.
const (
	stateDirty  = 1
	stateErrors = 2
)

// Edit checks the whole table and all directories, and returns an editor. size is the size
// of the partition, in bytes. A file system that is marked as mounted is a [*DirtyError]; a
// fault that fsck.fat would repair is an error as well.
func (f *FS) Edit(size int64) (*Editor, error) {
	if f.Size > size {
		return nil, fmt.Errorf("its boot sector has a size of %d bytes, but the partition has %d", f.Size, size)
	}
	e := &Editor{
		walker: f.walk(), next: map[uint32]uint32{}, cursor: firstCluster, loaded: map[*item]*directory{},
		slots: map[slotRef]bool{}, fresh: map[uint32]*directory{}, freed: map[uint32]bool{},
	}
	if err := e.checkState(); err != nil {
		return nil, err
	}
	if err := e.checkTables(); err != nil {
		return nil, err
	}
	root, err := e.all(func(path string, it *item, clusters []uint32) error {
		if n, want := int64(len(clusters)), ceil(it.size, e.cluster); !it.dir && n != want {
			return fmt.Errorf("%q: %d bytes in %d clusters; they take %d", path, it.size, n, want)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	// The editor follows the chains again.
	e.root, e.walker = root, f.walk()
	return e, nil
}

func (e *Editor) checkState() error {
	dirty, failed := e.state&stateDirty != 0, e.state&stateErrors != 0
	if e.Kind != 12 {
		v, err := e.value(1)
		if err != nil {
			return err
		}
		top := min(e.Kind, 28) - 1
		dirty, failed = dirty || v>>top&1 == 0, failed || v>>(top-1)&1 == 0
	}
	switch {
	case dirty:
		return &DirtyError{"it is marked as mounted, or as not unmounted cleanly"}
	case failed:
		return &DirtyError{"it is marked as having had read or write errors"}
	}
	return nil
}

// checkTables compares the copies of the table, and counts the free clusters.
func (e *Editor) checkTables() error {
	length := min(e.tableLen, ((e.clusters+firstCluster)*int64(e.Kind)+7)/8)
	a, b := make([]byte, 1<<16), make([]byte, 1<<16)
	for at := int64(0); at < length; at += int64(len(a)) {
		a = a[:min(int64(len(a)), length-at)]
		if _, err := image.ReadFull(e.r, a, e.tableOff+at); err != nil {
			return fmt.Errorf("reading the table: %w", err)
		}
		for i := int64(1); i < e.tables; i++ {
			if _, err := image.ReadFull(e.r, b[:len(a)], e.tableOff+i*e.tableLen+at); err != nil {
				return fmt.Errorf("reading copy %d of the table: %w", i+1, err)
			}
			if n := 0; !bytes.Equal(a, b[:len(a)]) {
				for a[n] == b[n] {
					n++
				}
				return fmt.Errorf("copies 1 and %d of its table differ at cluster %d", i+1, (at+int64(n))*8/int64(e.Kind))
			}
		}
	}
	for n := uint32(firstCluster); int64(n) < e.clusters+firstCluster; n++ {
		v, err := e.value(n)
		if err != nil {
			return err
		}
		if v == 0 {
			e.free++
		}
	}
	return nil
}

// Change holds the changes of an edit as extents of the file system, in the order in which
// they must be written: clusters that nothing refers to yet, the tables, the directories,
// and zeros over removed data.
type Change struct{ Steps [][]image.Extent }

// Extents returns the extents of all steps. They do not overlap.
func (c *Change) Extents() []image.Extent { return slices.Concat(c.Steps...) }

// Change returns the changes of all calls of [Editor.Put] and [Editor.Remove].
func (e *Editor) Change() (*Change, error) {
	tables, err := e.changedTables()
	if err != nil {
		return nil, err
	}
	info, err := e.changedInfo()
	if err != nil {
		return nil, err
	}
	first := slices.Clone(e.data)
	for _, c := range slices.Sorted(maps.Keys(e.fresh)) {
		d := e.fresh[c]
		at := int64(slices.Index(d.clusters, c)) * e.cluster
		first = append(first, image.Extent{Name: d.name(), Off: e.clusterOff(c), Content: bytes.NewReader(d.raw[at:][:e.cluster])})
	}
	var entries, wiped []image.Extent
	for ref := range e.slots {
		d, off := ref.d, ref.slot*entrySize
		if off >= len(d.raw) || len(d.clusters) > 0 && e.fresh[d.clusters[int64(off)/e.cluster]] != nil {
			continue // freed, or written as a whole
		}
		entries = append(entries, image.Extent{Name: d.name(), Off: e.at(d, ref.slot), Content: bytes.NewReader(d.raw[off:][:entrySize])})
	}
	slices.SortFunc(entries, func(a, b image.Extent) int { return cmp.Compare(a.Off, b.Off) })
	for _, c := range slices.Sorted(maps.Keys(e.freed)) {
		if e.next[c] == 0 {
			wiped = append(wiped, image.Extent{Name: "removed", Off: e.clusterOff(c), Content: image.Zeros(e.cluster)})
		}
	}
	change := &Change{}
	for _, step := range [][]image.Extent{first, append(tables, info...), entries, wiped} {
		if len(step) > 0 {
			change.Steps = append(change.Steps, step)
		}
	}
	return change, nil
}

func (d *directory) name() string {
	if d.path == "" {
		return "root directory"
	}
	return d.path
}

func (e *Editor) changedTables() ([]image.Extent, error) {
	sectors := map[int64][]byte{}
	byteAt := func(off int64) (*byte, error) {
		n := off / e.sector
		if sectors[n] == nil {
			b := make([]byte, e.sector)
			if _, err := image.ReadFull(e.r, b, e.tableOff+n*e.sector); err != nil {
				return nil, fmt.Errorf("reading the table: %w", err)
			}
			sectors[n] = b
		}
		return &sectors[n][off%e.sector], nil
	}
	for n, v := range e.next {
		off, width, shift := int64(n)*int64(e.Kind)/8, (e.Kind+7)/8, 0
		mask := uint32(1<<min(e.Kind, 28) - 1)
		if e.Kind == 12 {
			shift = int(n % 2 * 4)
		}
		v, mask = v&mask<<shift, mask<<shift
		for i := range width {
			b, err := byteAt(off + int64(i))
			if err != nil {
				return nil, err
			}
			*b = *b&^byte(mask>>(8*i)) | byte(v>>(8*i))
		}
	}
	var extents []image.Extent
	for i := range e.tables {
		for _, n := range slices.Sorted(maps.Keys(sectors)) {
			extents = append(extents, image.Extent{Name: fmt.Sprintf("table %d", i+1), Off: e.tableOff + i*e.tableLen + n*e.sector, Content: bytes.NewReader(sectors[n])})
		}
	}
	return extents, nil
}

// changedInfo returns FSInfo of FAT32 with the number of free clusters, and the cluster
// from which a driver searches for free ones. If its copy was equal, it is changed too.
func (e *Editor) changedInfo() ([]image.Extent, error) {
	if e.info == 0 || len(e.next) == 0 {
		return nil, nil
	}
	info, copied := make([]byte, sector), make([]byte, sector)
	if _, err := image.ReadFull(e.r, info, e.info); err != nil {
		return nil, fmt.Errorf("reading the count of free clusters: %w", err)
	}
	if string(info[:4]) != "RRaA" || string(info[484:488]) != "rrAa" || string(info[508:]) != "\x00\x00\x55\xaa" {
		return nil, nil
	}
	hint := uint32(firstCluster)
	for ; int64(hint) < e.clusters+firstCluster-1; hint++ {
		if v, err := e.now(hint + 1); err != nil || v == 0 {
			if err != nil {
				return nil, err
			}
			break
		}
	}
	counts := binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, uint32(e.free)), hint)
	extents := []image.Extent{{Name: "free clusters", Off: e.info + 488, Content: bytes.NewReader(counts)}}
	if e.copied != 0 {
		if _, err := image.ReadFull(e.r, copied, e.copied); err != nil {
			return nil, fmt.Errorf("reading the copy of the count of free clusters: %w", err)
		}
		if bytes.Equal(info, copied) {
			extents = append(extents, image.Extent{Name: "free clusters", Off: e.copied + 488, Content: bytes.NewReader(counts)})
		}
	}
	return extents, nil
}
