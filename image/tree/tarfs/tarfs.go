package tarfs

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	"imgtool/image"
	"imgtool/image/tree"
)

const (
	block    = 512
	linkMode = tree.Symlink | 0o777 // Linux knows no other
)

// ErrNotTar is returned for something that does not begin as a tar does.
var ErrNotTar = errors.New("not a tar archive")

// CorruptError says that a tar is damaged or cut short.
type CorruptError struct {
	Off  int64  // how far the tar was good
	Path string // of the entry there, or the one before; may be ""
	Err  error  // io.ErrUnexpectedEOF if it is cut short
}

func (e *CorruptError) Error() string {
	what := fmt.Sprintf("damaged at byte %d", e.Off)
	if e.Err == io.ErrUnexpectedEOF {
		what = fmt.Sprintf("cut short at byte %d", e.Off)
	}
	if e.Path != "" {
		what += ", at " + e.Path
	}
	if e.Err != io.ErrUnexpectedEOF {
		what += ": " + e.Err.Error()
	}
	return what
}

func (e *CorruptError) Unwrap() error { return e.Err }

// IsTar tells by its first 512 bytes whether something can be a tar.
func IsTar(head []byte) bool {
	if len(head) < block {
		return false
	}
	head = head[:block]
	if image.IsZero(head) {
		return true // an empty one
	}
	// The sum is over the header with spaces in place of the sum. Some old
	// programs took bytes as signed.
	var unsigned, signed int64
	for i, b := range head {
		if i >= 148 && i < 156 {
			b = ' '
		}
		unsigned += int64(b)
		signed += int64(int8(b))
	}
	sum, err := strconv.ParseInt(strings.Trim(string(head[148:156]), " \x00"), 8, 64)
	return err == nil && (sum == unsigned || sum == signed)
}

// Read reads a tar that is not compressed. Nothing is copied: files are read
// from r when they are needed. Folders that the tar has no entry for get modTime.
//
// Entries land where extracting them one after the other would put them, so a
// parent may be a symbolic link.
func Read(r io.ReaderAt, size, modTime int64) (*tree.Tree, error) {
	t := tree.New(modTime)
	behind, err := readTar(r, size, false, func(e entry) error {
		path, err := t.Resolve(e.path, false)
		if err != nil {
			return err
		}
		// tar refuses this too; a lost folder is worse than a refused tar.
		if (e.node == nil || e.node.Type() != tree.Dir) && hasEntries(t, path) {
			return fmt.Errorf("%s: not a folder, but the tar has entries in it already", e.path)
		}
		return place(t, path, e, nil)
	})
	if err != nil {
		return nil, err
	}
	t.AddTrailing(behind)
	return t, nil
}

// hasEntries says whether path is a directory that is not empty.
func hasEntries(t *tree.Tree, path string) bool {
	for range t.List(path) {
		return true
	}
	return false
}

// place puts an entry at path, which has no links in it. Targets of hard links
// are looked for in the tree, then in gone.
func place(t *tree.Tree, path string, e entry, gone map[string]*tree.Inode) error {
	for _, l := range e.lost {
		t.AddLoss(l.what, e.path, l.detail)
	}
	if e.node == nil {
		target, err := t.Resolve(e.link, false)
		if err != nil {
			return fmt.Errorf("%s: hard link: %w", e.path, err)
		}
		n := t.Lookup(target)
		if n == nil {
			n = gone[e.link]
		}
		if n == nil {
			return fmt.Errorf("%s: hard link to %s, which is not there", e.path, e.link)
		}
		if n.Type() == tree.Dir {
			return fmt.Errorf("%s: hard link to %s, which is a folder", e.path, e.link)
		}
		e.node = n
	}
	if path == "" && e.node.Type() != tree.Dir {
		return fmt.Errorf("%q: the root of a tree must be a folder", e.path)
	}
	return t.Put(path, e.node)
}

// entry is what a tar says about one path. A hard link has no node.
type entry struct {
	path string
	link string
	node *tree.Inode
	lost []loss
}

