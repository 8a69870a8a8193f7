package xz

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"sync"

	mlxz "github.com/mikelolasagasti/xz"
)

var errData = errors.New("xz: damaged data")

// lzma2 reads the LZMA2 data of a block up to their end mark, and no byte more, and counts
// them. The format is in the sections "LZMA2 chunk" of the decoders: a control byte, sizes,
// and the compressed or stored bytes of a chunk.
type lzma2 struct {
	r        io.Reader
	head     []byte // of the current chunk, not returned yet
	left     int    // bytes of the current chunk after its head
	end      bool   // the end mark was read
	packed   int64  // bytes read
	unpacked int64  // bytes that the chunks decompress to

	buf [7]byte // for head
}

func (l *lzma2) Read(p []byte) (n int, err error) {
	for len(l.head) == 0 && l.left == 0 {
		if l.end {
			return 0, io.EOF
		}
		if err := l.next(); err != nil {
			return 0, unexpectedEOF(err)
		}
	}
	if len(l.head) > 0 {
		n = copy(p, l.head)
		l.head = l.head[n:]
	} else {
		n, err = l.r.Read(p[:min(len(p), l.left)])
		l.left -= n
		err = unexpectedEOF(err)
	}
	l.packed += int64(n)
	return n, err
}

// next reads the head of a chunk.
func (l *lzma2) next() error {
	h := l.buf[:]
	if _, err := io.ReadFull(l.r, h[:1]); err != nil {
		return err
	}
	n := 6
	switch {
	case h[0] == 0:
		l.end, l.head = true, h[:1]
		return nil
	case h[0] < 3: // stored
		n = 3
	case h[0] < 0x80:
		return errData
	case h[0] < 0xC0:
		n = 5 // without new properties
	}
	compressed := n > 3
	if compressed {
		n++ // the first byte of the range coder
	}
	if _, err := io.ReadFull(l.r, h[1:n]); err != nil {
		return err
	}
	l.head = h[:n]
	size := int64(binary.BigEndian.Uint16(h[1:])) + 1
	if compressed {
		// liblzma finds that the first byte is not zero, the decoder in Go ignores it.
		if h[n-1] != 0 {
			return errData
		}
		size += int64(h[0]&0x1f) << 16
		l.left = int(binary.BigEndian.Uint16(h[3:]))
	} else {
		l.left = int(size)
	}
	l.unpacked += size
	return nil
}

// goLZMA2 decompresses LZMA2 in Go. Its decoder takes files only, so the data get a header,
// an index and a footer.
func goLZMA2(l *lzma2, dict int64) (io.Reader, error) {
	stream := streamStart(0)
	block := blockHeader(-1, -1, dict)
	tail := &lazy{make: func() []byte {
		pad := make([]byte, -l.packed&3)
		return append(pad, streamEnd(0, 1, record(int64(len(block))+l.packed, l.unpacked))...)
	}}
	file := io.MultiReader(bytes.NewReader(append(stream, block...)), l, tail)
	if dict > keepDict {
		return mlxz.NewReader(file, uint32(min(2*dict, 1<<32-1)))
	}
	z := goDecoders.Get().(*mlxz.Reader)
	return &goDecoder{z}, z.Reset(file)
}

// keepDict is the largest dictionary whose memory is kept for other blocks: new memory for each of
// them is slow.
const keepDict = 8 << 20

var goDecoders = sync.Pool{New: func() any {
	z, _ := mlxz.NewReader(nil, 2*keepDict)
	return z
}}

// goDecoder is a decoder of goDecoders.
type goDecoder struct{ z *mlxz.Reader }

func (d *goDecoder) Read(p []byte) (int, error) {
	if d.z == nil {
		return 0, io.EOF
	}
	n, err := d.z.Read(p)
	if err == io.EOF {
		goDecoders.Put(d.z)
		d.z = nil
	}
	return n, err
}

// lazy is a reader of bytes that are made when they are read.
type lazy struct {
	make func() []byte
	r    *bytes.Reader
}

func (l *lazy) Read(p []byte) (int, error) {
	if l.r == nil {
		l.r = bytes.NewReader(l.make())
	}
	return l.r.Read(p)
}

// streamStart returns a stream header (section 2.1.1): magic, flags, CRC-32 of the flags.
func streamStart(check byte) []byte {
	flags := []byte{0, check}
	return binary.LittleEndian.AppendUint32(append([]byte(streamMagic), flags...), crc32.ChecksumIEEE(flags))
}

// record returns a record of an index.
func record(unpadded, unpacked int64) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(nil, uint64(unpadded)), uint64(unpacked))
}

// streamEnd returns an index of n blocks (section 4) and a footer (section 2.1.2).
func streamEnd(check byte, n uint64, records []byte) []byte {
	index := append(binary.AppendUvarint([]byte{0}, n), records...)
	index = append(index, make([]byte, -len(index)&3)...)
	index = binary.LittleEndian.AppendUint32(index, crc32.ChecksumIEEE(index))
	footer := binary.LittleEndian.AppendUint32(nil, uint32(len(index)/4-1))
	footer = append(footer, 0, check)
	index = binary.LittleEndian.AppendUint32(index, crc32.ChecksumIEEE(footer))
	return append(append(index, footer...), "YZ"...)
}

// blockHeader returns the header of a block without filters but LZMA2 (section 3.1), of
// blockHeaderSize bytes. Sizes of -1 are left out; others are below maxBlock.
func blockHeader(packed, unpacked, dict int64) []byte {
	h := []byte{blockHeaderSize/4 - 1, 0}
	if packed >= 0 {
		h[1] |= 0x40
		h = binary.AppendUvarint(h, uint64(packed))
	}
	if unpacked >= 0 {
		h[1] |= 0x80
		h = binary.AppendUvarint(h, uint64(unpacked))
	}
	h = append(h, filterLZMA2, 1, dictCode(dict))
	h = append(h, make([]byte, blockHeaderSize-4-len(h))...)
	return binary.LittleEndian.AppendUint32(h, crc32.ChecksumIEEE(h))
}

// blockHeaderSize has room for two sizes below maxBlock and one filter.
const (
	blockHeaderSize = 20
	maxBlock        = 1 << 28
)

// dictCode returns the code of the smallest dictionary of at least n bytes (section 5.3.1).
func dictCode(n int64) byte {
	code := byte(0)
	for ; code < 40 && dictSize(code) < n; code++ {
	}
	return code
}

// dictSize returns the size of a dictionary.
func dictSize(code byte) int64 {
	if code == 40 {
		return 1<<32 - 1
	}
	return int64(2+code&1) << (code/2 + 11)
}
