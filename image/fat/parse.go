package fat

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf16"
)

// parser parses a directory, one part after the other.
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
