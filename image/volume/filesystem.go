package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/google/uuid"

	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/erofs"
	"imgtool/image/ext4"
	"imgtool/image/fat"
	"imgtool/image/squashfs"
	"imgtool/image/tree"
)

// FileSystem is a file system or swap area that was read.
type FileSystem struct {
	Kind string     // "squashfs", "erofs", "ext4", "swap", "FAT12", "FAT16" or "FAT32"
	Tree *tree.Tree // its files; nil for swap and a compressed erofs

	Squashfs squashfs.Summary
	Erofs    erofs.Summary
	Ext4     *ext4.Options // nil unless it is an ext4
	Swap     Swap
	FAT      *fat.FS     // nil unless it is a FAT
	Entries  []fat.Entry // of a FAT, in the order of its directories
}

// Swap is the header of a swap area.
type Swap struct {
	Label string `json:"label,omitempty"`
	UUID  string `json:"uuid,omitempty"`
}

// Detect returns the kind of file system that r may hold by its first bytes:
// "squashfs", "erofs", "ext4", "swap", "FAT" or "".
func Detect(r io.ReaderAt) (string, error) {
	b := make([]byte, 4096)
	if _, err := r.ReadAt(b, 0); err != nil && err != io.EOF {
		return "", err
	}
	switch {
	case string(b[:4]) == "hsqs":
		return "squashfs", nil
	case string(b[erofs.SuperOffset:][:4]) == erofs.Magic:
		return "erofs", nil
	case b[1080] == 0x53 && b[1081] == 0xEF: // s_magic of fs/ext4/ext4.h
		return "ext4", nil
	case string(b[4086:]) == "SWAPSPACE2": // union swap_header of include/linux/swap.h
		return "swap", nil
	case b[510] == 0x55 && b[511] == 0xAA && (b[0] == 0xEB || b[0] == 0xE9):
		return "FAT", nil
	}
	return "", nil
}

// ReadFS reads the file system in r, which has size bytes; the content of files is read
// on demand. It returns nil without an error if it knows no file system that starts as r
// does. If the file system is damaged, it returns the error and the kind.
func ReadFS(r io.ReaderAt, size int64) (*FileSystem, error) {
	kind, err := Detect(r)
	if kind == "" || err != nil {
		return nil, err
	}
	v := &FileSystem{Kind: kind}
	switch kind {
	case "squashfs":
		var s *squashfs.Reader
		if s, err = squashfs.Open(r, size); err == nil {
			v.Squashfs = s.Summary()
			v.Tree, err = s.Tree()
		}
	case "erofs":
		var e *erofs.Reader
		if e, err = erofs.Open(r, size); err == nil {
			v.Erofs = e.Summary()
			if v.Tree, err = e.Tree(); errors.Is(err, erofs.ErrCompressed) {
				err = nil
			}
		}
	case "ext4":
		v.Tree, v.Ext4, err = ext4.Read(r, size)
	case "swap":
		head := make([]byte, 4096)
		_, err = image.ReadFull(r, head, 0)
		v.Swap = Swap{Label: strings.TrimRight(string(head[1052:1068]), "\x00"), UUID: uuid.UUID(head[1036:1052]).String()}
	case "FAT":
		if v.FAT, err = fat.Open(r); err == nil {
			v.Kind = fmt.Sprintf("FAT%d", v.FAT.Kind)
			if v.Entries, err = v.FAT.Entries(); err == nil {
				v.Tree, err = fatTree(v.Entries)
			}
		}
	}
	return v, err
}

// fatTree returns the files of a FAT with the modes that Linux gives them.
func fatTree(entries []fat.Entry) (*tree.Tree, error) {
	t := tree.New(0)
	for _, e := range entries {
		n := &tree.Inode{Mode: tree.Dir | 0o755, ModTime: e.Time}
		if !e.Dir {
			n.Mode = tree.Regular | 0o755
			if e.ReadOnly {
				n.Mode = tree.Regular | 0o555
			}
			if e.Size() > 0 {
				n.Content = e.Content
			}
		}
		if t.Lookup(e.Path) != nil {
			return nil, fmt.Errorf("it has two files named %q", e.Path)
		}
		if err := t.Put(e.Path, n); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// spelling returns path as the file system spells it: in a FAT the case of letters may
// differ.
func (v *FileSystem) spelling(path string) string {
	if v.FAT == nil {
		return path
	}
	at := ""
	for name := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		best := name
		for entry := range v.Tree.List(at) {
			if entry == name {
				best = name
				break
			}
			if strings.EqualFold(entry, name) {
				best = entry
			}
		}
		at = strings.TrimPrefix(at+"/"+best, "/")
	}
	return at
}

// Find returns the path of a file in the tree, without slashes at either end. If follow
// is true and the last element is a symbolic link, it is the path of the link's target.
func (v *FileSystem) Find(path string, follow bool) (string, error) {
	at, err := v.Tree.Resolve(v.spelling(path), follow)
	if err != nil {
		return "", err
	}
	if at = strings.Trim(at, "/"); v.Tree.Lookup(at) == nil {
		// The error of Open names the missing element.
		if _, err = v.Tree.Open(v.spelling(path)); err == nil {
			err = fs.ErrNotExist
		}
		return "", err
	}
	return at, nil
}

// ReadText returns the content of a file of up to limit bytes, or "" if there is no such
// file or it cannot be read.
func (v *FileSystem) ReadText(path string, limit int64) string {
	if v == nil || v.Tree == nil || path == "" {
		return ""
	}
	n, err := v.Tree.Open(path)
	if err != nil || n.Content == nil || n.Size() > limit {
		return ""
	}
	text := make([]byte, n.Size())
	if _, err := image.ReadFull(n.Content, text, 0); err != nil {
		return ""
	}
	return string(text)
}

// Unreadable returns the error of reading part of an image, with the name of the part.
// The part is corrupt unless the file it is in could not be read.
func Unreadable(name string, err error) error {
	if errors.As(err, new(*fs.PathError)) || errors.Is(err, context.Canceled) || errors.As(err, new(*artifact.CorruptError)) {
		return fmt.Errorf("%s: %w", name, err)
	}
	return corrupt("%s: %w", name, err)
}
