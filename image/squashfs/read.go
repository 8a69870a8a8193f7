package squashfs

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"sync"

	"imgtool/image"
	"imgtool/image/squashfs/codec"
)

// Summary is the content of a superblock.
type Summary struct {
	Codec     string // "gzip", "xz", "lz4" or "zstd"
	BlockSize int    // bytes
	Inodes    int
	IDs       int // number of different owners and groups
	Fragments int // fragment blocks
	BytesUsed int64
	ModTime   int64 // seconds since 1970
}

// Reader reads a file system. Several goroutines may use it, and the trees that it
// returns, at the same time.
type Reader struct {
	src      io.ReaderAt
	super    superblock
	codec    *codec.Codec
	decoders sync.Pool // of codec.Decoder
	meta     cache     // metadata blocks
	data     cache     // data and fragment blocks
}

// Open reads the superblock of the file system at byte 0 of r and checks that its
// tables are within it. r has size bytes, which may be more than the file system.
func Open(r io.ReaderAt, size int64) (*Reader, error) {
	buf := make([]byte, superblockSize)
	switch n, err := image.ReadFull(r, buf, 0); {
	case err == io.ErrUnexpectedEOF:
		return nil, fmt.Errorf("squashfs: %d bytes are too few", n)
	case err != nil:
		return nil, fmt.Errorf("squashfs: reading the superblock: %w", err)
	}
	var s superblock
	if _, err := binary.Decode(buf, binary.LittleEndian, &s); err != nil {
		panic("squashfs: internal error: " + err.Error())
	}
	switch {
	case s.Magic != magic:
		return nil, fmt.Errorf("not a squashfs: the magic number is %#08x, want %#08x", s.Magic, uint32(magic))
	case s.Major != 4 || s.Minor != 0:
		return nil, fmt.Errorf("squashfs %d.%d is not supported, only 4.0", s.Major, s.Minor)
	case s.BlockSize < minBlock || s.BlockSize > maxBlock || s.BlockSize&(s.BlockSize-1) != 0 || blockLog(int(s.BlockSize)) != s.BlockLog:
		return nil, fmt.Errorf("squashfs: invalid block size %d", s.BlockSize)
	case s.BytesUsed > uint64(max(size, 0)):
		return nil, fmt.Errorf("squashfs of %d bytes is cut off after %d", s.BytesUsed, size)
	case s.InodeTable < superblockSize || s.DirTable <= s.InodeTable || s.FragTable < s.DirTable && s.Fragments > 0 ||
		s.IDTable < s.DirTable || s.DirTable > s.BytesUsed || s.Inodes == 0 || s.IDs == 0:
		return nil, fmt.Errorf("squashfs: the tables are not in order")
	}
	c := codec.ByID(s.Compressor)
	if c == nil {
		return nil, fmt.Errorf("squashfs: compression %d is not supported, only gzip (1), xz (4), lz4 (5) and zstd (6)", s.Compressor)
	}
	for _, t := range []struct {
		name  string
		start uint64
		count uint32
		len   uint64
	}{{"fragment", s.FragTable, s.Fragments, fragmentLen}, {"id", s.IDTable, uint32(s.IDs), 4}} {
		blocks := (uint64(t.count)*t.len + metaSize - 1) / metaSize
		if t.count > 0 && (t.start > s.BytesUsed || blocks*8 > s.BytesUsed-t.start) {
			return nil, fmt.Errorf("squashfs: the %s table of %d entries at %d exceeds the file system of %d bytes", t.name, t.count, t.start, s.BytesUsed)
		}
	}
	return &Reader{src: r, super: s, codec: c, meta: cache{max: 256}, data: cache{max: 8}}, nil
}

// Summary returns the content of the superblock.
func (r *Reader) Summary() Summary {
	return Summary{
		Codec:     r.codec.Name,
		BlockSize: int(r.super.BlockSize),
		Inodes:    int(r.super.Inodes),
		IDs:       int(r.super.IDs),
		Fragments: int(r.super.Fragments),
		BytesUsed: int64(r.super.BytesUsed),
		ModTime:   int64(r.super.ModTime),
	}
}

