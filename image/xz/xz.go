// Package xz reads and writes .xz files (version 1.2.0 of the format) in bounded memory. The
// container is done here; LZMA2 is decompressed by liblzma if the program is built with cgo
// and the tag liblzma, else by a port of XZ Embedded to Go, and compressed by ulikunitz/xz.
//
// A [Reader] reads a stream from front to back. [Parallel] decompresses several blocks at
// once. A [Writer] writes blocks that were compressed by themselves.
package xz

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"slices"
)

// MaxDict is a limit for most uses: twice the dictionary of xz -9.
const MaxDict = 128 << 20

// DictError says that a block needs a dictionary above the limit. Sizes are in bytes.
type DictError struct{ Want, Max int64 }

func (e *DictError) Error() string {
	return fmt.Sprintf("unpacking it needs an xz dictionary of %d bytes, more than the limit of %d", e.Want, e.Max)
}

// FilterError says that a block has an unsupported filter.
type FilterError struct{ ID uint64 }

func (e *FilterError) Error() string {
	return fmt.Sprintf("the xz filter %#x is not supported: unpack it with xz -d", e.ID)
}

var (
	errHeader = errors.New("xz: damaged header")
	errNumber = errors.New("xz: damaged number")
	errIndex  = errors.New("xz: the index does not match the blocks")
	errFooter = errors.New("xz: damaged footer")
	errSize   = errors.New("xz: the size of a block is not as its header or the index says")
	errCheck  = errors.New("xz: checksum mismatch")
)

// lookahead is the number of compressed bytes of a block that are scanned for its
// uncompressed size before its dictionary is allocated.
const lookahead = 1 << 20

// Reader decompresses one or more streams.
type Reader struct {
	in  *bufio.Reader
	off int64 // bytes read from in
	err error

	maxDict int64
	sizes   []Size // of the blocks that have not begun, from the index; nil if not known

	check  byte // type of the checksums in the stream
	block  block
	blocks records // of the blocks of the stream that have been read
}

// block is the current block; data is nil between two blocks.
type block struct {
	data             io.Reader
	sum              hash.Hash // nil if the stream has no checksums
	start            int64     // offset of its header
	begin            int64     // offset of its data
	packed, unpacked int64     // sizes in the header, or -1
	n                int64     // bytes decompressed so far
	dict             int64     // size of the dictionary in the header
	header           []byte
	filters          []filter // before LZMA2, in the order of the encoder
}

// records is the number of blocks in a stream and a hash of their sizes, which bounds the
// memory for millions of blocks.
type records struct {
	n   int64
	sum hash.Hash
}

func newRecords() records { return records{sum: sha256.New()} }

func (r *records) add(unpadded, unpacked int64) {
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:], uint64(unpadded))
	binary.LittleEndian.PutUint64(b[8:], uint64(unpacked))
	r.sum.Write(b[:])
	r.n++
}

// NewReader returns a reader that decompresses the streams in r, up to its end. It reads the
// header of the first stream. A dictionary of more than maxDict bytes is a *[DictError].
func NewReader(r io.Reader, maxDict int64) (*Reader, error) {
	x := &Reader{in: bufio.NewReaderSize(r, lookahead), maxDict: maxDict}
	if err := x.streamHeader(); err != nil {
		return nil, unexpectedEOF(err)
	}
	return x, nil
}

// unexpectedEOF replaces [io.EOF], where a stream must not end.
func unexpectedEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// counted counts the bytes that are read.
type counted struct{ x *Reader }

func (c counted) Read(p []byte) (int, error) {
	n, err := c.x.in.Read(p)
	c.x.off += int64(n)
	return n, err
}

func (x *Reader) full(p []byte) error {
	_, err := io.ReadFull(counted{x}, p)
	return err
}

func (x *Reader) Read(p []byte) (int, error) {
	for x.err == nil {
		if len(p) == 0 {
			return 0, nil
		}
		var n int
		if n, x.err = x.read(p); n > 0 {
			return n, nil
		}
	}
	return 0, x.err
}

// read reads data of the current block, or the headers up to the next one.
func (x *Reader) read(p []byte) (int, error) {
	b := &x.block
	if b.data == nil {
		block, err := x.next()
		if err == nil && block {
			err = x.begin()
		}
		return 0, err
	}
	n, err := b.data.Read(p)
	b.n += int64(n)
	if b.sum != nil {
		b.sum.Write(p[:n])
	}
	switch {
	case b.unpacked >= 0 && b.n > b.unpacked || b.packed >= 0 && x.off-b.begin > b.packed:
		return 0, errSize
	case err == io.EOF:
		return n, x.endBlock()
	}
	return n, err
}

