package squashfs

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"imgtool/image/tree"
)

// tables are the inode table and the directory table while they are made.
type tables struct {
	inodes, dirs *table
	tailEnds     []tailEnd
	blockSize    int64  // bytes
	count        uint32 // of all inodes
	buf          []byte
}

// fragment returns the number of the fragment block with the tail end of a file,
// and the offset in it.
func (t *tables) fragment(d *fileData) (number, offset uint32) {
	if d.tailEnd < 0 {
		return none, 0
	}
	return t.tailEnds[d.tailEnd].fragment, t.tailEnds[d.tailEnd].at
}

func (t *tables) write(ctx context.Context, root *node) error {
	if err := t.directory(ctx, root); err != nil {
		return err
	}
	t.inode(root)
	return errors.Join(t.inodes.err, t.dirs.err)
}

// directory writes the inodes of everything below dir, and its listing. An inode
// of a directory contains the position of its listing, and a listing contains the
// positions of the inodes; so subdirectories are first, then the inodes of the
// entries, next to each other, then the listing.
func (t *tables) directory(ctx context.Context, dir *node) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	for _, c := range dir.dir.children {
		if c.node.Type() == tree.Dir {
			if err := t.directory(ctx, c.node); err != nil {
				return err
			}
		}
	}
	for _, c := range dir.dir.children {
		if !c.node.written {
			t.inode(c.node)
		}
	}
	if err := t.list(dir); err != nil {
		return fmt.Errorf("%s: %w", show(dir.path()), err)
	}
	return nil
}

// listing is the position of a directory's entries in the directory table.
type listing struct {
	ref   uint64
	size  int64 // bytes
	index []indexEntry
}

// indexEntry is a position in a long listing at which a search can begin:
// squashfs 4.0, "Directory Index".
type indexEntry struct {
	at    uint32 // offset in the listing
	block uint32 // offset of the metadata block in the directory table
	name  string // the first name there
}

// list writes the listing of a directory whose entries' inodes are written:
// squashfs 4.0, "Directory Table".
func (t *tables) list(dir *node) error {
	l := listing{ref: t.dirs.ref()}
	block := uint32(l.ref >> 16)
	for rest := dir.dir.children; len(rest) > 0; {
		first := rest[0].node
		n, size := t.listRun(rest)
		// An index entry for the first header of each metadata block but the first,
		// up to the limit of the 16-bit count.
		if now := uint32(len(t.dirs.out)); now != block && len(l.index) < math.MaxUint16 {
			block = now
			l.index = append(l.index, indexEntry{uint32(l.size), block, rest[0].name})
		}
		// Header: entries less one, block of their inodes, inode number of the first.
		b := appendTo(t.buf[:0], uint32(n-1), uint32(first.ref>>16), first.number)
		// Entries: offset in the block, difference to the inode number in the header,
		// type, length of the name less one, name.
		for _, c := range rest[:n] {
			b = binary.LittleEndian.AppendUint16(b, uint16(c.node.ref))
			b = binary.LittleEndian.AppendUint16(b, uint16(c.node.number-first.number))
			b = binary.LittleEndian.AppendUint16(b, basicType(c.node.Type()))
			b = binary.LittleEndian.AppendUint16(b, uint16(len(c.name)-1))
			b = append(b, c.name...)
		}
		t.dirs.write(b)
		t.buf = b
		l.size += int64(size)
		rest = rest[n:]
	}
	if l.size > math.MaxUint32-listExtra {
		return fmt.Errorf("a directory with %d entries is larger than squashfs allows", len(dir.dir.children))
	}
	dir.dir.listing = l
	return nil
}

// listRun returns how many of the entries can follow one header, and the size of
// header and entries in bytes. Their inodes must be in one metadata block, with
// numbers near the number of the first. The run ends with the metadata block of the
// listing, so that the next header can have an index entry.
func (t *tables) listRun(entries []child) (n, size int) {
	const header, entry = 12, 8
	first := entries[0].node
	size = header
	for n < len(entries) && n < headEntries && len(t.dirs.buf)+size < metaSize {
		c := entries[n].node
		delta := int64(c.number) - int64(first.number)
		if c.ref>>16 != first.ref>>16 || delta != int64(int16(delta)) {
			break
		}
		size += entry + len(entries[n].name)
		n++
	}
	if n == 0 { // the rest of the metadata block is too short for a header
		return 1, header + entry + len(entries[0].name)
	}
	return n, size
}

// types are the file types in modes, by inode type.
var types = []uint32{
	typeDir: tree.Dir, typeFile: tree.Regular, typeSymlink: tree.Symlink, typeBlock: tree.BlockDev,
	typeChar: tree.CharDev, typeFifo: tree.Fifo, typeSocket: tree.Socket,
}

// basicType returns the inode type of a file type that [node.check] accepted.
func basicType(t uint32) uint16 { return uint16(slices.Index(types, t)) }

// inode writes n in the basic form if that can hold it, else in the extended
// form: squashfs 4.0, "Inode Table".
func (t *tables) inode(n *node) {
	n.ref, n.written = t.inodes.ref(), true
	kind := basicType(n.Type())
	long := n.xattr != none
	switch kind {
	case typeDir:
		l := n.dir.listing
		long = long || l.size+listExtra > math.MaxUint16 || len(l.index) > 0
	case typeFile:
		d := n.data
		long = long || n.links > 1 || d.size > math.MaxUint32 || d.start > math.MaxUint32 || slices.Contains(d.words, 0)
	}
	if long {
		kind += extended
	}
	// Common header: type, permissions, owner, group, time, inode number.
	b := appendTo(t.buf[:0], kind, uint16(n.Mode&0o7777), n.uid, n.gid, clampTime(n.ModTime), n.number)

	switch kind {
	case typeDir, typeDir + extended:
		// The root's parent is the number after the last inode.
		l, parent := n.dir.listing, t.count+1
		if n.parent != nil {
			parent = n.parent.number
		}
		size := l.size + listExtra
		if !long {
			b = appendTo(b, uint32(l.ref>>16), n.links, uint16(size), uint16(l.ref), parent)
			break
		}
		b = appendTo(b, n.links, uint32(size), uint32(l.ref>>16), parent, uint16(len(l.index)), uint16(l.ref), n.xattr)
		for _, e := range l.index {
			b = appendTo(b, e.at, e.block, uint32(len(e.name)-1))
			b = append(b, e.name...)
		}
	case typeFile:
		d := n.data
		fragment, at := t.fragment(d)
		b = appendTo(b, uint32(d.start), fragment, at, uint32(d.size), d.words)
	case typeFile + extended:
		d := n.data
		fragment, at := t.fragment(d)
		b = appendTo(b, d.start, d.size, d.sparse(t.blockSize), n.links, fragment, at, n.xattr, d.words)
	case typeSymlink, typeSymlink + extended:
		b = appendTo(b, n.links, uint32(len(n.Target)))
		b = append(b, n.Target...)
	case typeBlock, typeChar, typeBlock + extended, typeChar + extended:
		b = appendTo(b, n.links, n.Minor&0xff|n.Major<<8|n.Minor&^0xff<<12)
	case typeFifo, typeSocket, typeFifo + extended, typeSocket + extended:
		b = appendTo(b, n.links)
	}
	if long && kind != typeDir+extended && kind != typeFile+extended {
		b = appendTo(b, n.xattr)
	}
	t.inodes.write(b)
	t.buf = b
}
