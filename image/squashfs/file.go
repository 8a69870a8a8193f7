package squashfs

import (
	"cmp"
	"fmt"
	"io"
	"slices"

	"imgtool/image/tree"
)

// file is a regular file of a file system that is read.
type file struct {
	r     *Reader
	size  int64
	start uint64 // of its blocks
	words []uint32
	// Where every stride-th block is, so that none is far to find.
	marks []uint64

	fragment, fragmentAt uint32
	fragmentStart        int64
	fragmentWord         uint32
}

const stride = 64

func (f *file) Size() int64 { return f.size }

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("reading at %d: negative offset", off)
	}
	size := int64(f.r.super.BlockSize)
	n := 0
	for n < len(p) && off < f.size {
		i := off / size
		block, err := f.block(i)
		if err != nil {
			return n, err
		}
		k := min(size-off%size, f.size-off, int64(len(p)-n))
		if block == nil {
			clear(p[n : n+int(k)])
		} else {
			copy(p[n:n+int(k)], block[off%size:])
		}
		n, off = n+int(k), off+k
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// Hole is as image.Sparse has it.
func (f *file) Hole(off int64) int64 {
	size := int64(f.r.super.BlockSize)
	i := off / size
	for i < int64(len(f.words)) && f.words[i] == 0 {
		i++
	}
	return max(0, min(i*size, f.size)-off)
}

// block is all of block i, which may be in a fragment block, or nil for a hole.
func (f *file) block(i int64) ([]byte, error) {
	size := int64(f.r.super.BlockSize)
	want := int(min(size, f.size-i*size))
	if i == int64(len(f.words)) {
		b, err := f.r.dataBlock(f.fragmentStart, f.fragmentWord)
		if err != nil {
			return nil, err
		}
		if at := int(f.fragmentAt); at+want <= len(b) {
			return b[at : at+want], nil
		}
		return nil, fmt.Errorf("squashfs: fragment block at byte %d is too short", f.fragmentStart)
	}
	at := f.marks[i/stride]
	for _, w := range f.words[i/stride*stride : i] {
		at += uint64(w &^ blockRaw)
	}
	if f.words[i] == 0 {
		return nil, nil
	}
	b, err := f.r.dataBlock(int64(at), f.words[i])
	if err == nil && len(b) != want {
		err = fmt.Errorf("squashfs: block at byte %d gives %d bytes, not %d", at, len(b), want)
	}
	return b, err
}

// dataBlock reads the block at a place on disk, whose size word it is given.
func (r *Reader) dataBlock(at int64, word uint32) ([]byte, error) {
	if b, ok := r.data.get(at); ok && b.next == int64(word) {
		return b.data, nil
	}
	b, err := r.bytes(at, int(word&^blockRaw))
	if err == nil && word&blockRaw == 0 {
		b, err = r.decode(b, at, int(r.super.BlockSize))
	}
	if err != nil {
		return nil, err
	}
	r.data.put(at, cached{b, int64(word)})
	return b, nil
}

func sortXattrs(set []tree.Xattr) {
	slices.SortFunc(set, func(a, b tree.Xattr) int { return cmp.Compare(a.Name, b.Name) })
}