// next reads the header of the next block and reports true, or ends the stream and reads the
// header of the next one.
func (x *Reader) next() (block bool, err error) {
	start := x.off
	var first [1]byte
	if err := x.full(first[:]); err != nil {
		return false, unexpectedEOF(err)
	}
	if first[0] != 0 {
		return true, unexpectedEOF(x.blockHeader(start, first[0]))
	}
	if err := x.index(start); err != nil {
		return false, unexpectedEOF(err)
	}
	return false, x.padding()
}

// padding reads the padding of a stream (section 2.2), then the end or the header of another
// stream.
func (x *Reader) padding() error {
	for {
		head, err := x.in.Peek(4)
		if len(head) == 0 {
			return err
		}
		if len(head) < 4 {
			return unexpectedEOF(err)
		}
		if !bytes.Equal(head, make([]byte, 4)) {
			return unexpectedEOF(x.streamHeader())
		}
		if err := x.full(head[:4:4]); err != nil {
			return err
		}
	}
}

const (
	streamHeader = 12
	streamMagic  = "\xfd7zXZ\x00"
)

// streamHeader reads a stream header (section 2.1.1): magic, flags, CRC-32 of the flags.
func (x *Reader) streamHeader() error {
	var h [streamHeader]byte
	if err := x.full(h[:]); err != nil {
		return err
	}
	if string(h[:6]) != streamMagic || binary.LittleEndian.Uint32(h[8:]) != crc32.ChecksumIEEE(h[6:8]) {
		return errHeader
	}
	x.check, x.blocks = h[7], newRecords()
	if _, err := newCheck(x.check); err != nil || h[6] != 0 {
		return fmt.Errorf("xz: the stream flags %#02x %#02x are not supported", h[6], h[7])
	}
	return nil
}

// newCheck returns the hash for a type of checksum (section 2.1.1.2), or nil for none.
func newCheck(kind byte) (hash.Hash, error) {
	switch kind {
	case 0:
		return nil, nil
	case 1:
		return crc32.NewIEEE(), nil
	case 4:
		return newCRC64(), nil
	case 10:
		return sha256.New(), nil
	}
	return nil, errHeader
}

// checkSize returns the size of a checksum.
func checkSize(kind byte) int64 { return map[byte]int64{1: 4, 4: 8, 10: 32}[kind] }

// blockHeader reads a block header (section 3.1) after its first byte.
func (x *Reader) blockHeader(start int64, first byte) error {
	h := make([]byte, (int(first)+1)*4)
	h[0] = first
	if err := x.full(h[1:]); err != nil {
		return err
	}
	b, err := parseBlock(h)
	if err != nil {
		return err
	}
	if b.dict > x.maxDict {
		return &DictError{b.dict, x.maxDict}
	}
	b.start, b.begin = start, x.off
	if len(x.sizes) > 0 {
		listed := x.sizes[0]
		x.sizes = x.sizes[1:]
		packed := listed.unpadded - int64(len(h)) - checkSize(x.check)
		if b.packed < 0 && packed > 0 {
			b.packed = packed
		}
		if b.unpacked < 0 {
			b.unpacked = listed.unpacked
		}
	}
	x.block = *b
	return nil
}

// begin begins to decompress the block whose header was read.
func (x *Reader) begin() (err error) {
	b := &x.block
	if b.sum, err = newCheck(x.check); err != nil {
		return err
	}
	dict := b.dict
	if b.unpacked >= 0 {
		dict = min(dict, b.unpacked)
	}
	if n, ok := x.upcoming(); ok {
		dict = min(dict, n)
	}
	b.data, err = newLZMA2(&lzma2{r: counted{x}}, max(dict, minDict))
	for _, f := range slices.Backward(b.filters) {
		b.data = f.undo(b.data)
	}
	return err
}

const minDict = 4096

// parseBlock parses a block header.
func parseBlock(h []byte) (b *block, err error) {
	body := h[2 : len(h)-4]
	if binary.LittleEndian.Uint32(h[len(h)-4:]) != crc32.ChecksumIEEE(h[:len(h)-4]) || h[1]&0x3c != 0 {
		return nil, errHeader
	}
	number := func() int64 {
		in := bytes.NewReader(body)
		n, bad := readNumber(in)
		if bad != nil {
			err = errHeader
		}
		body = body[len(body)-in.Len():]
		return n
	}
	b = &block{packed: -1, unpacked: -1, header: h}
	if h[1]&0x40 != 0 {
		b.packed = number()
	}
	if h[1]&0x80 != 0 {
		b.unpacked = number()
	}
	for range int(h[1]&3) + 1 {
		f := filter{id: uint64(number())}
		size := number()
		if err != nil || size > int64(len(body)) {
			return nil, errHeader
		}
		f.props, body = body[:size], body[size:]
		b.filters = append(b.filters, f)
	}
	if len(bytes.TrimRight(body, "\x00")) > 0 {
		return nil, errHeader
	}
	// The last filter is LZMA2, with one byte of properties.
	last := len(b.filters) - 1
	for i, f := range b.filters {
		if (f.id == filterLZMA2) != (i == last) || i < last && branches[f.id].make == nil && f.id != filterDelta {
			return nil, &FilterError{f.id}
		}
		if i < last && !f.valid() {
			return nil, errHeader
		}
	}
	if len(b.filters[last].props) != 1 {
		return nil, errHeader
	}
	code := b.filters[last].props[0]
	if code > 40 {
		return nil, errHeader
	}
	b.dict, b.filters = dictSize(code), b.filters[:last]
	return b, nil
}

