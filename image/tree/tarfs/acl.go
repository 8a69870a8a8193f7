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

// aclRecords are the records with access control lists in text form, and the extended
// attributes with the same lists in binary form.
var aclRecords = map[string]string{"SCHILY.acl.access": tree.ACL, "SCHILY.acl.default": tree.DefaultACL}

// aclTags are the tags of ACL entries for owners, mask and others: linux/posix_acl.h.
var aclTags = map[string]uint16{"user": 0x01, "group": 0x04, "mask": 0x10, "other": 0x20}

// aclNamed times the tag of the owner is the tag of a named user or group: ACL_USER,
// ACL_GROUP.
const aclNamed = 2

// errACLName is the error for a user or group that has a name and no numeric ID.
var errACLName = errors.New("an access control list with names and no numbers")

// parseACL converts a list in the text form of acl(5), such as
// "user::rw-,user:1000:r--,group::r--,mask::r--,other::---", to an extended attribute.
// Numeric IDs are in place of the name or after the permissions. The result is "" for a
// list that is equivalent to the mode.
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
	value := binary.LittleEndian.AppendUint32(nil, 2) // POSIX_ACL_XATTR_VERSION
	for _, e := range all {
		value, _ = binary.Append(value, binary.LittleEndian, e)
	}
	return string(value), nil
}

// groupBits returns the mode of a file with an access control list: the group has the
// permissions of the mask.
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
