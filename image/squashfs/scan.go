package squashfs

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"

	"imgtool/image/tree"
)

// scan reads all metadata of a file system into a tree.
type scan struct {
	*Reader
	tree   *tree.Tree
	ids    map[uint16]uint32
	xattrs map[uint32][]tree.Xattr
	inodes map[uint32]scanned // by inode number
	dirs   map[uint64]bool    // references of the directories that were read
	left   int64              // bytes of memory that may still be used
}

type scanned struct {
	ref  uint64
	node *tree.Inode
}

// dirRef is the position and size of a directory's listing.
type dirRef struct {
	ref  uint64
	size int64
}

// Tree reads all metadata and returns a tree whose files are read and decompressed
// on demand. Hard links share an inode.
//
// Metadata that needs more than 64 MiB of memory plus a fixed multiple of its size
// (at most 2 GiB, enough for some six million files), and a directory in two
// places, are errors; so a malicious file system cannot use up memory.
func (r *Reader) Tree() (*tree.Tree, error) {
	s := &scan{
		Reader: r,
		tree:   tree.New(0),
		ids:    map[uint16]uint32{},
		xattrs: map[uint32][]tree.Xattr{},
		inodes: map[uint32]scanned{},
		dirs:   map[uint64]bool{},
		left:   64<<20 + 128*min(int64(r.super.BytesUsed), 16<<20),
	}
	root, dir, err := s.inode(r.super.Root)
	if err != nil {
		return nil, err
	}
	if dir == nil {
		return nil, fmt.Errorf("squashfs: the root is not a directory")
	}
	if err := s.tree.Put("", root); err != nil {
		return nil, err
	}
	if err := s.list("", r.super.Root, *dir); err != nil {
		return nil, err
	}
	return s.tree, nil
}

// spend counts n bytes of memory that the tree needs at least.
func (s *scan) spend(n int64) error {
	if s.left -= n; s.left < 0 {
		return fmt.Errorf("squashfs: the metadata needs more memory than a valid file system of %d bytes", s.super.BytesUsed)
	}
	return nil
}

// list reads the directory dir of the tree and everything below it: squashfs 4.0,
// "Directory Table".
func (s *scan) list(dir string, ref uint64, at dirRef) error {
	if s.dirs[ref] {
		return fmt.Errorf("squashfs: directory %s is in more than one place", show(dir))
	}
	s.dirs[ref] = true
	if at.size <= listExtra {
		return nil
	}
	c := s.cursor(s.super.DirTable, at.ref)
	last := ""
	for left := at.size - listExtra; left > 0; {
		count, block, number := c.u32(), c.u32(), c.u32()
		left -= 12
		if c.err != nil {
			return c.err
		}
		if count >= headEntries {
			return fmt.Errorf("squashfs: %s: a directory header has %d entries, want at most %d", show(dir), int64(count)+1, headEntries)
		}
		for range count + 1 {
			offset, delta, kind, length := c.u16(), int16(c.u16()), c.u16(), int(c.u16())+1
			if c.err == nil && length > maxName {
				return fmt.Errorf("squashfs: %s: a name has %d bytes, want at most %d", show(dir), length, maxName)
			}
			name := string(c.take(length))
			left -= 8 + int64(length)
			if c.err != nil {
				return c.err
			}
			if left < 0 {
				return fmt.Errorf("squashfs: %s: the listing ends within an entry", show(dir))
			}
			if name <= last || strings.IndexByte(name, '/') >= 0 {
				return fmt.Errorf("squashfs: %s: the name %q is invalid or not sorted after %q", show(dir), name, last)
			}
			last = name
			if err := s.spend(320 + int64(len(name))); err != nil {
				return err
			}
			if err := s.put(strings.TrimPrefix(dir+"/"+name, "/"), reference(int64(block), int(offset)), number+uint32(int32(delta)), kind); err != nil {
				return err
			}
		}
	}
	return nil
}

