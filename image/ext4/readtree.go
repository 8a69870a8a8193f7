package ext4

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math"
	"strings"

	"imgtool/image/tree"
)

// enter adds an inode at path, and everything below it if it is a directory.
func (s *scan) enter(path string, number, parent uint32, f *found) error {
	n, err := s.node(f)
	if err == nil {
		err = s.spend(512)
	}
	if err != nil {
		return fmt.Errorf("%s: inode %d: %w", show(path), number, err)
	}
	s.nodes[number] = n
	if err := s.tree.Put(path, n); err != nil {
		return err
	}
	if n.Type() != tree.Dir {
		return nil
	}
	return s.list(path, parent, f)
}

func show(path string) string { return cmp.Or(path, "the root directory") }

func (s *scan) node(f *found) (*tree.Inode, error) {
	n := &tree.Inode{
		Mode: uint32(f.Mode), UID: uint32(f.UID) | uint32(f.UIDHigh)<<16, GID: uint32(f.GID) | uint32(f.GIDHigh)<<16,
		ModTime: int64(int32(f.Mtime)) + int64(f.MtimeExtra&3)<<32,
	}
	if f.Flags&inlineFlag != 0 {
		return nil, errors.New("inline data is not supported")
	}
	var err error
	switch n.Type() {
	case tree.Regular:
		if f.size() < 0 || ceil(f.size(), s.blockSize) > math.MaxUint32 {
			return nil, fmt.Errorf("damaged: invalid file size %d", f.size())
		}
		if f.size() > 0 {
			if n.Content, err = s.content(f); err != nil {
				return nil, err
			}
		}
	case tree.Symlink:
		n.Mode = tree.SymlinkMode
		if n.Target, err = s.target(f); err != nil {
			return nil, err
		}
	case tree.CharDev, tree.BlockDev:
		n.Major, n.Minor = uint32(f.Block[1]), uint32(f.Block[0])
		if old := le.Uint32(f.Block[:]); old == 0 {
			d := le.Uint32(f.Block[4:])
			n.Major, n.Minor = d>>8&0xfff, d&0xff|d>>12&0xfff00
		}
	}
	n.Xattrs, err = s.allXattrs(f)
	return n, err
}

func (s *scan) target(f *found) (string, error) {
	size := f.size()
	if size <= 0 || size >= s.blockSize {
		return "", fmt.Errorf("damaged: the target of a symbolic link has %d bytes", size)
	}
	if f.Flags&extentFlag == 0 && size < fastSymlink {
		return string(f.Block[:size]), nil
	}
	c, err := s.content(f)
	if err != nil {
		return "", err
	}
	b := make([]byte, size)
	if err := readFull(c, b, 0); err != nil {
		return "", err
	}
	return string(b), s.spend(size)
}

func (s *scan) list(path string, parent uint32, f *found) error {
	extents, err := s.extents(f)
	if err != nil {
		return fmt.Errorf("%s: %w", show(path), err)
	}
	at := int64(0)
	for _, e := range extents {
		for i := range e.n {
			if at*s.blockSize >= f.size() {
				break
			}
			block := e.start + i
			if e.at+i != at {
				return fmt.Errorf("%s: the directory is damaged: block %d is missing", show(path), at)
			}
			err := s.spend(s.blockSize)
			var b []byte
			if err == nil {
				b, err = s.block(block)
			}
			if err == nil && s.sums {
				err = checkDirectoryBlock(b, f, at)
			}
			if err != nil {
				return fmt.Errorf("%s: block %d: %w", show(path), block, err)
			}
			if err := s.entries(path, parent, f, dirBlock{b, at, block}); err != nil {
				return err
			}
			at++
		}
	}
	if at*s.blockSize != f.size() || at == 0 {
		return fmt.Errorf("%s: the directory is damaged: it has %d bytes and %d blocks", show(path), f.size(), at)
	}
	return nil
}

