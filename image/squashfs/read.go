package squashfs

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"strings"
	"sync"

	"imgtool/image/tree"
)

// Summary is what a file system says of itself.
type Summary struct {
	Codec     string // "gzip", "xz", "lz4" or "zstd"
	BlockSize int    // bytes
	Inodes    int
	IDs       int // different owners and groups
	Fragments int // fragment blocks
	BytesUsed int64
	ModTime   int64 // seconds since 1970
}

// Reader reads a file system. Several goroutines may use it and what it gives.
type Reader struct {
	src   io.ReaderAt
	super superblock
	codec *codec
	// decoders are decoder values not in use.
	decoders sync.Pool
	meta     cache // metadata blocks
	data     cache // data and fragment blocks
}

// Open reads the superblock of the file system in the first bytes of r, which
// has size bytes in all, and checks that its tables are within it.
func Open(r io.ReaderAt, size int64) (*Reader, error) {
	buf := make([]byte, superblockSize)
	if n, err := r.ReadAt(buf, 0); n < len(buf) {
		if err == io.EOF || err == nil {
			return nil, fmt.Errorf("squashfs: %d bytes are too few for one", n)
		}
		return nil, fmt.Errorf("squashfs: reading the superblock: %w", err)
	}
	var s superblock
	if _, err := binary.Decode(buf, binary.LittleEndian, &s); err != nil {
		panic("squashfs: internal error: " + err.Error())
	}
	switch {
	case s.Magic != magic:
		return nil, fmt.Errorf("not a squashfs: it begins with %#08x, not %#08x", s.Magic, uint32(magic))
	case s.Major != 4 || s.Minor != 0:
		return nil, fmt.Errorf("squashfs %d.%d cannot be read, only 4.0", s.Major, s.Minor)
	case s.BlockSize < minBlock || s.BlockSize > maxBlock || s.BlockSize&(s.BlockSize-1) != 0 || blockLog(int(s.BlockSize)) != s.BlockLog:
		return nil, fmt.Errorf("squashfs: a block size of %d cannot be", s.BlockSize)
	case s.BytesUsed > uint64(max(size, 0)):
		return nil, fmt.Errorf("squashfs of %d bytes is cut off after %d", s.BytesUsed, size)
	case s.InodeTable < superblockSize || s.DirTable <= s.InodeTable || s.FragTable < s.DirTable && s.Fragments > 0 ||
		s.IDTable < s.DirTable || s.DirTable > s.BytesUsed || s.Inodes == 0 || s.IDs == 0:
		return nil, fmt.Errorf("squashfs: its tables are not in order")
	}
	rd := &Reader{src: r, super: s}
	for i := range codecs {
		if codecs[i].id == s.Compressor {
			rd.codec = &codecs[i]
		}
	}
	if rd.codec == nil {
		return nil, fmt.Errorf("squashfs: compression number %d is not one of gzip, xz, lz4 and zstd", s.Compressor)
	}
	rd.meta.max, rd.data.max = 256, 8
	for _, t := range []struct {
		name  string
		start uint64
		count uint32
		len   uint64
	}{{"fragment", s.FragTable, s.Fragments, fragmentLen}, {"id", s.IDTable, uint32(s.IDs), 4}} {
		blocks := (uint64(t.count)*t.len + metaSize - 1) / metaSize
		if t.count > 0 && (t.start > s.BytesUsed || blocks*8 > s.BytesUsed-t.start) {
			return nil, fmt.Errorf("squashfs: its %s table of %d entries is not within it", t.name, t.count)
		}
	}
	return rd, nil
}

// Summary is what the superblock says.
func (r *Reader) Summary() Summary {
	return Summary{
		Codec:     r.codec.name,
		BlockSize: int(r.super.BlockSize),
		Inodes:    int(r.super.Inodes),
		IDs:       int(r.super.IDs),
		Fragments: int(r.super.Fragments),
		BytesUsed: int64(r.super.BytesUsed),
		ModTime:   int64(r.super.ModTime),
	}
}

// cache keeps the last few blocks by their place on disk.
type cache struct {
	mu     sync.Mutex
	max    int
	blocks map[int64]cached
	order  []int64
}

type cached struct {
	data []byte
	next int64 // the place after the block
}

func (c *cache) get(at int64) (cached, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b, ok := c.blocks[at]
	return b, ok
}