// cache has the last few blocks by their byte offset.
type cache struct {
	mu     sync.Mutex
	max    int
	blocks map[int64]cached
	order  []int64
}

type cached struct {
	data []byte
	next int64 // of a metadata block: offset of the next; else the size word
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
		c.order = slices.Delete(c.order, 0, 1)
	}
	c.blocks[at] = b
	c.order = append(c.order, at)
}

// bytes reads n bytes at an offset. They must be within the file system.
func (r *Reader) bytes(at int64, n int) ([]byte, error) {
	if at < 0 || int64(n) > int64(r.super.BytesUsed)-at {
		return nil, fmt.Errorf("squashfs: %d bytes at %d exceed the file system of %d bytes", n, at, r.super.BytesUsed)
	}
	b := make([]byte, n)
	if k, err := image.ReadFull(r.src, b, at); err != nil {
		return nil, fmt.Errorf("squashfs: reading at byte %d: %w", at+int64(k), err)
	}
	return b, nil
}

// decode decompresses the block stored, which is at byte offset at, to at most size
// bytes.
func (r *Reader) decode(stored []byte, at int64, size int) ([]byte, error) {
	dec, ok := r.decoders.Get().(codec.Decoder)
	if !ok {
		var err error
		if dec, err = r.codec.NewDecoder(int(r.super.BlockSize)); err != nil {
			return nil, err
		}
	}
	dst := make([]byte, size)
	n, err := dec(dst, stored)
	if err != nil {
		// The decoder is not reused: its state is unknown.
		return nil, fmt.Errorf("squashfs: block at byte %d: %s: %w", at, r.codec.Name, err)
	}
	r.decoders.Put(dec)
	return dst[:n], nil
}

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
		return cached{}, fmt.Errorf("squashfs: the metadata block at byte %[2]d has %[1]d bytes, want 1 to 8192", n, at)
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

// cursor reads a table of metadata blocks sequentially. After an error it returns
// zeros.
type cursor struct {
	r     *Reader
	block cached
	rest  []byte
	err   error
}

// cursor returns a cursor at a reference into the table at byte offset table.
func (r *Reader) cursor(table, ref uint64) *cursor {
	c := &cursor{r: r}
	if ref>>48 != 0 || ref>>16 > r.super.BytesUsed || table > r.super.BytesUsed {
		c.err = fmt.Errorf("squashfs: reference %#x exceeds the file system", ref)
		return c
	}
	if c.block, c.err = r.metaBlock(int64(table + ref>>16)); c.err != nil {
		return c
	}
	at := int(ref & 0xffff)
	if at > len(c.block.data) {
		c.err = fmt.Errorf("squashfs: reference %#x exceeds its block of %d bytes", ref, len(c.block.data))
		return c
	}
	c.rest = c.block.data[at:]
	return c
}

// take reads n bytes. The caller has to limit n.
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
			c.err = fmt.Errorf("squashfs: a table is cut off at byte %d", c.block.next)
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

// entry returns a cursor at entry i of a lookup table whose list of blocks is at byte
// offset start. (squashfs 4.0, "Storing Lookup Tables")
func (r *Reader) entry(start uint64, i uint32, size int) (*cursor, error) {
	at := uint64(i) * uint64(size)
	if start > r.super.BytesUsed {
		return nil, fmt.Errorf("squashfs: a table at %d exceeds the file system", start)
	}
	b, err := r.bytes(int64(start+at/metaSize*8), 8)
	if err != nil {
		return nil, err
	}
	block := binary.LittleEndian.Uint64(b)
	if block > r.super.BytesUsed {
		return nil, fmt.Errorf("squashfs: the block of a table at %d exceeds the file system", block)
	}
	c := r.cursor(block, at%metaSize)
	return c, c.err
}
