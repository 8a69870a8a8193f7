package tree

import (
	"archive/tar"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

const (
	block    = 512
	linkMode = Symlink | 0o777 // Linux knows no other
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
		what += ": " + strings.TrimPrefix(e.Err.Error(), "archive/tar: ")
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
	if isZero(head) {
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

// FromTar reads a tar that is not compressed. Nothing is copied: files are read
// from r when they are needed. Folders that the tar has no entry for get modTime.
//
// Entries land where extracting them one after the other would put them, so a
// parent may be a symbolic link. seen, unless it is nil, is told of each file, those
// too that a later entry replaces.
func FromTar(r io.ReaderAt, size int64, modTime int64, seen func(path string, n *Inode)) (*Tree, error) {
	t := New(modTime)
	err := readTar(r, size, func(e entry) error {
		path, err := t.resolve(e.path, false)
		if err != nil {
			return err
		}
		// tar refuses this too; a lost folder is worse than a refused tar.
		if _, old := t.find(path); old != nil && (e.node == nil || e.node.Type() != Dir) && len(old.leaves)+len(old.folders) > 0 {
			return fmt.Errorf("%s: not a folder, but the tar has entries in it already", e.path)
		}
		if err := t.place(path, e, nil); err != nil {
			return err
		}
		if seen != nil && e.node != nil && e.node.Type() == Regular {
			seen(path, e.node)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return t, nil
}

// place puts an entry at path, which has no links in it. Targets of hard links
// are looked for in the tree, then in gone.
func (t *Tree) place(path string, e entry, gone map[string]*Inode) error {
	if e.lost != "" {
		if t.lost++; t.lost == 1 {
			t.lostFirst = fmt.Sprintf("%s of %s", e.lost, e.path)
		}
	}
	if e.node == nil {
		target, err := t.resolve(e.link, false)
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
		if n.Type() == Dir {
			return fmt.Errorf("%s: hard link to %s, which is a folder", e.path, e.link)
		}
		e.node = n
	}
	if path == "" && e.node.Type() != Dir {
		return fmt.Errorf("%q: the root of a tree must be a folder", e.path)
	}
	return t.Put(path, e.node)
}

// entry is what a tar says about one path. A hard link has no node.
type entry struct {
	path string
	link string
	node *Inode
	lost string // an extended attribute that is left out
}

// faults remembers what a reader said other than that it ended, so that a
// failing disk is not taken for a damaged tar.
//
// Headers are read one by one, and the last byte before each: it reads somewhat more.
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

// readTar calls each with the entries of a tar in their order.
func readTar(r io.ReaderAt, size int64, each func(entry) error) error {
	var head [block]byte
	n, err := r.ReadAt(head[:min(block, max(0, size))], 0)
	if err != nil && err != io.EOF {
		return err
	}
	if !IsTar(head[:n]) {
		return ErrNotTar
	}

	in := &faults{ReaderAt: r, buf: make([]byte, 0, 4*block)}
	at := io.NewSectionReader(in, 0, size)
	tr := tar.NewReader(at)
	whole := &archive{r}
	var (
		path string // of the last entry
		end  int64  // of its data, padding included
	)
	fail := func(off int64, err error) error {
		if in.err != nil {
			return in.err
		}
		// archive/tar calls many a header invalid that is only not all there.
		if now, _ := at.Seek(0, io.SeekCurrent); now >= size {
			off, err = size, io.ErrUnexpectedEOF
		}
		return &CorruptError{off, path, err}
	}
	for {
		hdr, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fail(end, err)
		}
		off, _ := at.Seek(0, io.SeekCurrent)
		if hdr.Typeflag == tar.TypeXGlobalHeader || hdr.Typeflag == 'V' { // a volume's label
			end = off + padded(hdr.Size)
			continue
		}
		if path, err = cleanPath(hdr.Name); err != nil {
			return err
		}
		e := entry{path: path, lost: lostXattr(hdr.PAXRecords)}
		if hdr.Typeflag == tar.TypeLink {
			end = off
			if e.link, err = cleanPath(hdr.Linkname); err != nil {
				return fmt.Errorf("%s: hard link: %w", path, err)
			}
			if err := each(e); err != nil {
				return err
			}
			continue
		}
		if e.node, err = inode(hdr); err != nil {
			var bad base64.CorruptInputError
			if errors.As(err, &bad) {
				return fail(end, err)
			}
			return fmt.Errorf("%s: %w", path, err)
		}
		first := end
		end = off
		switch {
		case isSparse(hdr):
			if hdr.Size > maxSparse {
				return fmt.Errorf("%s: a sparse file of %d bytes is larger than %d", path, hdr.Size, maxSparse)
			}
			content, after, err := readSparse(&archive{in}, first, hdr)
			if err != nil {
				return fail(off, err)
			}
			// Where archive/tar goes on is where the data end, filled up.
			if end = after; end > size {
				return &CorruptError{size, path, io.ErrUnexpectedEOF}
			}
			if content.in = whole; hdr.Size > 0 && e.node.Type() == Regular {
				e.node.Content = content
			}
		case e.node.Type() == Regular:
			if hdr.Size > size-off {
				return &CorruptError{size, path, io.ErrUnexpectedEOF}
			}
			end = off + padded(hdr.Size)
			if hdr.Size > 0 {
				// One allocation, as there may be a million.
				both := &struct {
					Inode
					span
				}{*e.node, span{whole, off, hdr.Size}}
				e.node = &both.Inode
				e.node.Content = &both.span
			}
		case hdr.Typeflag == 'D':
			end = off + padded(hdr.Size)
		}
		if err := each(e); err != nil {
			return err
		}
	}
	// archive/tar takes the end of the file for the end of the archive.
	n, _ = at.ReadAt(head[:], end)
	if n < block || !isZero(head[:]) {
		return fail(end, tar.ErrHeader)
	}
	return nil
}

func padded(n int64) int64 {
	if n > math.MaxInt64-block {
		return math.MaxInt64 - block
	}
	return (n + block - 1) / block * block
}

func isZero(p []byte) bool {
	return len(p) == 0 || p[0] == 0 && bytes.Equal(p[1:], p[:len(p)-1])
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
	return path, checkPath(path)
}

func inode(hdr *tar.Header) (*Inode, error) {
	n := &Inode{ModTime: hdr.ModTime.Unix()}
	switch hdr.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		n.Mode = Regular
		if strings.HasSuffix(hdr.Name, "/") {
			n.Mode = Dir
		}
	case tar.TypeDir, 'D': // D: a folder of GNU tar's incremental archives
		n.Mode = Dir
	case tar.TypeSymlink:
		n.Mode = Symlink
		n.Target = strings.Clone(hdr.Linkname)
		if n.Target == "" || len(n.Target) > 4095 {
			return nil, fmt.Errorf("a symbolic link to a path of %d bytes", len(n.Target))
		}
	case tar.TypeChar:
		n.Mode = CharDev
	case tar.TypeBlock:
		n.Mode = BlockDev
	case tar.TypeFifo:
		n.Mode = Fifo
	case 'M':
		return nil, errors.New("continued from another volume")
	default:
		return nil, fmt.Errorf("entries of type %q are not known", hdr.Typeflag)
	}
	if n.Mode == Dir || n.Mode == Regular {
		if isSparse(hdr) {
			if v := hdr.PAXRecords["GNU.sparse.major"] + "." + hdr.PAXRecords["GNU.sparse.minor"]; v != "." && v != "0.0" && v != "0.1" && v != "1.0" {
				return nil, fmt.Errorf("sparse files of version %s are not known", v)
			}
		}
	}
	// Some programs put the file type there as well.
	n.Mode |= uint32(hdr.Mode & 0o7777)
	if n.Type() == Symlink {
		n.Mode = linkMode
	}
	for _, id := range []struct {
		name string
		from int
		to   *uint32
	}{{"user", hdr.Uid, &n.UID}, {"group", hdr.Gid, &n.GID}} {
		// The largest is the kernel's "no such one".
		if id.from < 0 || int64(id.from) >= math.MaxUint32 {
			return nil, fmt.Errorf("%s %d is not in 0 to %d", id.name, id.from, uint32(math.MaxUint32-1))
		}
		*id.to = uint32(id.from)
	}
	if t := n.Type(); t == CharDev || t == BlockDev {
		// As many bits as Linux has.
		if hdr.Devmajor < 0 || hdr.Devmajor >= 1<<12 || hdr.Devminor < 0 || hdr.Devminor >= 1<<20 {
			return nil, fmt.Errorf("device %d:%d is beyond 4095:1048575", hdr.Devmajor, hdr.Devminor)
		}
		n.Major, n.Minor = uint32(hdr.Devmajor), uint32(hdr.Devminor)
	}
	var err error
	if n.Xattrs, err = tarXattrs(hdr.PAXRecords); err == nil {
		n.Mode = groupBits(n.Mode, n.Xattrs)
	}
	return n, err
}

// GNU tar writes two characters of names so.
var unescapeXattr = strings.NewReplacer("%3D", "=", "%25", "%")

func tarXattrs(records map[string]string) ([]Xattr, error) {
	var all []Xattr
	add := func(name, value string) {
		if keepXattr(name) && !slices.ContainsFunc(all, func(x Xattr) bool { return x.Name == name }) {
			all = append(all, Xattr{strings.Clone(name), strings.Clone(value)})
		}
	}
	keys := slices.Sorted(maps.Keys(records))
	for _, k := range keys {
		if name, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
			add(unescapeXattr.Replace(name), records[k])
		}
	}
	// libarchive writes both; this one is the fallback.
	for _, k := range keys {
		v := records[k]
		name, ok := strings.CutPrefix(k, "LIBARCHIVE.xattr.")
		if !ok {
			continue
		}
		if plain, err := url.PathUnescape(name); err == nil {
			name = plain
		}
		if !keepXattr(name) {
			continue
		}
		value, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(v, "="))
		if err != nil {
			return nil, fmt.Errorf("extended attribute %s: %w", name, err)
		}
		add(name, string(value))
	}
	for _, k := range keys {
		if name, ok := aclRecords[k]; ok {
			// One that cannot be is lost, and told.
			if value, err := parseACL(records[k]); err == nil && value != "" {
				add(name, value)
			}
		}
	}
	slices.SortFunc(all, func(a, b Xattr) int { return strings.Compare(a.Name, b.Name) })
	return all, checkXattrs(all)
}

// lostXattr is the first extended attribute of a tar header that is left out.
func lostXattr(records map[string]string) string {
	for _, k := range slices.Sorted(maps.Keys(records)) {
		if name, ok := aclRecords[k]; ok && records["SCHILY.xattr."+name] == "" {
			if _, err := parseACL(records[k]); err != nil {
				return err.Error()
			}
			continue
		}
		name, ok := strings.CutPrefix(k, "SCHILY.xattr.")
		if !ok {
			name, ok = strings.CutPrefix(k, "LIBARCHIVE.xattr.")
		}
		if ok && !keepXattr(unescapeXattr.Replace(name)) {
			return name
		}
	}
	return ""
}

// Access control lists, as getxattr(2) has them.
const (
	ACL        = "system.posix_acl_access"
	DefaultACL = "system.posix_acl_default"
)

// keepXattr leaves out what a kernel makes up itself, such as the rest of system.*.
func keepXattr(name string) bool {
	if name == ACL || name == DefaultACL {
		return true
	}
	for _, prefix := range []string{"user.", "trusted.", "security."} {
		if len(name) > len(prefix) && strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// The kernel's limits.
func checkXattrs(all []Xattr) error {
	for _, x := range all {
		switch {
		case len(x.Name) > 255:
			return fmt.Errorf("extended attribute %.60s…: a name of %d bytes is longer than 255", x.Name, len(x.Name))
		case len(x.Value) > 64<<10:
			return fmt.Errorf("extended attribute %s: a value of %d bytes is longer than %d", x.Name, len(x.Value), 64<<10)
		}
	}
	return nil
}