func (c *cache) put(at int64, b cached) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.blocks[at]; ok {
		return
	}
	if c.blocks == nil {
		c.blocks = map[int64]cached{}
	}
	if len(c.order) == c.max {
		delete(c.blocks, c.order[0])
		c.order = append(c.order[:0], c.order[1:]...)
	}
	c.blocks[at] = b
	c.order = append(c.order, at)
}

// bytes reads n bytes at a place that must be before end.
func (r *Reader) bytes(at int64, n int) ([]byte, error) {
	if at < 0 || int64(n) > int64(r.super.BytesUsed)-at {
		return nil, fmt.Errorf("squashfs: %d bytes at %d are not within it", n, at)
	}
	b := make([]byte, n)
	if k, err := r.src.ReadAt(b, at); k < n {
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("squashfs: reading at byte %d: %w", at+int64(k), err)
	}
	return b, nil
}

// decode decompresses stored, which was read at a place on disk, to no more
// than size bytes.
func (r *Reader) decode(stored []byte, at int64, size int) ([]byte, error) {
	dec, ok := r.decoders.Get().(decoder)
	if !ok {
		var err error
		if dec, err = r.codec.decoder(int(r.super.BlockSize)); err != nil {
			return nil, err
		}
	}
	dst := make([]byte, size)
	n, err := dec(dst, stored)
	if err != nil {
		// Its state is not known, so it is not used again.
		return nil, fmt.Errorf("squashfs: block at byte %d: %s: %w", at, r.codec.name, err)
	}
	r.decoders.Put(dec)
	return dst[:n], nil
}

// metaBlock reads the metadata block at a place on disk.
func (r *Reader) metaBlock(at int64) (cached, error) {
	if b, ok := r.meta.get(at); ok {
		return b, nil
	}
	head, err := r.bytes(at, 2)
	if err != nil {
		return cached{}, err
	}
	word := binary.LittleEndian.Uint16(head)
	n := int(word &^ metaRaw)
	if n == 0 || n > metaSize {
		return cached{}, fmt.Errorf("squashfs: a metadata block of %d bytes at byte %d", n, at)
	}
	b := cached{next: at + 2 + int64(n)}
	if b.data, err = r.bytes(at+2, n); err != nil {
		return cached{}, err
	}
	if word&metaRaw == 0 {
		if b.data, err = r.decode(b.data, at, metaSize); err != nil {
			return cached{}, err
		}
	}
	r.meta.put(at, b)
	return b, nil
}

// cursor reads a table of metadata blocks from a place on. After an error it
// gives zeros.
type cursor struct {
	r     *Reader
	block cached
	rest  []byte
	err   error
}

// cursor begins at a reference into the table that starts at table.
func (r *Reader) cursor(table, ref uint64) *cursor {
	c := &cursor{r: r}
	if ref>>48 != 0 || ref>>16 > r.super.BytesUsed || table > r.super.BytesUsed {
		c.err = fmt.Errorf("squashfs: reference %#x is not within it", ref)
		return c
	}
	if c.block, c.err = r.metaBlock(int64(table + ref>>16)); c.err != nil {
		return c
	}
	at := int(ref & 0xffff)
	if at > len(c.block.data) {
		c.err = fmt.Errorf("squashfs: reference %#x is beyond its block of %d bytes", ref, len(c.block.data))
		return c
	}
	c.rest = c.block.data[at:]
	return c
}

// take reads n bytes, which the caller has bounded.
func (c *cursor) take(n int) []byte {
	if n <= len(c.rest) {
		b := c.rest[:n]
		c.rest = c.rest[n:]
		return b
	}
	b := make([]byte, 0, n)
	for c.err == nil {
		k := min(n-len(b), len(c.rest))
		b = append(b, c.rest[:k]...)
		c.rest = c.rest[k:]
		if len(b) == n {
			return b
		}
		// Only the last block of a table may be short.
		if len(c.block.data) < metaSize {
			c.err = fmt.Errorf("squashfs: a table ends early at byte %d", c.block.next)
			break
		}
		if c.block, c.err = c.r.metaBlock(c.block.next); c.err == nil {
			c.rest = c.block.data
		}
	}
	return make([]byte, n)
}

func (c *cursor) u16() uint16 { return binary.LittleEndian.Uint16(c.take(2)) }
func (c *cursor) u32() uint32 { return binary.LittleEndian.Uint32(c.take(4)) }
func (c *cursor) u64() uint64 { return binary.LittleEndian.Uint64(c.take(8)) }

