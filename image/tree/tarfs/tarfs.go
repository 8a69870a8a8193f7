// Package tarfs reads trees from tars: one tar with [Read], the layers of a container image
// with [ApplyLayer].
//
// It reads the POSIX pax, GNU, star and Unix V7 formats, as pax(1) of POSIX.1-2008 and
// tar(5) of libarchive describe them, with sparse files, extended attributes, ACLs and
// SELinux labels. Files are not copied; their contents are sections of the tar.
package tarfs

import (
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

const block = 512

// ErrNotTar is the error for data that do not begin with a tar header.
var ErrNotTar = errors.New("not a tar archive")

// CorruptError is the error for a tar that is damaged or truncated.
type CorruptError struct {
	Off  int64  // of the damage
	Path string // of the entry there or before; may be ""
	Err  error  // io.ErrUnexpectedEOF if it is truncated
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

// IsTar reports whether head, the first 512 bytes of data, is the beginning of a tar.
func IsTar(head []byte) bool {
	if len(head) < block {
		return false
	}
	head = head[:block]
	if image.IsZero(head) {
		return true // an empty one
	}
	// The checksum is over the header with spaces in its own place. Some old programs
	// summed signed bytes.
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

// Read reads an uncompressed tar. The contents of files are read from r on demand.
// Directories without an entry get modTime, in seconds since 1970.
//
// The tree has what extracting the entries in their order would make; in particular, a
// parent may be a symbolic link.
func Read(r io.ReaderAt, size, modTime int64) (*tree.Tree, error) {
	t := tree.New(modTime)
	behind, err := readTar(r, size, false, func(e entry) error {
		path, err := t.Resolve(e.path, false)
		if err != nil {
			return err
		}
		// As tar does, refuse it rather than lose the entries.
		if (e.node == nil || e.node.Type() != tree.Dir) && hasEntries(t, path) {
			return fmt.Errorf("%s: not a directory, but the tar has entries in it already", e.path)
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

// place puts an entry at path, which is resolved. The target of a hard link is looked up
// in the tree, then in gone.
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
			return fmt.Errorf("%s: hard link to %s, which does not exist", e.path, e.link)
		}
		if n.Type() == tree.Dir {
			return fmt.Errorf("%s: hard link to %s, which is a directory", e.path, e.link)
		}
		e.node = n
	}
	if path == "" && e.node.Type() != tree.Dir {
		return fmt.Errorf("%q: the root of a tree must be a directory", e.path)
	}
	return t.Put(path, e.node)
}

// entry is one entry of a tar. A hard link has no node.
type entry struct {
	path string
	link string
	node *tree.Inode
	lost []loss
}

// faults keeps the last error of a reader other than io.EOF, so that a failing disk is not
// reported as a damaged tar. It also reads ahead, as headers are read one by one.
type faults struct {
	io.ReaderAt
	err error
	buf []byte // read ahead; its capacity is the length of a read
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

// readTar calls each for every entry of a tar in order. With noEnd, the blocks of zeros
// that mark the end may be missing. It returns the number of bytes after the end of the
// archive, from the first byte on that is not zero.
func readTar(r io.ReaderAt, size int64, noEnd bool, each func(entry) error) (behind int64, err error) {
	if err := checkStart(r, size); err != nil {
		return 0, err
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
	start := int64(0)
	for {
		start = t.at
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
			runs, after, err := readSparse(in, hdr)
			if err != nil {
				return 0, fail(hdr.data, err)
			}
			if t.at = after; after-padded(hdr.stored)+hdr.stored > size {
				return 0, &CorruptError{size, path, io.ErrUnexpectedEOF}
			}
			if hdr.size > 0 && e.node.Type() == tree.Regular {
				e.node.Content = image.NewMapped(r, hdr.size, runs)
			}
		case e.node.Type() == tree.Regular && hdr.size > 0:
			e.node = withSpan(e.node, span{whole, hdr.data, hdr.size})
		}
		if err := each(e); err != nil {
			return 0, err
		}
	}
	behind, err = trailing(r, min(t.at+block, size), size)
	if err == nil && behind > 0 && start == 0 {
		// Many file systems begin with zeros, as the end of a tar does.
		err = ErrNotTar
	}
	return behind, err
}

func checkStart(r io.ReaderAt, size int64) error {
	var head [block]byte
	n, err := r.ReadAt(head[:min(block, max(0, size))], 0)
	if err != nil && err != io.EOF {
		return err
	}
	if !IsTar(head[:n]) {
		return ErrNotTar
	}
	return nil
}

// withSpan returns n with a content. Both are in one allocation: a tree may have a million
// files.
func withSpan(n *tree.Inode, s span) *tree.Inode {
	both := &struct {
		tree.Inode
		span
	}{*n, s}
	both.Inode.Content = &both.span
	return &both.Inode
}

// trailing returns the number of bytes from the first byte after at that is not zero up to
// size.
func trailing(r io.ReaderAt, at, size int64) (int64, error) {
	buf := make([]byte, 64<<10)
	for at < size {
		part := buf[:min(int64(len(buf)), size-at)]
		if _, err := image.ReadFull(r, part, at); err != nil {
			return 0, err
		}
		if zeros := image.LeadingZeros(part); zeros < len(part) {
			return size - at - int64(zeros), nil
		}
		at += int64(len(part))
	}
	return 0, nil
}

// padded rounds n up to whole blocks.
func padded(n int64) int64 {
	if n > math.MaxInt64-block {
		return math.MaxInt64 - block
	}
	return (n + block - 1) / block * block
}

// cleanPath converts a name in a tar to a path in a tree. It does not share memory with
// the header.
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
			return nil, fmt.Errorf("a symbolic link to a path of %d bytes, not 1 to 4095", len(n.Target))
		}
	case tarChar:
		n.Mode = tree.CharDev
	case tarBlock:
		n.Mode = tree.BlockDev
	case tarFifo:
		n.Mode = tree.Fifo
	case tarMulti:
		return nil, errors.New("the file continues from another volume")
	default:
		return nil, fmt.Errorf("unknown entry type %q", hdr.kind)
	}
	if n.Mode == tree.Dir || n.Mode == tree.Regular {
		if v := hdr.version; v != "" && v != "0.0" && v != "0.1" && v != "1.0" {
			return nil, fmt.Errorf("unknown version %s of sparse files", v)
		}
	}
	// Some programs write the file type there too.
	n.Mode |= uint32(hdr.mode & 0o7777)
	if n.Type() == tree.Symlink {
		n.Mode = tree.SymlinkMode
	}
	for _, id := range []struct {
		name string
		from int64
		to   *uint32
	}{{"user", hdr.uid, &n.UID}, {"group", hdr.gid, &n.GID}} {
		// The largest ID is invalid in Linux.
		if id.from < 0 || id.from >= math.MaxUint32 {
			return nil, fmt.Errorf("%s %d is not in 0 to %d", id.name, id.from, uint32(math.MaxUint32-1))
		}
		*id.to = uint32(id.from)
	}
	if t := n.Type(); t == tree.CharDev || t == tree.BlockDev {
		// Linux has 12 and 20 bits.
		if hdr.major < 0 || hdr.major >= 1<<12 || hdr.minor < 0 || hdr.minor >= 1<<20 {
			return nil, fmt.Errorf("device %d:%d is larger than 4095:1048575", hdr.major, hdr.minor)
		}
		n.Major, n.Minor = uint32(hdr.major), uint32(hdr.minor)
	}
	var err error
	if n.Xattrs, err = xattrs(hdr.records); err == nil {
		n.Mode = groupBits(n.Mode, n.Xattrs)
	}
	return n, err
}
