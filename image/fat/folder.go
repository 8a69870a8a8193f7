package fat

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"imgtool/image"
)

// Attributes of an entry.
const (
	attrReadOnly = 0x01
	attrLabel    = 0x08
	attrFolder   = 0x10
	attrArchive  = 0x20
	attrLong     = 0x0f
)

const (
	lastLong  = 0x40 // in longEntry.Order
	longUnits = 13   // of UTF-16 in one longEntry
	maxUnits  = 255
)

// entry is a file, a folder or the label.
type entry struct {
	Name        [11]byte
	Attr        uint8
	Case        uint8
	Tenths      uint8
	CreateTime  uint16
	CreateDate  uint16
	AccessDate  uint16
	ClusterHigh uint16
	WriteTime   uint16
	WriteDate   uint16
	ClusterLow  uint16
	Size        uint32
}

// longEntry is part of a name. Those of a name stand before its entry, the end
// of the name first.
type longEntry struct {
	Order    uint8
	Name1    [5]uint16
	Attr     uint8
	Type     uint8
	Checksum uint8
	Name2    [6]uint16
	Cluster  uint16
	Name3    [2]uint16
}

type folder struct {
	path     string
	parent   *folder
	fixed    bool // the root of FAT16, which has no clusters
	slots    int64
	clusters int64
	runs     []int // in layout.runs
	nodes    []*node
	names    map[string]*node // by folded name
}

// node is a file, or a folder if sub is one.
type node struct {
	name  string
	sub   *folder
	first int64 // cluster; 0 if empty
	size  int64
}

// encode is the folder as the disk holds it, one Content for each of its runs.
func (f *folder) encode(l *layout, label [11]byte, t stamp) []image.Content {
	var b bytes.Buffer
	add := func(name [11]byte, attr uint8, first, size int64) {
		put(&b, entry{
			Name: name, Attr: attr,
			Tenths: t.tenths, CreateTime: t.time, CreateDate: t.date,
			AccessDate: t.date,
			WriteTime:  t.time, WriteDate: t.date,
			ClusterHigh: uint16(first >> 16), ClusterLow: uint16(first),
			Size: uint32(size),
		})
	}

	// 1. The label in the root, the folder itself and its parent elsewhere. The
	// root counts as cluster 0, also where it has a cluster.
	if f.parent != nil {
		up := int64(0)
		if f.parent.parent != nil {
			up = l.runs[f.parent.runs[0]].first
		}
		add([11]byte([]byte(".          ")), attrFolder, l.runs[f.runs[0]].first, 0)
		add([11]byte([]byte("..         ")), attrFolder, up, 0)
	} else if label != noName {
		add(label, attrLabel, 0, 0)
	}

	// 2. Every name, the long one first.
	aliases := f.aliases()
	for i, n := range f.nodes {
		if entries(n.name) > 1 {
			for _, e := range longEntries(n.name, checksum(aliases[i])) {
				put(&b, e)
			}
		}
		attr := uint8(attrArchive)
		if n.sub != nil {
			attr = attrFolder
		}
		add(aliases[i], attr, n.first, n.size)
	}

	// 3. Zeros to the end.
	room := int64(rootSlots * entrySize)
	if !f.fixed {
		room = f.clusters * l.clusterSize()
	}
	all := make([]byte, room)
	if copy(all, b.Bytes()) < b.Len() || int64(b.Len()) != f.slots*entrySize {
		panic("fat: internal error: a folder is not as long as it was laid out")
	}
	if f.fixed {
		return []image.Content{bytes.NewReader(all)}
	}
	var parts []image.Content
	for _, r := range f.runs {
		n := l.runs[r].n * l.clusterSize()
		parts = append(parts, bytes.NewReader(all[:n]))
		all = all[n:]
	}
	return parts
}

// checkName says in a sentence why FAT cannot hold name.
func checkName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("it has an empty name in it")
	case name == "." || name == "..":
		return fmt.Errorf("%q is not a name", name)
	case !utf8.ValidString(name):
		return fmt.Errorf("the name %q is not UTF-8", name)
	case strings.HasSuffix(name, ".") || strings.HasSuffix(name, " "):
		return fmt.Errorf("the name %q ends in %q, which FAT drops", name, name[len(name)-1])
	}
	for _, r := range name {
		if r < ' ' || r == 0x7f || strings.ContainsRune(`"*/:<>?\|`, r) {
			return fmt.Errorf("the name %q holds %q, which FAT does not allow", name, r)
		}
	}
	if n := units(name); n > maxUnits {
		return fmt.Errorf("a name of %d characters is too long: FAT has room for %d", n, maxUnits)
	}
	return nil
}