// entry reads entry i of a table whose index of blocks is at start.
func (r *Reader) entry(start uint64, i uint32, size int) (*cursor, error) {
	at := uint64(i) * uint64(size)
	if start > r.super.BytesUsed {
		return nil, fmt.Errorf("squashfs: no table at %d", start)
	}
	b, err := r.bytes(int64(start+at/metaSize*8), 8)
	if err != nil {
		return nil, err
	}
	block := binary.LittleEndian.Uint64(b)
	if block > r.super.BytesUsed {
		return nil, fmt.Errorf("squashfs: a table's block at %d is not within it", block)
	}
	c := r.cursor(block, at%metaSize)
	return c, c.err
}

// scan reads a whole file system into a tree.
type scan struct {
	*Reader
	tree    *tree.Tree
	ids     map[uint16]uint32
	xattrs  map[uint32][]tree.Xattr
	inodes  map[uint32]scanned // by number
	folders map[uint64]bool    // references of those read
	left    int64              // bytes of memory that may still be used
}

type scanned struct {
	ref  uint64
	node *tree.Inode
}

// folder is what an inode says of its listing.
type folder struct {
	ref  uint64
	size int64
}

// Tree reads all metadata and returns it as a tree whose files are read and
// decompressed when they are asked for. Names of one inode share it.
//
// A file system made to harm gives an error: its metadata may take no more than
// 64 MiB and a fixed multiple of its size, 2 GiB at most, which is enough for some
// six million files; and no folder may be in two places.
func (r *Reader) Tree() (*tree.Tree, error) {
	s := &scan{
		Reader:  r,
		tree:    tree.New(0),
		ids:     map[uint16]uint32{},
		xattrs:  map[uint32][]tree.Xattr{},
		inodes:  map[uint32]scanned{},
		folders: map[uint64]bool{},
		left:    64<<20 + 128*min(int64(r.super.BytesUsed), 16<<20),
	}
	root, dir, err := s.inode(r.super.Root)
	if err != nil {
		return nil, err
	}
	if dir == nil {
		return nil, fmt.Errorf("squashfs: its root is no folder")
	}
	if err := s.tree.Put("", root); err != nil {
		return nil, err
	}
	if err := s.list("", r.super.Root, *dir); err != nil {
		return nil, err
	}
	return s.tree, nil
}

func (s *scan) spend(n int64) error {
	if s.left -= n; s.left < 0 {
		return fmt.Errorf("squashfs: its metadata takes more memory than %d bytes of it can need", s.super.BytesUsed)
	}
	return nil
}

// What an entry needs at the least, however it is listed, and what a folder needs
// beside.
const (
	entryOverhead  = 320
	folderOverhead = 512
)

// list reads the folder at path and all below it.
func (s *scan) list(path string, ref uint64, dir folder) error {
	if s.folders[ref] {
		return fmt.Errorf("squashfs: folder %s is in more than one place", show(path))
	}
	s.folders[ref] = true
	if dir.size <= listExtra {
		return nil
	}
	c := s.cursor(s.super.DirTable, dir.ref)
	last := ""
	for left := dir.size - listExtra; left > 0; {
		count, block, number := c.u32(), c.u32(), c.u32()
		left -= 12
		if c.err != nil {
			return c.err
		}
		if count >= headEntries {
			return fmt.Errorf("squashfs: %s: a listing header of %d entries", show(path), int64(count)+1)
		}
		for range count + 1 {
			offset, delta, kind, length := c.u16(), int16(c.u16()), c.u16(), int(c.u16())+1
			if c.err == nil && length > maxName {
				return fmt.Errorf("squashfs: %s: a name of %d bytes", show(path), length)
			}
			name := string(c.take(length))
			left -= 8 + int64(length)
			if c.err != nil {
				return c.err
			}
			if left < 0 {
				return fmt.Errorf("squashfs: the listing of %s ends within an entry", show(path))
			}
			if name <= last || strings.IndexByte(name, '/') >= 0 {
				return fmt.Errorf("squashfs: %s: the name %q cannot be, or not after %q", show(path), name, last)
			}
			last = name
			at := name
			if path != "" {
				at = path + "/" + name
			}
			if err := s.spend(entryOverhead + int64(len(name))); err != nil {
				return err
			}
			if err := s.put(at, reference(int64(block), int(offset)), number+uint32(int32(delta)), kind); err != nil {
				return err
			}
		}
	}
	return nil
}

