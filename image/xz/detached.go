package xz

import (
	"bufio"
	"bytes"
	"sync"
)

const chunkSize = 1 << 20

// chunks are for compressed and decompressed data.
var chunks = sync.Pool{New: func() any { b := make([]byte, chunkSize); return &b }}

func newChunk(n int64) *[]byte {
	chunk := chunks.Get().(*[]byte)
	*chunk = (*chunk)[:min(n, chunkSize)]
	return chunk
}

// inChunks returns the memory of the chunks for n bytes.
func inChunks(n int64) int64 { return (n + chunkSize - 1) / chunkSize * chunkSize }

// detached is a reader for one block whose compressed data have been read.
type detached struct {
	*Reader
	data *packed
}

// rest returns the size of the block after its header.
func (x *Reader) rest() int64 { return x.block.packed + -x.block.packed&3 + checkSize(x.check) }

// detach reads the data of the block whose header was read.
func (x *Reader) detach() (*detached, error) {
	b := x.block
	data := new(packed)
	for left := x.rest(); left > 0; {
		chunk := newChunk(left)
		if err := x.full(*chunk); err != nil {
			return nil, unexpectedEOF(err)
		}
		left -= int64(len(*chunk))
		data.chunks = append(data.chunks, chunk)
	}
	x.blocks.add(b.begin-b.start+b.packed+checkSize(x.check), b.unpacked)
	x.block = block{}
	b.start, b.begin = b.start-b.begin, 0
	return &detached{&Reader{in: bufio.NewReader(data), check: x.check, maxDict: x.maxDict, blocks: newRecords(), block: b}, data}, nil
}

// packed has the data of a detached block.
type packed struct {
	chunks []*[]byte
	n      int // bytes of the first chunk that have been read
}

// Read returns errSize at the end: a block that needs more data is longer than its header or the
// index says.
func (k *packed) Read(p []byte) (int, error) {
	if len(k.chunks) == 0 {
		return 0, errSize
	}
	n := copy(p, (*k.chunks[0])[k.n:])
	if k.n += n; k.n == len(*k.chunks[0]) {
		chunks.Put(k.chunks[0])
		k.chunks, k.n = k.chunks[1:], 0
	}
	return n, nil
}

// content is all that the data of a block depend on.
type content struct {
	header, data string
	check        byte
	unpacked     int64
}

// zeroRatio is how many bytes of zeros become a byte at least.
const zeroRatio = 1000

// content returns the content of a block that may be all zeros by its sizes, or nil.
func (x *detached) content() *content {
	if len(x.data.chunks) != 1 || x.block.unpacked/zeroRatio < x.block.packed {
		return nil
	}
	return &content{string(x.block.header), string(*x.data.chunks[0]), x.check, x.block.unpacked}
}

// isZero reports whether b, of at most chunkSize bytes, is all zeros.
func isZero(b []byte) bool { return bytes.Equal(b, noData[:len(b)]) }

var noData [chunkSize]byte
