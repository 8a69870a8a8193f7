package tarfs

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"imgtool/image/tree"
)

// The access control lists that tars have as text, and what they are as extended
// attributes.
var aclRecords = map[string]string{"SCHILY.acl.access": tree.ACL, "SCHILY.acl.default": tree.DefaultACL}

// Tags of an entry, as linux/posix_acl.h has them. The lower ones name nobody, or
// somebody with aclNamed.
var aclTags = map[string]uint16{"user": 0x01, "group": 0x04, "mask": 0x10, "other": 0x20}

const aclNamed = 2 // times the tag of what names somebody: ACL_USER, ACL_GROUP

// errACLName says that a list names somebody by name alone, whose number nobody
// knows here.
var errACLName = errors.New("an access control list with names and no numbers")

// parseACL makes the extended attribute of a list in text, such as
// "user::rw-,user:1000:r--,group::r--,mask::r--,other::---". Numbers are in the place
// of the name, or behind the permissions. It is "" for one that says no more than the
// mode.
func parseACL(text string) (string, error) {
	type entry struct {
		tag, perm uint16
		id        uint32
	}
	var all []entry
	for line := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ',' || r == '\n' }) {
		line, _, _ = strings.Cut(line, "#")
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) < 3 {
			return "", fmt.Errorf("an access control list with the entry %.60q", line)
		}
		e := entry{tag: aclTags[f[0]], id: 0xffffffff}
		if e.tag == 0 || len(f[2]) != 3 {
			return "", fmt.Errorf("an access control list with the entry %.60q", line)
		}
		for i, c := range []byte(f[2]) {
			if c == "rwx"[i] {
				e.perm |= 4 >> i
			} else if c != '-' {
				return "", fmt.Errorf("an access control list with the entry %.60q", line)
			}
		}
		if f[1] != "" {
			id, err := strconv.ParseUint(f[len(f)-1], 10, 32)
			if len(f) == 3 {
				id, err = strconv.ParseUint(f[1], 10, 32)
			}
			if err != nil {
				return "", errACLName
			}
			e.tag, e.id = e.tag*aclNamed, uint32(id)
		}
		all = append(all, e)
	}
	if len(all) <= 3 {
		return "", nil
	}
	slices.SortFunc(all, func(a, b entry) int { return cmp.Or(cmp.Compare(a.tag, b.tag), cmp.Compare(a.id, b.id)) })
	value := binary.LittleEndian.AppendUint32(nil, 2) // the form's version
	for _, e := range all {
		value, _ = binary.Append(value, binary.LittleEndian, e)
	}
	return string(value), nil
}

// groupBits are the permissions that a file with a list shows as its group's: those
// of the mask.
func groupBits(mode uint32, all []tree.Xattr) uint32 {
	for _, x := range all {
		if x.Name != tree.ACL {
			continue
		}
		v := []byte(x.Value)
		for at := 4; at+8 <= len(v); at += 8 {
			if binary.LittleEndian.Uint16(v[at:]) == aclTags["mask"] {
				return mode&^0o070 | uint32(v[at+2]&7)<<3
			}
		}
	}
	return mode
}
