package fileinfo

import (
	"time"
	"unicode/utf8"

	"imgtool/image/tree"
)

// File is the metadata of a file for JSON.
type File struct {
	Path   string            `json:"path"`               // from the root of the file system
	Raw    []byte            `json:"path_raw,omitempty"` // if the path is not UTF-8
	Type   string            `json:"type"`
	Mode   string            `json:"mode"` // permission bits in octal
	UID    uint32            `json:"uid"`
	GID    uint32            `json:"gid"`
	Size   int64             `json:"size"`
	Time   string            `json:"time"` // RFC 3339
	Target string            `json:"target,omitempty"`
	Major  uint32            `json:"major,omitempty"`
	Minor  uint32            `json:"minor,omitempty"`
	Xattrs map[string][]byte `json:"xattrs,omitempty"`
}

// New returns the metadata of an inode.
func New(path string, n *tree.Inode) File {
	f := File{Path: path, Type: Type(n), Mode: Octal(n.Mode), UID: n.UID, GID: n.GID, Size: n.Size(),
		Time: time.Unix(n.ModTime, 0).UTC().Format(time.RFC3339), Target: n.Target, Major: n.Major, Minor: n.Minor}
	if !utf8.ValidString(path) {
		f.Raw = []byte(path)
	}
	for _, x := range n.Xattrs {
		if f.Xattrs == nil {
			f.Xattrs = map[string][]byte{}
		}
		f.Xattrs[x.Name] = []byte(x.Value)
	}
	return f
}