// readNumber reads a number of up to 63 bits in as few bytes as possible (section 1.2).
func readNumber(r io.ByteReader) (n int64, err error) {
	for i := 0; i < 9; i++ {
		b, err := r.ReadByte()
		if err != nil {
			return 0, unexpectedEOF(err)
		}
		n |= int64(b&0x7f) << (7 * i)
		if b < 0x80 {
			if b == 0 && i > 0 {
				return 0, errNumber
			}
			return n, nil
		}
	}
	return 0, errNumber
}

// upcoming returns the uncompressed size of the block at the current offset, if the whole
// block is in the buffer. Then a small block does not get a large dictionary.
func (x *Reader) upcoming() (n int64, ok bool) {
	for at := 0; ; {
		h, err := x.in.Peek(min(at+5, lookahead))
		if err != nil && len(h) <= at {
			return 0, false
		}
		c := append(bytes.Clone(h[at:]), 0, 0, 0, 0, 0)
		size := int64(binary.BigEndian.Uint16(c[1:])) + 1
		switch {
		case c[0] == 0:
			return n, true
		case c[0] < 0x80: // uncompressed chunk
			at += 3 + int(size)
		default:
			size += int64(c[0]&0x1f) << 16
			at += 5 + int(binary.BigEndian.Uint16(c[3:])) + 1
			if c[0] >= 0xc0 {
				at++
			}
		}
		if n += size; at >= lookahead {
			return 0, false
		}
	}
}

// endBlock reads the padding and verifies the checksum (sections 3.3 and 3.4).
func (x *Reader) endBlock() error {
	b := x.block
	x.block = block{}
	packed := x.off - b.begin
	if b.packed >= 0 && packed != b.packed || b.unpacked >= 0 && b.n != b.unpacked {
		return errSize
	}
	var sum []byte
	if b.sum != nil {
		sum = b.sum.Sum(nil)
	}
	if x.check != 10 { // CRCs are little-endian
		slices.Reverse(sum)
	}
	pad := int(-packed & 3)
	stored := make([]byte, pad+len(sum))
	if err := x.full(stored); err != nil {
		return unexpectedEOF(err)
	}
	if len(bytes.TrimLeft(stored[:pad], "\x00")) > 0 {
		return errHeader
	}
	if !bytes.Equal(stored[pad:], sum) {
		return errCheck
	}
	x.blocks.add(b.begin-b.start+packed+int64(len(sum)), b.n)
	return nil
}

// index reads the index (section 4), whose first byte is at start and has been read, and
// the footer (section 2.1.2).
func (x *Reader) index(start int64) error {
	sum := crc32.NewIEEE()
	sum.Write([]byte{0})
	in := &summedBytes{x: x, sum: sum}
	var err error
	number := func() (n int64) {
		if err == nil {
			n, err = readNumber(in)
		}
		return n
	}
	n := number()
	if err == nil && n != x.blocks.n {
		return errIndex
	}
	listed := newRecords()
	for err == nil && listed.n < n {
		listed.add(number(), number())
	}
	if err != nil {
		return err
	}
	if !bytes.Equal(listed.sum.Sum(nil), x.blocks.sum.Sum(nil)) {
		return errIndex
	}
	for (x.off-start)&3 != 0 {
		if b, err := in.ReadByte(); err != nil {
			return err
		} else if b != 0 {
			return errIndex
		}
	}
	size := x.off - start + 4
	var end [4 + 12]byte
	if err := x.full(end[:]); err != nil {
		return err
	}
	footer := end[4:]
	if binary.LittleEndian.Uint32(end[:]) != sum.Sum32() {
		return errIndex
	}
	if binary.LittleEndian.Uint32(footer) != crc32.ChecksumIEEE(footer[4:10]) || string(footer[10:]) != "YZ" ||
		(int64(binary.LittleEndian.Uint32(footer[4:]))+1)*4 != size || footer[8] != 0 || footer[9] != x.check {
		return errFooter
	}
	return nil
}

type summedBytes struct {
	x   *Reader
	sum hash.Hash32
}

func (s *summedBytes) ReadByte() (byte, error) {
	b, err := s.x.in.ReadByte()
	if err != nil {
		return 0, unexpectedEOF(err)
	}
	s.x.off++
	s.sum.Write([]byte{b})
	return b, nil
}
