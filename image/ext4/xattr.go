package ext4

import (
	"cmp"
	"errors"
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

	aclUser, aclGroup = 2, 8 // tags of ACL entries with a user or group ID
)

// prefixes are the prefixes of names by e_name_index: Documentation/filesystems/ext4,
// "Extended Attributes". The rest of the name is stored. A prefix without a dot at the
// end is a whole name.
var prefixes = map[uint8]string{
	1: "user.", 2: "system.posix_acl_access", 3: "system.posix_acl_default", 4: "trusted.", 6: "security.",
}

type xattr struct {
	prefix uint8
	name   string
	value  string
}

// size returns the bytes that an xattr needs in an inode or block.
func (x xattr) size() int { return xattrEntry + pad4(len(x.name)) + pad4(len(x.value)) }

func pad4(n int) int { return (n + 3) &^ 3 }

// xattrBlock is a block of xattrs. Files with equal xattrs share it.
type xattrBlock struct {
	xattrs []xattr
	refs   uint32
	block  int64
}

// xattrBlocks finds equal blocks.
type xattrBlocks struct {
	all  []*xattrBlock
	same map[string]*xattrBlock
}

// add encodes xattrs: as many as fit go into the inode, the rest into a block.
func (s *xattrBlocks) add(list []tree.Xattr) ([]byte, *xattrBlock, error) {
	if len(list) == 0 {
		return nil, nil, nil
	}
	// 4 bytes of zeros end the entries.
	spaceIn, space := inodeSize-inodeBody-4-4, blockSize-xattrHeader-4
	var all, in, out []xattr
	for _, x := range list {
		e, err := encodeXattr(x)
		if err != nil {
			return nil, nil, err
		}
		all = append(all, e)
	}
	// The kernel searches a block in this order.
	slices.SortFunc(all, func(a, b xattr) int {
		return cmp.Or(cmp.Compare(a.prefix, b.prefix), cmp.Compare(len(a.name), len(b.name)), cmp.Compare(a.name, b.name))
	})
	for i, e := range all {
		switch {
		case i > 0 && e.prefix == all[i-1].prefix && e.name == all[i-1].name:
			return nil, nil, fmt.Errorf("duplicate extended attribute %s%s", prefixes[e.prefix], e.name)
		case e.size() <= spaceIn:
			in, spaceIn = append(in, e), spaceIn-e.size()
		case e.size() <= space:
			out, space = append(out, e), space-e.size()
		default:
			return nil, nil, fmt.Errorf("extended attribute %s%s of %d bytes does not fit: ext4 has one block of %d bytes for all attributes of a file, of which %d are free",
				prefixes[e.prefix], e.name, len(e.value), blockSize, space)
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
			return xattr{}, fmt.Errorf("extended attribute %.60q: the name is longer than %d bytes or has a zero byte", x.Name, maxName)
		case whole:
			value, err := encodeACL(x.Value)
			if err != nil {
				return xattr{}, fmt.Errorf("extended attribute %s: %w", x.Name, err)
			}
			return xattr{i, name, value}, nil
		}
		return xattr{i, name, x.Value}, nil
	}
	return xattr{}, fmt.Errorf("extended attribute %.60q: ext4 does not support this prefix", x.Name)
}

// layXattrs writes entries from start on, and values from the end of area down. Only
// entries in a block have hashes.
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

// encode returns the content of the block. The checksum includes the block number.
func (b *xattrBlock) encode(seed uint32) []byte {
	area := make([]byte, blockSize)
	layXattrs(area, xattrHeader, b.xattrs, true)
	h, at := uint32(0), xattrHeader
	for _, x := range b.xattrs {
		one := le.Uint32(area[at+12:])
		if one == 0 {
			h = 0 // the kernel does not share such a block
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

// encodeACL converts an access control list from the form of getxattr (version 2) to
// that on disk (version 1), in which only entries for a user or group have an ID.
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
			return "", fmt.Errorf("the access control list ends within an entry")
		}
		tag, id := le.Uint16(v), []byte{0xff, 0xff, 0xff, 0xff}
		out = append(out, v[:4]...)
		v = v[4:]
		if tag == aclUser || tag == aclGroup {
			if len(v) < 4 {
				return "", fmt.Errorf("the access control list ends within an entry")
			}
			id, v = v[:4], v[4:]
		}
		out = append(out, id...)
	}
	return string(out), nil
}

