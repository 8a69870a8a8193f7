package ext4

import (
	"cmp"
	"fmt"
	"math/bits"
	"slices"
	"strings"

	"imgtool/image/tree"
)

const (
	xattrMagic   = 0xea020000
	xattrHeader  = 32 // of a block
	xattrEntry   = 16 // before the name
	maxXattrRefs = 1024

	aclUser, aclGroup = 2, 8 // tags of entries that name somebody
)

// prefixes of names by number. What follows is stored; those without a dot at
// the end are whole names.
var prefixes = map[uint8]string{
	1: "user.", 2: "system.posix_acl_access", 3: "system.posix_acl_default", 4: "trusted.", 6: "security.",
}

type xattr struct {
	prefix uint8
	name   string
	value  string
}

// size is what an xattr takes, wherever it is.
func (x xattr) size() int { return xattrEntry + pad4(len(x.name)) + pad4(len(x.value)) }

func pad4(n int) int { return (n + 3) &^ 3 }

// xattrBlock is a block of xattrs, which several files may share.
type xattrBlock struct {
	xattrs []xattr
	refs   uint32
	block  int64
}

// xattrBlocks finds the blocks that are the same.
type xattrBlocks struct {
	all  []*xattrBlock
	same map[string]*xattrBlock
}

func newXattrBlocks() *xattrBlocks { return &xattrBlocks{same: map[string]*xattrBlock{}} }

// add returns what goes into an inode, and the block the rest is in.
func (s *xattrBlocks) add(list []tree.Xattr) ([]byte, *xattrBlock, error) {
	if len(list) == 0 {
		return nil, nil, nil
	}
	// What ends the entries takes 4 bytes.
	roomIn, room := inodeSize-inodeBody-4-4, blockSize-xattrHeader-4
	var all, in, out []xattr
	for _, x := range list {
		e, err := encodeXattr(x)
		if err != nil {
			return nil, nil, err
		}
		all = append(all, e)
	}
	// The order in which the kernel looks them up in a block.
	slices.SortFunc(all, func(a, b xattr) int {
		return cmp.Or(cmp.Compare(a.prefix, b.prefix), cmp.Compare(len(a.name), len(b.name)), cmp.Compare(a.name, b.name))
	})
	for i, e := range all {
		switch {
		case i > 0 && e.prefix == all[i-1].prefix && e.name == all[i-1].name:
			return nil, nil, fmt.Errorf("extended attribute %s%s is there twice", prefixes[e.prefix], e.name)
		case e.size() <= roomIn:
			in, roomIn = append(in, e), roomIn-e.size()
		case e.size() <= room:
			out, room = append(out, e), room-e.size()
		default:
			return nil, nil, fmt.Errorf("extended attribute %s%s of %d bytes does not fit: ext4 has one block of %d for all of a file, %d are left",
				prefixes[e.prefix], e.name, len(e.value), blockSize, room)
		}
	}
	var body []byte
	if len(in) > 0 {
		body = make([]byte, inodeSize-inodeBody)
		le.PutUint32(body, xattrMagic)
		layXattrs(body[4:], 0, in, false)
	}
	if len(out) == 0 {
		return body, nil, nil
	}
	key := fmt.Sprintf("%q", out)
	b := s.same[key]
	if b == nil || b.refs == maxXattrRefs {
		b = &xattrBlock{xattrs: out}
		s.same[key] = b
		s.all = append(s.all, b)
	}
	b.refs++
	return body, b, nil
}

