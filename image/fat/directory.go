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
	attrDir      = 0x10
	attrArchive  = 0x20
	attrLong     = 0x0f
)

const (
	lastLong  = 0x40 // in longEntry.Order
	longUnits = 13   // of UTF-16 in one longEntry
	maxUnits  = 255
)

// entry is the entry of a file, a directory or the label (fatgen103, FAT Directory
// Structure).
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

// longEntry is a part of a long name. The parts precede the entry, the last part first
// (fatgen103, Long Directory Entries).
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

type newDir struct {
	path     string
	parent   *newDir
	fixed    bool // the root directory of FAT16, which has no clusters
	slots    int64
	clusters int64
	runs     []int // in layout.runs
	nodes    []*node
	names    map[string]*node // by folded name
}

// node is a file, or a directory if sub is not nil.
type node struct {
	name  string
	sub   *newDir
	first int64 // cluster; 0 if empty
	size  int64
}

// encode returns the directory in its on-disk form, one Content for each of its runs.
func (f *newDir) encode(l *layout, label [11]byte, t stamp) []image.Content {
	var b bytes.Buffer
	add := func(name [11]byte, attr uint8, first, size int64) {
		e := newEntry(name, attr, t)
		e.ClusterHigh, e.ClusterLow, e.Size = uint16(first>>16), uint16(first), uint32(size)
		put(&b, e)
	}

	// 1. The label in the root directory, "." and ".." in others. The cluster of the root
	// directory is 0 here, also in FAT32.
	if f.parent != nil {
		up := int64(0)
		if f.parent.parent != nil {
			up = l.runs[f.parent.runs[0]].first
		}
		add(pack(".", ""), attrDir, l.runs[f.runs[0]].first, 0)
		add(pack("..", ""), attrDir, up, 0)
	} else if label != noName {
		add(label, attrLabel, 0, 0)
	}

	// 2. The entries of each name, long entries first.
	aliases := f.aliases()
	for i, n := range f.nodes {
		if entries(n.name) > 1 {
			for _, e := range longEntries(n.name, checksum(aliases[i])) {
				put(&b, e)
			}
		}
		attr := uint8(attrArchive)
		if n.sub != nil {
			attr = attrDir
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
		panic("fat: internal error: a directory does not have its computed length")
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

// checkName returns why FAT cannot store a name.
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
			return fmt.Errorf("the name %q has the character %q, which FAT does not allow", name, r)
		}
	}
	if n := units(name); n > maxUnits {
		return fmt.Errorf("a name of %d characters is too long: FAT has room for %d", n, maxUnits)
	}
	return nil
}

// fold maps names that differ only in case to the same text.
func fold(name string) string {
	return strings.Map(func(r rune) rune {
		least := r
		for other := unicode.SimpleFold(r); other != r; other = unicode.SimpleFold(other) {
			least = min(least, other)
		}
		return least
	}, name)
}

// entries returns the number of entries that a name takes.
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

// checksum returns the checksum by which long entries refer to a short name.
func checksum(name [11]byte) uint8 {
	var sum uint8
	for _, c := range name {
		sum = sum>>1 | sum<<7
		sum += c
	}
	return sum
}

// short returns a name of the form 8.3 in upper case, padded as in an entry.
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

func shortRune(r rune) rune {
	switch {
	case 'a' <= r && r <= 'z':
		return r - 'a' + 'A'
	case 'A' <= r && r <= 'Z', '0' <= r && r <= '9', strings.ContainsRune("!#$%&'()-@^_`{}~", r):
		return r
	}
	return '_'
}