// checkDirectoryBlock verifies the checksum of block i of a directory, which has entries
// or is part of the index. (Documentation/filesystems/ext4, "Directory Entries")
func checkDirectoryBlock(b []byte, f *found, i int64) error {
	var sum, want uint32
	size := len(b)
	index := 0
	if f.Flags&indexFlag != 0 {
		if i == 0 {
			index = rootIndex
		} else if le.Uint32(b) == 0 && int(le.Uint16(b[4:])) == size {
			index = nodeIndex
		}
	}
	if index > 0 {
		limit, count := int(le.Uint16(b[index:])), int(le.Uint16(b[index+2:]))
		if count > limit || index+8*limit+8 > size {
			return fmt.Errorf("the directory is damaged: %d index entries, want at most %d", count, limit)
		}
		tail := b[index+8*limit:]
		sum, want = crc(crc(f.seed, b[:index+8*count]), append(bytes.Clone(tail[:4]), 0, 0, 0, 0)), le.Uint32(tail[4:])
	} else {
		tail := b[size-tailSize:]
		if le.Uint32(tail) != 0 || le.Uint16(tail[4:]) != tailSize || tail[6] != 0 || tail[7] != tailKind {
			return errors.New("the directory is damaged: the block has no checksum")
		}
		sum, want = crc(f.seed, b[:size-tailSize]), le.Uint32(tail[8:])
	}
	if sum != want {
		return fmt.Errorf("the directory is damaged: the checksum is %#x, want %#x", sum, want)
	}
	return nil
}

// dirBlock is block i of a directory, which is block number of the file system.
type dirBlock struct {
	data      []byte
	i, number int64
}

// entries reads the entries in a block of the directory at path.
func (s *scan) entries(path string, parent uint32, f *found, block dirBlock) error {
	b := block.data
	bad := func(what string, args ...any) error {
		return fmt.Errorf("%s: block %d: the directory is damaged: %s", show(path), block.number, fmt.Sprintf(what, args...))
	}
	for at, k := 0, 0; at < len(b); k++ {
		if len(b)-at < 8 {
			return bad("the last %d bytes are too few for an entry", len(b)-at)
		}
		number, size, length, kind := le.Uint32(b[at:]), int(le.Uint16(b[at+4:])), int(b[at+6]), b[at+7]
		if s.super.Incompat&fileType == 0 {
			length, kind = length|int(kind)<<8, 0
		}
		if number == 0 {
			length = 0
		}
		if size < 8+length || size%4 != 0 || size > len(b)-at || length > maxName {
			return bad("an entry at %[2]d has %[1]d bytes, its name %[3]d", size, at, length)
		}
		name := string(b[at+8 : at+8+length])
		at += size
		if block.i == 0 && k < 2 {
			want, of := []string{".", ".."}[k], []uint32{f.number, parent}[k]
			if name != want || number != of {
				return bad("the entry is %q of inode %d, want %q of inode %d", name, number, want, of)
			}
			continue
		}
		if number == 0 {
			continue
		}
		if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
			return bad("invalid name %q", name)
		}
		full := strings.TrimPrefix(path+"/"+name, "/")
		if err := s.spend(256 + int64(len(name))); err != nil {
			return err
		}
		if s.tree.Lookup(full) != nil {
			return bad("duplicate name %q", name)
		}
		if err := s.put(full, number, f.number, kind); err != nil {
			return err
		}
	}
	return nil
}

// put adds the inode of a directory entry, which is read unless an earlier entry named
// it.
func (s *scan) put(path string, number, parent uint32, kind uint8) error {
	n := s.nodes[number]
	var f *found
	var kindOf uint8
	if n != nil {
		if kindOf = kinds[n.Type()]; n.Type() == tree.Dir {
			return fmt.Errorf("%s: directory of inode %d is in more than one place", path, number)
		}
	} else {
		var err error
		if f, err = s.inode(number); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		kindOf = kinds[f.Type()]
	}
	if kind != 0 && kind != kindOf {
		return fmt.Errorf("%s: the directory entry has type %d, but inode %d has type %d", path, kind, number, kindOf)
	}
	if n != nil {
		return s.tree.Put(path, n)
	}
	return s.enter(path, number, parent, f)
}