// put reads the inode that an entry names, unless another entry has, and what
// is below it.
func (s *scan) put(path string, ref uint64, number uint32, kind uint16) error {
	known, ok := s.inodes[number]
	node, dir := known.node, (*folder)(nil)
	switch {
	case ok && known.ref != ref:
		return fmt.Errorf("squashfs: %s: inode number %d is in two places", path, number)
	case ok && node.Type() == tree.Dir:
		return fmt.Errorf("squashfs: folder %s is in more than one place", path)
	case !ok:
		var err error
		if node, dir, err = s.inode(ref); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		s.inodes[number] = scanned{ref, node}
	}
	if basicType(node.Type()) != kind {
		return fmt.Errorf("squashfs: %s: its folder and its inode give different types", path)
	}
	if err := s.tree.Put(path, node); err != nil {
		return err
	}
	if dir == nil {
		return nil
	}
	if err := s.spend(folderOverhead); err != nil {
		return err
	}
	return s.list(path, ref, *dir)
}

var types = map[uint16]uint32{
	typeDir: tree.Dir, typeFile: tree.Regular, typeSymlink: tree.Symlink, typeBlock: tree.BlockDev,
	typeChar: tree.CharDev, typeFifo: tree.Fifo, typeSocket: tree.Socket,
}

// inode reads an inode; of a folder, also where its listing is.
func (s *scan) inode(ref uint64) (*tree.Inode, *folder, error) {
	c := s.cursor(s.super.InodeTable, ref)
	kind, mode, uid, gid, mtime, _ := c.u16(), c.u16(), c.u16(), c.u16(), c.u32(), c.u32()
	if c.err != nil {
		return nil, nil, c.err
	}
	long := kind > extended
	if long {
		kind -= extended
	}
	t, ok := types[kind]
	if !ok {
		return nil, nil, fmt.Errorf("squashfs: inode %#x has an unknown type", ref)
	}
	n := &tree.Inode{Mode: t | uint32(mode&0o7777), ModTime: int64(mtime)}
	var err error
	if n.UID, err = s.id(uid); err != nil {
		return nil, nil, err
	}
	if n.GID, err = s.id(gid); err != nil {
		return nil, nil, err
	}
	var dir *folder
	xattr := uint32(none)
	switch kind {
	case typeDir:
		dir = &folder{}
		var block, offset uint64
		if !long {
			block = uint64(c.u32())
			c.u32() // links
			dir.size = int64(c.u16())
			offset = uint64(c.u16())
		} else {
			c.u32() // links
			dir.size = int64(c.u32())
			block = uint64(c.u32())
			c.u32() // parent
			c.u16() // index entries
			offset = uint64(c.u16())
			xattr = c.u32()
		}
		dir.ref = block<<16 | offset
	case typeFile:
		f := &file{r: s.Reader, fragment: none}
		if !long {
			f.start = uint64(c.u32())
			f.fragment, f.fragmentAt = c.u32(), c.u32()
			f.size = int64(c.u32())
		} else {
			f.start = c.u64()
			f.size = int64(c.u64())
			c.u64() // bytes in holes
			c.u32() // links
			f.fragment, f.fragmentAt = c.u32(), c.u32()
			xattr = c.u32()
		}
		if c.err != nil {
			return nil, nil, c.err
		}
		if f.size > 0 {
			n.Content = f
		}
		if err := s.blocks(f, c); err != nil {
			return nil, nil, err
		}
	case typeSymlink:
		c.u32() // links
		size := c.u32()
		if c.err == nil && size > math.MaxUint16 {
			return nil, nil, fmt.Errorf("squashfs: a symbolic link to a path of %d bytes", size)
		}
		if err := s.spend(int64(size)); err != nil {
			return nil, nil, err
		}
		n.Target = string(c.take(int(size & math.MaxUint16)))
		if long {
			xattr = c.u32()
		}
	case typeBlock, typeChar:
		c.u32() // links
		d := c.u32()
		n.Major, n.Minor = d>>8&0xfff, d&0xff|d>>12&0xfff00
		if long {
			xattr = c.u32()
		}
	default:
		c.u32() // links
		if long {
			xattr = c.u32()
		}
	}
	if c.err != nil {
		return nil, nil, c.err
	}
	n.Xattrs, err = s.xattrSet(xattr)
	return n, dir, err
}