// fold makes equal what differs only in case.
func fold(name string) string {
	return strings.Map(func(r rune) rune {
		least := r
		for other := unicode.SimpleFold(r); other != r; other = unicode.SimpleFold(other) {
			least = min(least, other)
		}
		return least
	}, name)
}

// entries is how many entries name takes.
func entries(name string) int64 {
	if _, ok := short(name); ok && name == strings.ToUpper(name) {
		return 1
	}
	return ceil(units(name), longUnits) + 1
}

func units(name string) int64 {
	n := 0
	for _, r := range name {
		n += utf16.RuneLen(r)
	}
	return int64(n)
}

func longEntries(name string, sum uint8) []longEntry {
	text := utf16.Encode([]rune(name))
	if len(text)%longUnits != 0 {
		text = append(text, 0)
	}
	for len(text)%longUnits != 0 {
		text = append(text, 0xffff)
	}
	var list []longEntry
	for part := range slices.Chunk(text, longUnits) {
		list = append(list, longEntry{
			Order: uint8(len(list) + 1), Attr: attrLong, Checksum: sum,
			Name1: [5]uint16(part), Name2: [6]uint16(part[5:]), Name3: [2]uint16(part[11:]),
		})
	}
	list[len(list)-1].Order |= lastLong
	slices.Reverse(list)
	return list
}

// checksum ties long entries to the entry of this short name.
func checksum(name [11]byte) uint8 {
	var sum uint8
	for _, c := range name {
		sum = sum>>1 | sum<<7
		sum += c
	}
	return sum
}

// short is name in upper case as an entry holds it, if it is of the form 8.3.
func short(name string) (field [11]byte, ok bool) {
	base, ext, dot := strings.Cut(name, ".")
	if base == "" || len(base) > 8 || len(ext) > 3 || dot && ext == "" {
		return field, false
	}
	for _, r := range base + ext {
		if shortRune(r) != r && !('a' <= r && r <= 'z') {
			return field, false
		}
	}
	return pack(strings.ToUpper(base), strings.ToUpper(ext)), true
}

func pack(base, ext string) [11]byte {
	return [11]byte([]byte(fmt.Sprintf("%-8s%-3s", base, ext)))
}

// shortRune is what stands for r in a short name.
func shortRune(r rune) rune {
	switch {
	case 'a' <= r && r <= 'z':
		return r - 'a' + 'A'
	case 'A' <= r && r <= 'Z', '0' <= r && r <= '9', strings.ContainsRune("!#$%&'()-@^_`{}~", r):
		return r
	}
	return '_'
}

// aliases are the short names of the nodes. A name that is short but for its
// case is its own alias, so that no other name's alias is found in its place.
func (f *folder) aliases() [][11]byte {
	list := make([][11]byte, len(f.nodes))
	taken := map[[11]byte]bool{}
	for i, n := range f.nodes {
		if name, ok := short(n.name); ok {
			list[i] = name
			taken[name] = true
		}
	}
	numbers := map[string]int{} // the last one given, by what stands before it
	for i, n := range f.nodes {
		if list[i][0] != 0 {
			continue
		}
		base, ext := basis(n.name)
		key := base[:min(len(base), 6)] + "." + ext
		for {
			numbers[key]++
			name := numbered(base, ext, numbers[key])
			if !taken[name] {
				list[i] = name
				taken[name] = true
				break
			}
		}
	}
	return list
}

// numbered is the alias with a number.
func numbered(base, ext string, n int) [11]byte {
	tail := fmt.Sprintf("~%d", n)
	return pack(base[:min(len(base), 8-len(tail))]+tail, ext)
}

// basis is what an alias is made from.
func basis(name string) (base, ext string) {
	name = strings.TrimLeft(name, ". ")
	if dot := strings.LastIndexByte(name, '.'); dot >= 0 {
		name, ext = name[:dot], name[dot+1:]
	}
	clean := func(s string, n int) string {
		s = strings.Map(func(r rune) rune {
			if r == ' ' || r == '.' {
				return -1
			}
			return shortRune(r)
		}, s)
		return s[:min(len(s), n)]
	}
	return clean(name, 8), clean(ext, 3)
}
