package xz

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
)

// Size has the sizes of a block in an index.
type Size struct {
	unpadded int64 // of the block in the file, without padding
	unpacked int64
}

// Unpacked returns the sum of the sizes of blocks after unpacking, or 0 if there are none or the
// sum is too large.
func Unpacked(sizes []Size) (n int64) {
	for _, s := range sizes {
		if n += s.unpacked; n < 0 || s.unpacked < 0 {
			return 0
		}
	}
	return n
}

const (
	maxBlocks = 1 << 20 // whose sizes are read
	maxIndex  = 16 << 20
	// maxPadding is how many words of stream padding are passed.
	maxPadding = 64 << 10
)

// ReadSizes returns the sizes of all blocks of a file from its indexes, which are at the ends
// of its streams. It returns nil if these cannot be read; reading the file will report why.
// The sizes may be wrong: a [Reader] compares them with the blocks.
func ReadSizes(r io.ReaderAt, size int64) []Size {
	var all [][]Size
	n, padding := 0, 0
	for end := size; end > 0; {
		var word [4]byte
		if end < 4 || padding > maxPadding {
			return nil
		}
		if _, err := r.ReadAt(word[:], end-4); err != nil && err != io.EOF {
			return nil
		}
		if word == [4]byte{} {
			end -= 4
			padding++
			continue
		}
		sizes, start := streamSizes(r, end)
		if n += len(sizes); start < 0 || n > maxBlocks {
			return nil
		}
		all = append(all, sizes)
		end = start
	}
	sizes := make([]Size, 0, n)
	for i := range all {
		sizes = append(sizes, all[len(all)-1-i]...)
	}
	return sizes
}

// streamSizes reads the index of the stream that ends at end. start is where the stream
// begins, or -1 if there is no valid index.
func streamSizes(r io.ReaderAt, end int64) (sizes []Size, start int64) {
	read := func(at, n int64) []byte {
		b := make([]byte, n)
		if at < 0 {
			return nil
		}
		if k, _ := r.ReadAt(b, at); k < len(b) {
			return nil
		}
		return b
	}
	le := binary.LittleEndian
	footer := read(end-streamHeader, streamHeader)
	if footer == nil || string(footer[10:]) != "YZ" || le.Uint32(footer) != crc32.ChecksumIEEE(footer[4:10]) {
		return nil, -1
	}
	n := (int64(le.Uint32(footer[4:])) + 1) * 4
	if n > maxIndex {
		return nil, -1
	}
	at := end - streamHeader - n
	index := read(at, n)
	if len(index) < 8 || index[0] != 0 || le.Uint32(index[n-4:]) != crc32.ChecksumIEEE(index[:n-4]) {
		return nil, -1
	}
	records := bytes.NewReader(index[1 : n-4])
	number := func() int64 {
		n, err := readNumber(records)
		if err != nil || n > 1<<62 {
			return -1
		}
		return n
	}
	count := number()
	for ; count > 0 && len(sizes) < maxBlocks; count-- {
		s := Size{number(), number()}
		if s.unpadded < 0 || s.unpacked < 0 || s.unpadded > at {
			return nil, -1
		}
		at -= s.unpadded + -s.unpadded&3
		sizes = append(sizes, s)
	}
	if at -= streamHeader; count != 0 || at < 0 {
		return nil, -1
	}
	if h := read(at, streamHeader); h == nil || string(h[:6]) != streamMagic {
		return nil, -1
	}
	return sizes, at
}