// blocks reads where the blocks and the end of f are, and checks that it can be.
func (s *scan) blocks(f *file, c *cursor) error {
	size := int64(s.super.BlockSize)
	if f.size < 0 || f.start > s.super.BytesUsed {
		return fmt.Errorf("squashfs: a file of %d bytes at %d", f.size, f.start)
	}
	count := f.size / size
	if f.size%size > 0 && f.fragment == none {
		count++
	}
	if err := s.spend(5 * count); err != nil {
		return err
	}
	end := f.start
	f.words = make([]uint32, 0, min(count, 4096))
	for i := range count {
		if i%stride == 0 {
			f.marks = append(f.marks, end)
		}
		word := c.u32()
		if c.err != nil {
			return c.err
		}
		if stored := word &^ blockRaw; stored > s.super.BlockSize {
			return fmt.Errorf("squashfs: a block of %d bytes is larger than %d", stored, size)
		}
		end += uint64(word &^ blockRaw)
		f.words = append(f.words, word)
	}
	if end > s.super.BytesUsed {
		return fmt.Errorf("squashfs: a file's blocks end at %d, after %d", end, s.super.BytesUsed)
	}
	if f.fragment == none {
		return nil
	}
	if f.fragment >= s.super.Fragments {
		return fmt.Errorf("squashfs: fragment %d of %d", f.fragment, s.super.Fragments)
	}
	e, err := s.entry(s.super.FragTable, f.fragment, fragmentLen)
	if err != nil {
		return err
	}
	start, word := e.u64(), e.u32()
	if e.err != nil {
		return e.err
	}
	switch stored := uint64(word &^ blockRaw); {
	case stored == 0 || stored > uint64(size) || start > s.super.BytesUsed || stored > s.super.BytesUsed-start:
		return fmt.Errorf("squashfs: a fragment block of %d bytes at %d", stored, start)
	case int64(f.fragmentAt)+f.size%size > size:
		return fmt.Errorf("squashfs: the end of a file at %d of a fragment block", f.fragmentAt)
	}
	f.fragmentStart, f.fragmentWord = int64(start), word
	return nil
}

func (s *scan) id(i uint16) (uint32, error) {
	if id, ok := s.ids[i]; ok {
		return id, nil
	}
	if i >= s.super.IDs {
		return 0, fmt.Errorf("squashfs: owner %d of %d", i, s.super.IDs)
	}
	c, err := s.entry(s.super.IDTable, uint32(i), 4)
	if err != nil {
		return 0, err
	}
	id := c.u32()
	s.ids[i] = id
	return id, c.err
}

// xattrSet reads the set of xattrs with a number.
func (s *scan) xattrSet(i uint32) ([]tree.Xattr, error) {
	if i == none || s.super.XattrTable == noTable {
		return nil, nil
	}
	if set, ok := s.xattrs[i]; ok {
		return set, nil
	}
	// The table begins with a struct: where the sets are, how many, unused.
	if s.super.XattrTable > s.super.BytesUsed {
		return nil, fmt.Errorf("squashfs: its xattr table at %d is not within it", s.super.XattrTable)
	}
	head, err := s.bytes(int64(s.super.XattrTable), 16)
	if err != nil {
		return nil, err
	}
	sets, count := binary.LittleEndian.Uint64(head), binary.LittleEndian.Uint32(head[8:])
	if i >= count {
		return nil, fmt.Errorf("squashfs: set of xattrs %d of %d", i, count)
	}
	e, err := s.entry(s.super.XattrTable+16, i, xattrIDLen)
	if err != nil {
		return nil, err
	}
	ref, n := e.u64(), e.u32()
	if e.err != nil {
		return nil, e.err
	}
	c := s.cursor(sets, ref)
	var set []tree.Xattr
	for range n {
		kind, length := c.u16(), c.u16()
		if c.err != nil {
			return nil, c.err
		}
		if int(kind&^xattrElsewhere) >= len(prefixes) {
			return nil, fmt.Errorf("squashfs: an xattr of unknown kind %d", kind)
		}
		name := prefixes[kind&^xattrElsewhere] + string(c.take(int(length)))
		size := c.u32()
		v := c
		if kind&xattrElsewhere != 0 {
			v = s.cursor(sets, c.u64())
			size = v.u32()
		}
		if c.err == nil && v.err == nil && size > maxXattr {
			return nil, fmt.Errorf("squashfs: xattr %.60q of %d bytes", name, size)
		}
		if err := s.spend(64 + int64(len(name)) + int64(size)); err != nil {
			return nil, err
		}
		value := string(v.take(int(min(size, maxXattr))))
		if c.err != nil {
			return nil, c.err
		}
		if v.err != nil {
			return nil, v.err
		}
		set = append(set, tree.Xattr{Name: name, Value: value})
	}
	sortXattrs(set)
	s.xattrs[i] = set
	return set, nil
}