func encodeXattr(x tree.Xattr) (xattr, error) {
	for i, prefix := range prefixes {
		name, ok := strings.CutPrefix(x.Name, prefix)
		switch whole := !strings.HasSuffix(prefix, "."); {
		case !ok || whole != (name == ""):
			continue
		case len(name) > maxName || strings.IndexByte(name, 0) >= 0:
			return xattr{}, fmt.Errorf("extended attribute %.60q: its name is longer than %d bytes, or has a zero byte", x.Name, maxName)
		case whole:
			value, err := encodeACL(x.Value)
			if err != nil {
				return xattr{}, fmt.Errorf("extended attribute %s: %w", x.Name, err)
			}
			return xattr{i, name, value}, nil
		}
		return xattr{i, name, x.Value}, nil
	}
	return xattr{}, fmt.Errorf("extended attribute %.60q: ext4 has no place for one of this kind", x.Name)
}

// layXattrs fills an area: entries from start on, values from its end down.
// Only those in a block have hashes.
func layXattrs(area []byte, start int, list []xattr, hashed bool) {
	at, end := start, len(area)
	for _, x := range list {
		e := area[at:]
		e[0], e[1] = byte(len(x.name)), x.prefix
		if len(x.value) > 0 {
			end -= pad4(len(x.value))
			le.PutUint16(e[2:], uint16(end))
		}
		le.PutUint32(e[8:], uint32(len(x.value)))
		copy(e[xattrEntry:], x.name)
		copy(area[end:], x.value)
		if hashed {
			le.PutUint32(e[12:], xattrHash(x.name, area[end:end+pad4(len(x.value))]))
		}
		at += xattrEntry + pad4(len(x.name))
	}
}

func xattrHash(name string, value []byte) uint32 {
	h := uint32(0)
	for i := range len(name) {
		h = bits.RotateLeft32(h, 5) ^ uint32(name[i])
	}
	for ; len(value) > 0; value = value[4:] {
		h = bits.RotateLeft32(h, 16) ^ le.Uint32(value)
	}
	return h
}

// encode is the block, whose number is in its checksum.
func (b *xattrBlock) encode(seed uint32) []byte {
	area := make([]byte, blockSize)
	layXattrs(area, xattrHeader, b.xattrs, true)
	h, at := uint32(0), xattrHeader
	for _, x := range b.xattrs {
		one := le.Uint32(area[at+12:])
		if one == 0 {
			h = 0 // such a block is not shared by the kernel
			break
		}
		h = bits.RotateLeft32(h, 16) ^ one
		at += xattrEntry + pad4(len(x.name))
	}
	for i, v := range []uint32{xattrMagic, b.refs, 1, h} {
		le.PutUint32(area[4*i:], v)
	}
	le.PutUint32(area[16:], crc(crc(seed, le.AppendUint64(nil, uint64(b.block))), area))
	return area
}

// Access control lists have another form on disk than in calls: version 1 for 2,
// and no id where an entry names nobody.
func encodeACL(value string) (string, error) {
	v := []byte(value)
	if len(v) < 4 || len(v)%8 != 4 || le.Uint32(v) != 2 {
		return "", fmt.Errorf("not an access control list")
	}
	out := le.AppendUint32(nil, 1)
	for v = v[4:]; len(v) > 0; v = v[8:] {
		out = append(out, v[:4]...)
		if tag := le.Uint16(v); tag == aclUser || tag == aclGroup {
			out = append(out, v[4:8]...)
		}
	}
	return string(out), nil
}

func decodeACL(value string) (string, error) {
	v := []byte(value)
	if len(v) < 4 || le.Uint32(v) != 1 {
		return "", fmt.Errorf("not an access control list")
	}
	out := le.AppendUint32(nil, 2)
	for v = v[4:]; len(v) > 0; {
		if len(v) < 4 {
			return "", fmt.Errorf("an access control list ends within an entry")
		}
		tag, id := le.Uint16(v), []byte{0xff, 0xff, 0xff, 0xff}
		out = append(out, v[:4]...)
		v = v[4:]
		if tag == aclUser || tag == aclGroup {
			if len(v) < 4 {
				return "", fmt.Errorf("an access control list ends within an entry")
			}
			id, v = v[:4], v[4:]
		}
		out = append(out, id...)
	}
	return string(out), nil
}