// faults remembers what a reader said other than that it ended, so that a
// failing disk is not taken for a damaged tar.
//
// Headers are read one by one: it reads somewhat more.
type faults struct {
	io.ReaderAt
	err error
	buf []byte // what was read, of the room there is
	off int64
}

func (f *faults) ReadAt(p []byte, off int64) (int, error) {
	if len(p) < cap(f.buf) {
		if off < f.off || off+int64(len(p)) > f.off+int64(len(f.buf)) {
			n, err := f.read(f.buf[:cap(f.buf)], off)
			f.buf, f.off = f.buf[:n], off
			if n < len(p) {
				return copy(p, f.buf), err
			}
		}
		return copy(p, f.buf[off-f.off:]), nil
	}
	return f.read(p, off)
}

func (f *faults) read(p []byte, off int64) (int, error) {
	n, err := f.ReaderAt.ReadAt(p, off)
	if err != nil && err != io.EOF {
		f.err = err
	}
	return n, err
}

// readTar calls each with the entries of a tar in their order. With noEnd, the zeros
// after the last entry may be missing. behind is how many bytes there are after the
// end of the archive from the first on that is not zero.
func readTar(r io.ReaderAt, size int64, noEnd bool, each func(entry) error) (behind int64, err error) {
	var head [block]byte
	n, err := r.ReadAt(head[:min(block, max(0, size))], 0)
	if err != nil && err != io.EOF {
		return 0, err
	}
	if !IsTar(head[:n]) {
		return 0, ErrNotTar
	}

	in := &faults{ReaderAt: r, buf: make([]byte, 0, 4*block)}
	t := &tarReader{r: in, size: size}
	whole := &archive{r}
	path := "" // of the last entry
	fail := func(off int64, err error) error {
		if in.err != nil {
			return in.err
		}
		if errors.Is(err, io.ErrUnexpectedEOF) || err == errNoEnd {
			off, err = size, io.ErrUnexpectedEOF
		}
		return &CorruptError{off, path, err}
	}
	for {
		start := t.at
		hdr, err := t.next()
		if err == io.EOF || err == errNoEnd && noEnd && in.err == nil {
			break
		}
		if err != nil {
			return 0, fail(start, err)
		}
		if path, err = cleanPath(hdr.name); err != nil {
			return 0, err
		}
		e := entry{path: path, lost: lostRecords(hdr.records)}
		for _, key := range t.lost {
			e.lost = append(e.lost, loss{"values of a global header", key})
		}
		t.lost = nil
		if hdr.kind == tarLink {
			if e.link, err = cleanPath(hdr.link); err != nil {
				return 0, fmt.Errorf("%s: hard link: %w", path, err)
			}
			if err := each(e); err != nil {
				return 0, err
			}
			continue
		}
		if e.node, err = inode(hdr); err != nil {
			var bad base64.CorruptInputError
			if errors.As(err, &bad) {
				return 0, fail(start, err)
			}
			return 0, fmt.Errorf("%s: %w", path, err)
		}
		cutShort := hdr.stored > size-hdr.data
		switch {
		case cutShort && (hdr.isSparse() || e.node.Type() == tree.Regular):
			return 0, &CorruptError{size, path, io.ErrUnexpectedEOF}
		case hdr.isSparse():
			if hdr.size > maxSparse {
				return 0, fmt.Errorf("%s: a sparse file of %d bytes is larger than %d", path, hdr.size, maxSparse)
			}
			content, after, err := readSparse(&archive{in}, hdr)
			if err != nil {
				return 0, fail(hdr.data, err)
			}
			if t.at = after; after-padded(hdr.stored)+hdr.stored > size {
				return 0, &CorruptError{size, path, io.ErrUnexpectedEOF}
			}
			if content.in = whole; hdr.size > 0 && e.node.Type() == tree.Regular {
				e.node.Content = content
			}
		case e.node.Type() == tree.Regular && hdr.size > 0:
			e.node = withSpan(e.node, span{whole, hdr.data, hdr.size})
		}
		if err := each(e); err != nil {
			return 0, err
		}
	}
	return dataBehind(r, min(t.at+block, size), size)
}