// aliases returns the short names of the nodes. A name that is of the form 8.3 except for
// its case is its own alias, so that it is not taken for the alias of another name.
func (f *newDir) aliases() [][11]byte {
	list := make([][11]byte, len(f.nodes))
	taken := map[[11]byte]bool{}
	for i, n := range f.nodes {
		if name, ok := short(n.name); ok {
			list[i] = name
			taken[name] = true
		}
	}
	numbers := map[string]int{} // the last number used, by base and extension
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

// numbered returns an alias with a number.
func numbered(base, ext string, n int) [11]byte {
	tail := fmt.Sprintf("~%d", n)
	return pack(base[:min(len(base), 8-len(tail))]+tail, ext)
}

// basis returns the base and extension that an alias is made from.
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

type parser struct {
	items []*item
	label string
	made  int64       // of the label
	slot  int         // of the next entry
	long  []longEntry // of the name that is being read, in on-disk order
}

// parse reads the entries in b. It returns end if the rest of the directory is unused.
func (p *parser) parse(b []byte, kind int) (end bool, err error) {
	for ; len(b) >= entrySize; b, p.slot = b[entrySize:], p.slot+1 {
		switch {
		case b[0] == 0:
			return true, nil
		case b[0] == 0xe5: // deleted
			p.long = nil
			continue
		case b[11]&0x3f == attrLong:
			var l longEntry
			take(bytes.NewReader(b[:entrySize]), &l)
			if l.Order&lastLong != 0 {
				p.long = nil
			}
			if len(p.long) < maxUnits/longUnits+1 {
				p.long = append(p.long, l)
			}
			continue
		}
		var e entry
		take(bytes.NewReader(b[:entrySize]), &e)
		long, longs := p.longName(checksum(e.Name)), len(p.long)
		p.long = nil
		if e.Attr&attrLabel != 0 {
			if p.label == "" && e.Attr&attrDir == 0 {
				p.label = decode(e.Name[:])
				if e.CreateDate != 0 {
					p.made = stamp{e.CreateDate, e.CreateTime, e.Tenths}.seconds()
				}
			}
			continue
		}
		if e.Name[0] == '.' {
			continue // "." or ".."
		}
		it := &item{
			alias: shortName(e),
			dir:   e.Attr&attrDir != 0,
			first: uint32(e.ClusterLow),
			size:  int64(e.Size),

			readOnly: e.Attr&attrReadOnly != 0,

			slot: p.slot, long: longs,
		}
		if e.WriteDate != 0 {
			it.written = stamp{e.WriteDate, e.WriteTime, 0}.seconds()
		}
		if kind == 32 {
			it.first |= uint32(e.ClusterHigh) << 16
		}
		if it.name = long; long == "" {
			it.name, it.long = it.alias, 0
		}
		for _, r := range it.name {
			if r < ' ' || r == '/' {
				return true, fmt.Errorf("the name %q has the character %q", it.name, r)
			}
		}
		if it.name == "" || it.name == "." || it.name == ".." {
			return true, fmt.Errorf("%q is not a name", it.name)
		}
		p.items = append(p.items, it)
	}
	return false, nil
}

// longName returns the name of the long entries, or "" if they are incomplete or belong to
// another short name.
func (p *parser) longName(sum uint8) string {
	var text []uint16
	for i := range p.long {
		l := p.long[len(p.long)-1-i]
		last := i == len(p.long)-1
		if l.Checksum != sum || l.Order&^lastLong != uint8(i+1) || (l.Order&lastLong != 0) != last {
			return ""
		}
		text = append(text, l.Name1[:]...)
		text = append(text, l.Name2[:]...)
		text = append(text, l.Name3[:]...)
	}
	for i, u := range text {
		if u == 0 {
			text = text[:i]
			break
		}
	}
	return string(utf16.Decode(text))
}

// Flags in entry.Case that Windows NT uses instead of a long name.
const (
	lowerBase = 0x08
	lowerExt  = 0x10
)

func shortName(e entry) string {
	if e.Name[0] == 0x05 {
		e.Name[0] = 0xe5 // which would be a deleted entry
	}
	base, ext := decode(e.Name[:8]), decode(e.Name[8:])
	if e.Case&lowerBase != 0 {
		base = strings.ToLower(base)
	}
	if e.Case&lowerExt != 0 {
		ext = strings.ToLower(ext)
	}
	if ext != "" {
		return base + "." + ext
	}
	return base
}

// codePage is the upper half of code page 437, in which Linux reads short names.
var codePage = []rune("ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u00a0")

func decode(field []byte) string {
	var s strings.Builder
	for _, c := range field {
		if c < 0x80 {
			s.WriteByte(c)
		} else {
			s.WriteRune(codePage[c-0x80])
		}
	}
	return strings.TrimRight(s.String(), " ")
}
