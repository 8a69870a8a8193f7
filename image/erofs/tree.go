package erofs

import (
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"path"
	"slices"
	"sync"

	erofs "github.com/erofs/go-erofs"

	"imgtool/image"
	"imgtool/image/tree"
)

// Tree returns the files of the file system, whose content is read on demand. If the file system
// is compressed, the error is [ErrCompressed].
func (r *Reader) Tree() (*tree.Tree, error) {
	s := r.Summary()
	if len(s.Codecs) > 0 {
		return nil, fmt.Errorf("%w (%s)", ErrCompressed, s.Compression())
	}
	files, err := erofs.Open(r.r)
	if err != nil {
		return nil, fmt.Errorf("erofs: %w", err)
	}
	w := &walk{files: files, r: r.r, size: s.BytesUsed, tree: tree.New(s.ModTime), inodes: map[uint64]*tree.Inode{}}
	if err := w.add("", s.Inodes); err != nil {
		return nil, fmt.Errorf("erofs: %w", err)
	}
	return w.tree, nil
}

type walk struct {
	files  fs.FS
	r      io.ReaderAt
	size   int64 // of the file system, in bytes
	tree   *tree.Tree
	inodes map[uint64]*tree.Inode // by their numbers
}

// add adds a file to the tree, and what is below it. max is the number of inodes that the file
// system claims.
func (w *walk) add(name string, max int64) error {
	inside := name
	if name == "" {
		inside = "."
	}
	info, err := w.files.(fs.ReadLinkFS).Lstat(inside)
	if err != nil {
		return err
	}
	stat := info.Sys().(*erofs.Stat)
	number := uint64(stat.Ino)
	n, known := w.inodes[number]
	switch {
	case known && n.Type() == tree.Dir:
		return fmt.Errorf("/%s: the directory has two names", name)
	case !known && int64(len(w.inodes)) >= max:
		return fmt.Errorf("it has more than the %d inodes of its superblock", max)
	case !known:
		if n, err = w.inode(inside, info, stat); err != nil {
			return fmt.Errorf("/%s: %w", name, err)
		}
		w.inodes[number] = n
	}
	if err := tree.CheckPath(name); name != "" && err != nil {
		return err
	}
	if err := w.tree.Put(name, n); err != nil || n.Type() != tree.Dir {
		return err
	}
	entries, err := fs.ReadDir(w.files, inside)
	if err != nil {
		return fmt.Errorf("/%s: %w", name, err)
	}
	for _, e := range entries {
		if err := w.add(path.Join(name, e.Name()), max); err != nil {
			return err
		}
	}
	return nil
}

// types has the types of st_mode by those of package fs.
var types = map[fs.FileMode]uint32{
	0:                                 tree.Regular,
	fs.ModeDir:                        tree.Dir,
	fs.ModeSymlink:                    tree.Symlink,
	fs.ModeDevice:                     tree.BlockDev,
	fs.ModeDevice | fs.ModeCharDevice: tree.CharDev,
	fs.ModeNamedPipe:                  tree.Fifo,
	fs.ModeSocket:                     tree.Socket,
}

func (w *walk) inode(name string, info fs.FileInfo, stat *erofs.Stat) (*tree.Inode, error) {
	kind, ok := types[stat.Mode.Type()]
	if !ok {
		return nil, fmt.Errorf("unknown file type %v", stat.Mode.Type())
	}
	if stat.Mtime > math.MaxInt64 {
		return nil, fmt.Errorf("invalid time %d", stat.Mtime)
	}
	n := &tree.Inode{Mode: kind | uint32(stat.Mode.Perm()), UID: stat.UID, GID: stat.GID, ModTime: int64(stat.Mtime)}
	for bit, mode := range map[fs.FileMode]uint32{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if stat.Mode&bit != 0 {
			n.Mode |= mode
		}
	}
	for _, key := range slices.Sorted(maps.Keys(stat.Xattrs)) {
		if tree.KeepXattr(key) {
			n.Xattrs = append(n.Xattrs, tree.Xattr{Name: key, Value: stat.Xattrs[key]})
		}
	}
	var err error
	switch kind {
	case tree.Symlink:
		n.Target, err = w.files.(fs.ReadLinkFS).ReadLink(name)
	case tree.BlockDev, tree.CharDev:
		// new_decode_dev of include/linux/kdev_t.h
		n.Major, n.Minor = stat.Rdev>>8&0xfff, stat.Rdev&0xff|stat.Rdev>>12&0xfff00
	case tree.Regular:
		ranges := info.(interface{ DataRange() []erofs.DataRange }).DataRange()
		if n.Content, err = w.content(ranges, info.Size()); ranges == nil && info.Size() > 0 {
			n.Content, err = &sequential{files: w.files, name: name, size: info.Size()}, nil
		}
	}
	return n, err
}

// content returns the content of a file of size bytes, or nil if it is empty.
func (w *walk) content(ranges []erofs.DataRange, size int64) (image.Content, error) {
	if size == 0 {
		return nil, nil
	}
	var extents []image.Extent
	at := int64(0)
	for i, d := range ranges {
		if d.Size <= 0 || d.Size > size-at {
			return nil, fmt.Errorf("the ranges of its content exceed its %d bytes", size)
		}
		if d.Offset >= 0 {
			if d.Device != 0 {
				return nil, fmt.Errorf("its content is on device %d", d.Device)
			}
			if d.Offset > w.size-d.Size {
				return nil, fmt.Errorf("its content, %d bytes at %d, exceeds the file system of %d bytes", d.Size, d.Offset, w.size)
			}
			extents = append(extents, image.Extent{Name: fmt.Sprint(i), Off: at, Content: io.NewSectionReader(w.r, d.Offset, d.Size)})
		}
		at += d.Size
	}
	if at != size {
		return nil, fmt.Errorf("the ranges of its content have %d of its %d bytes", at, size)
	}
	img, err := image.New(size, extents...)
	if err != nil {
		return nil, err
	}
	return img, nil
}

// sequential is the content of a file whose ranges are not known. It is read from front to back;
// reading at a lower offset starts again.
type sequential struct {
	files fs.FS
	name  string
	size  int64

	mu sync.Mutex
	f  fs.File
	at int64 // in f
}

func (s *sequential) Size() int64 { return s.size }

func (s *sequential) ReadAt(b []byte, off int64) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.f == nil || off < s.at {
		f, err := s.files.Open(s.name)
		if err != nil {
			return 0, err
		}
		s.f, s.at = f, 0
	}
	n, err := io.CopyN(io.Discard, s.f, off-s.at)
	if s.at += n; err != nil {
		return 0, err
	}
	k, err := io.ReadFull(s.f, b)
	s.at += int64(k)
	if err == io.ErrUnexpectedEOF {
		err = io.EOF
	}
	return k, err
}