// put adds the inode of a directory entry, which is read unless an earlier entry
// named it, and everything below it.
func (s *scan) put(path string, ref uint64, number uint32, kind uint16) error {
	known, ok := s.inodes[number]
	node, dir := known.node, (*dirRef)(nil)
	switch {
	case ok && known.ref != ref:
		return fmt.Errorf("squashfs: %s: inode number %d is in two places", path, number)
	case ok && node.Type() == tree.Dir:
		return fmt.Errorf("squashfs: directory %s is in more than one place", path)
	case !ok:
		var err error
		if node, dir, err = s.inode(ref); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		s.inodes[number] = scanned{ref, node}
	}
	if basicType(node.Type()) != kind {
		return fmt.Errorf("squashfs: %s: directory and inode have different types", path)
	}
	if err := s.tree.Put(path, node); err != nil {
		return err
	}
	if dir == nil {
		return nil
	}
	if err := s.spend(512); err != nil {
		return err
	}
	return s.list(path, ref, *dir)
}

// inode reads an inode, and for a directory the position of its listing:
// squashfs 4.0, "Inode Table".
func (s *scan) inode(ref uint64) (*tree.Inode, *dirRef, error) {
	c := s.cursor(s.super.InodeTable, ref)
	kind, mode, uid, gid, mtime, _ := c.u16(), c.u16(), c.u16(), c.u16(), c.u32(), c.u32()
	if c.err != nil {
		return nil, nil, c.err
	}
	long := kind > extended
	if long {
		kind -= extended
	}
	if kind == 0 || kind > typeSocket {
		return nil, nil, fmt.Errorf("squashfs: inode %#x has an unknown type", ref)
	}
	n := &tree.Inode{Mode: types[kind] | uint32(mode&0o7777), ModTime: int64(mtime)}
	var err error
	if n.UID, err = s.id(uid); err != nil {
		return nil, nil, err
	}
	if n.GID, err = s.id(gid); err != nil {
		return nil, nil, err
	}
	var dir *dirRef
	xattr := uint32(none)
	switch kind {
	case typeDir:
		dir, xattr = readDirInode(c, long)
	case typeFile:
		xattr, err = s.fileInode(c, long, n)
	case typeSymlink:
		c.u32() // links
		size := c.u32()
		if c.err == nil && size > math.MaxUint16 {
			return nil, nil, fmt.Errorf("squashfs: the target of a symbolic link has %d bytes, want at most %d", size, math.MaxUint16)
		}
		if err := s.spend(int64(size)); err != nil {
			return nil, nil, err
		}
		n.Target = string(c.take(int(size & math.MaxUint16)))
	case typeBlock, typeChar:
		c.u32() // links
		d := c.u32()
		n.Major, n.Minor = d>>8&0xfff, d&0xff|d>>12&0xfff00
	default:
		c.u32() // links
	}
	if long && kind != typeDir && kind != typeFile {
		xattr = c.u32()
	}
	if err == nil {
		err = c.err
	}
	if err != nil {
		return nil, nil, err
	}
	n.Xattrs, err = s.xattrSet(xattr)
	return n, dir, err
}

func readDirInode(c *cursor, long bool) (dir *dirRef, xattr uint32) {
	dir, xattr = &dirRef{}, none
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
	return dir, xattr
}

// fileInode reads the part of an inode that only regular files have, and sets the
// content of n.
func (s *scan) fileInode(c *cursor, long bool, n *tree.Inode) (xattr uint32, err error) {
	f := &file{r: s.Reader, fragment: none}
	var start uint64
	xattr = none
	if !long {
		start = uint64(c.u32())
		f.fragment, f.fragmentAt = c.u32(), c.u32()
		f.size = int64(c.u32())
	} else {
		start = c.u64()
		f.size = int64(c.u64())
		c.u64() // bytes in holes
		c.u32() // links
		f.fragment, f.fragmentAt = c.u32(), c.u32()
		xattr = c.u32()
	}
	if c.err != nil {
		return 0, c.err
	}
	if f.size > 0 {
		n.Content = f
	}
	if err := s.blocks(f, start, c); err != nil {
		return 0, err
	}
	return xattr, s.tailEnd(f)
}

// blocks reads the list of a file's blocks, which begin at byte offset start.
func (s *scan) blocks(f *file, start uint64, c *cursor) error {
	size := int64(s.super.BlockSize)
	if f.size < 0 || start > s.super.BytesUsed {
		return fmt.Errorf("squashfs: a file of %d bytes at %d", f.size, start)
	}
	count := f.size / size
	if f.size%size > 0 && f.fragment == none {
		count++
	}
	if err := s.spend(5 * count); err != nil {
		return err
	}
	end := start
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
		return fmt.Errorf("squashfs: the blocks of a file end at %d, after the file system of %d bytes", end, s.super.BytesUsed)
	}
	return nil
}

