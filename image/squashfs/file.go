package squashfs

import (
	"fmt"
	"io"
)

// file is the content of a regular file. It implements image.Sparse.
type file struct {
	r     *Reader
	size  int64
	words []uint32 // stored length of each block, with blockRaw; 0 is a hole
	marks []uint64 // byte offset of every stride-th block

	// The fragment block with the tail end: its number (or none), the offset in it,
	// its byte offset and size word.
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

// Hole implements image.Sparse.
func (f *file) Hole(off int64) int64 {
	size := int64(f.r.super.BlockSize)
	i := off / size
	for i < int64(len(f.words)) && f.words[i] == 0 {
		i++
	}
	return max(0, min(i*size, f.size)-off)
}

// block returns the content of block i, which may be a tail end in a fragment
// block, or nil for a hole.
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
		return nil, fmt.Errorf("squashfs: the fragment block at byte %d has %d bytes, a tail end is at %d to %d", f.fragmentStart, len(b), f.fragmentAt, int(f.fragmentAt)+want)
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
		err = fmt.Errorf("squashfs: the block at byte %d decompresses to %d bytes, want %d", at, len(b), want)
	}
	return b, err
}

// dataBlock reads the data or fragment block at byte offset at, with the given size
// word.
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