func (s *scan) allXattrs(f *found) ([]tree.Xattr, error) {
	var all []tree.Xattr
	if len(f.rest) > 8 && le.Uint32(f.rest) == xattrMagic {
		in, err := s.decodeXattrs(f.rest[4:], 0)
		if err != nil {
			return nil, err
		}
		all = in
	}
	if at := int64(f.XattrBlock) | int64(f.XattrBlockHigh)<<32; at != 0 {
		out, ok := s.xattrs[at]
		if !ok {
			b, err := s.block(at)
			if err != nil {
				return nil, err
			}
			if le.Uint32(b) != xattrMagic || le.Uint32(b[8:]) != 1 {
				return nil, fmt.Errorf("extended attributes (block %d) are damaged: no magic number", at)
			}
			if s.sums {
				want := le.Uint32(b[16:])
				le.PutUint32(b[16:], 0)
				if sum := crc(crc(s.seed, le.AppendUint64(nil, uint64(at))), b); sum != want {
					return nil, fmt.Errorf("extended attributes (block %d) are damaged: the checksum is %#x, want %#x", at, sum, want)
				}
			}
			if out, err = s.decodeXattrs(b, xattrHeader); err != nil {
				return nil, fmt.Errorf("block %d: %w", at, err)
			}
			s.xattrs[at] = out
		}
		all = append(slices.Clip(all), out...)
	}
	slices.SortFunc(all, func(a, b tree.Xattr) int { return strings.Compare(a.Name, b.Name) })
	for i := 1; i < len(all); i++ {
		if all[i].Name == all[i-1].Name {
			return nil, fmt.Errorf("duplicate extended attribute %.60q", all[i].Name)
		}
	}
	return all, s.spend(32 * int64(len(all)))
}

// decodeXattrs reads the entries from start on. The offsets of values are relative to
// the start of area.
func (s *scan) decodeXattrs(area []byte, start int) ([]tree.Xattr, error) {
	var all []tree.Xattr
	for at := start; at+4 <= len(area) && le.Uint32(area[at:]) != 0; {
		if at+xattrEntry+int(area[at]) > len(area) {
			return nil, errors.New("extended attributes are damaged: an entry does not fit")
		}
		e := area[at:]
		name := string(e[xattrEntry : xattrEntry+int(e[0])])
		off, size := int64(le.Uint16(e[2:])), int64(le.Uint32(e[8:]))
		prefix, ok := prefixes[e[1]]
		switch {
		case !ok:
			return nil, fmt.Errorf("extended attribute %q has the unknown prefix %d", name, e[1])
		case le.Uint32(e[4:]) != 0:
			return nil, fmt.Errorf("extended attribute %s%q has its value in an inode, which is not supported", prefix, name)
		case size > 0 && off+size > int64(len(area)):
			return nil, fmt.Errorf("extended attributes are damaged: a value of %d bytes at %d exceeds %d bytes", size, off, len(area))
		}
		x := tree.Xattr{Name: prefix + name}
		if size > 0 {
			x.Value = string(area[off : off+size])
		}
		if !strings.HasSuffix(prefix, ".") {
			var err error
			if x.Value, err = decodeACL(x.Value); err != nil {
				return nil, fmt.Errorf("extended attribute %s: %w", x.Name, err)
			}
		}
		if err := s.spend(128 + int64(len(x.Name)) + size); err != nil {
			return nil, err
		}
		all = append(all, x)
		at += xattrEntry + pad4(int(e[0]))
	}
	return all, nil
}