// tailEnd reads the fragment table entry of a file that has a tail end:
// squashfs 4.0, "Fragment Table".
func (s *scan) tailEnd(f *file) error {
	if f.fragment == none {
		return nil
	}
	if f.fragment >= s.super.Fragments {
		return fmt.Errorf("squashfs: fragment block %d does not exist, there are %d", f.fragment, s.super.Fragments)
	}
	e, err := s.entry(s.super.FragTable, f.fragment, fragmentLen)
	if err != nil {
		return err
	}
	start, word := e.u64(), e.u32()
	if e.err != nil {
		return e.err
	}
	size := int64(s.super.BlockSize)
	switch stored := uint64(word &^ blockRaw); {
	case stored == 0 || stored > uint64(size) || start > s.super.BytesUsed || stored > s.super.BytesUsed-start:
		return fmt.Errorf("squashfs: invalid fragment block of %d bytes at %d", stored, start)
	case int64(f.fragmentAt)+f.size%size > size:
		return fmt.Errorf("squashfs: a tail end of %d bytes at %d exceeds its fragment block of %d bytes", f.size%size, f.fragmentAt, size)
	}
	f.fragmentStart, f.fragmentWord = int64(start), word
	return nil
}

// id reads a user or group ID: squashfs 4.0, "ID Table".
func (s *scan) id(i uint16) (uint32, error) {
	if id, ok := s.ids[i]; ok {
		return id, nil
	}
	if i >= s.super.IDs {
		return 0, fmt.Errorf("squashfs: owner %d does not exist, there are %d", i, s.super.IDs)
	}
	c, err := s.entry(s.super.IDTable, uint32(i), 4)
	if err != nil {
		return 0, err
	}
	id := c.u32()
	s.ids[i] = id
	return id, c.err
}

// xattrSet reads a set of xattrs: squashfs 4.0, "Xattr Table".
func (s *scan) xattrSet(i uint32) ([]tree.Xattr, error) {
	if i == none || s.super.XattrTable == noTable {
		return nil, nil
	}
	if set, ok := s.xattrs[i]; ok {
		return set, nil
	}
	if s.super.XattrTable > s.super.BytesUsed {
		return nil, fmt.Errorf("squashfs: the xattr table at %d exceeds the file system of %d bytes", s.super.XattrTable, s.super.BytesUsed)
	}
	// Header: offset of the sets, number of sets, unused.
	head, err := s.bytes(int64(s.super.XattrTable), 16)
	if err != nil {
		return nil, err
	}
	sets, count := binary.LittleEndian.Uint64(head), binary.LittleEndian.Uint32(head[8:])
	if i >= count {
		return nil, fmt.Errorf("squashfs: xattr set %d does not exist, there are %d", i, count)
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
		x, err := s.xattr(c, sets)
		if err != nil {
			return nil, err
		}
		set = append(set, x)
	}
	slices.SortFunc(set, func(a, b tree.Xattr) int { return strings.Compare(a.Name, b.Name) })
	s.xattrs[i] = set
	return set, nil
}

// xattr reads the next xattr of a set. sets is the byte offset of all sets.
func (s *scan) xattr(c *cursor, sets uint64) (tree.Xattr, error) {
	kind, length := c.u16(), c.u16()
	if c.err != nil {
		return tree.Xattr{}, c.err
	}
	if int(kind&^xattrOutOfLine) >= len(prefixes) {
		return tree.Xattr{}, fmt.Errorf("squashfs: unknown xattr type %d", kind)
	}
	name := prefixes[kind&^xattrOutOfLine] + string(c.take(int(length)))
	size := c.u32()
	v := c
	if kind&xattrOutOfLine != 0 {
		v = s.cursor(sets, c.u64())
		size = v.u32()
	}
	if c.err == nil && v.err == nil && size > maxXattr {
		return tree.Xattr{}, fmt.Errorf("squashfs: xattr %.60q has %d bytes, want at most %d", name, size, maxXattr)
	}
	if err := s.spend(64 + int64(len(name)) + int64(size)); err != nil {
		return tree.Xattr{}, err
	}
	value := string(v.take(int(min(size, maxXattr))))
	if c.err != nil {
		return tree.Xattr{}, c.err
	}
	return tree.Xattr{Name: name, Value: value}, v.err
}