// withSpan is a node with content, in one allocation, as there may be a million.
func withSpan(n *tree.Inode, s span) *tree.Inode {
	both := &struct {
		tree.Inode
		span
	}{*n, s}
	both.Inode.Content = &both.span
	return &both.Inode
}

// dataBehind is how many bytes there are between at and size from the first on that
// is not zero.
func dataBehind(r io.ReaderAt, at, size int64) (int64, error) {
	buf := make([]byte, 64<<10)
	for at < size {
		part := buf[:min(int64(len(buf)), size-at)]
		if _, err := image.ReadFull(r, part, at); err != nil {
			return 0, err
		}
		if !image.IsZero(part) {
			return size - at - int64(len(part)-len(bytes.TrimLeft(part, "\x00"))), nil
		}
		at += int64(len(part))
	}
	return 0, nil
}

func padded(n int64) int64 {
	if n > math.MaxInt64-block {
		return math.MaxInt64 - block
	}
	return (n + block - 1) / block * block
}

// cleanPath makes a tar's name a tree's path. Names are copied: archive/tar's
// share memory with all that the header held.
func cleanPath(name string) (string, error) {
	elems := make([]string, 0, 16)
	for e := range strings.SplitSeq(name, "/") {
		switch e {
		case "", ".":
		case "..":
			return "", fmt.Errorf("%s: a path with .. in it", name)
		default:
			elems = append(elems, e)
		}
	}
	path := strings.Join(elems, "/")
	if len(elems) == 1 {
		path = strings.Clone(path)
	}
	return path, tree.CheckPath(path)
}

func inode(hdr *header) (*tree.Inode, error) {
	n := &tree.Inode{ModTime: hdr.mtime}
	switch hdr.kind {
	case tarRegular, tarCont, tarGNUSparse:
		n.Mode = tree.Regular
		if strings.HasSuffix(hdr.name, "/") {
			n.Mode = tree.Dir
		}
	case tarDir, tarDumpDir:
		n.Mode = tree.Dir
	case tarSymlink:
		n.Mode = tree.Symlink
		n.Target = strings.Clone(hdr.link)
		if n.Target == "" || len(n.Target) > 4095 {
			return nil, fmt.Errorf("a symbolic link to a path of %d bytes", len(n.Target))
		}
	case tarChar:
		n.Mode = tree.CharDev
	case tarBlock:
		n.Mode = tree.BlockDev
	case tarFifo:
		n.Mode = tree.Fifo
	case tarMulti:
		return nil, errors.New("continued from another volume")
	default:
		return nil, fmt.Errorf("entries of type %q are not known", hdr.kind)
	}
	if n.Mode == tree.Dir || n.Mode == tree.Regular {
		if v := hdr.version; v != "" && v != "0.0" && v != "0.1" && v != "1.0" {
			return nil, fmt.Errorf("sparse files of version %s are not known", v)
		}
	}
	// Some programs put the file type there as well.
	n.Mode |= uint32(hdr.mode & 0o7777)
	if n.Type() == tree.Symlink {
		n.Mode = linkMode
	}
	for _, id := range []struct {
		name string
		from int64
		to   *uint32
	}{{"user", hdr.uid, &n.UID}, {"group", hdr.gid, &n.GID}} {
		// The largest is the kernel's "no such one".
		if id.from < 0 || id.from >= math.MaxUint32 {
			return nil, fmt.Errorf("%s %d is not in 0 to %d", id.name, id.from, uint32(math.MaxUint32-1))
		}
		*id.to = uint32(id.from)
	}
	if t := n.Type(); t == tree.CharDev || t == tree.BlockDev {
		// As many bits as Linux has.
		if hdr.major < 0 || hdr.major >= 1<<12 || hdr.minor < 0 || hdr.minor >= 1<<20 {
			return nil, fmt.Errorf("device %d:%d is beyond 4095:1048575", hdr.major, hdr.minor)
		}
		n.Major, n.Minor = uint32(hdr.major), uint32(hdr.minor)
	}
	var err error
	if n.Xattrs, err = tarXattrs(hdr.records); err == nil {
		n.Mode = groupBits(n.Mode, n.Xattrs)
	}
	return n, err
}
