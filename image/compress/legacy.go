package compress

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"

	"github.com/pierrec/lz4/v4"
)

// legacy decompresses the legacy format of lz4: a magic number, then blocks of up to
// legacyBlock bytes, each after its compressed size. It has no checksums and no end mark. A
// size above the maximum is the magic number of another frame.
type legacy struct {
	in    *bufio.Reader
	block []byte    // decompressed
	left  []byte    // rest of block
	next  io.Reader // of the next frame
}

const (
	legacyBlock = 8 << 20
	legacyMax   = legacyBlock + legacyBlock/255 + 16 // compressed
)

// newLZ4 decompresses both formats of lz4.
func newLZ4(r io.Reader) io.Reader {
	in := bufio.NewReader(r)
	if head, _ := in.Peek(4); string(head) == lz4Legacy {
		in.Discard(4)
		return &legacy{in: in}
	}
	return lz4.NewReader(in)
}

func (l *legacy) Read(p []byte) (int, error) {
	for len(l.left) == 0 && l.next == nil {
		if err := l.unpack(); err != nil {
			return 0, err
		}
	}
	if l.next != nil {
		return l.next.Read(p)
	}
	n := copy(p, l.left)
	l.left = l.left[n:]
	return n, nil
}

// unpack decompresses the next block, or begins the next frame.
func (l *legacy) unpack() error {
	var head [4]byte
	if _, err := io.ReadFull(l.in, head[:]); err != nil {
		return err
	}
	size := binary.LittleEndian.Uint32(head[:])
	if size > legacyMax {
		l.next = newLZ4(io.MultiReader(bytes.NewReader(head[:]), l.in))
		return nil
	}
	// ReadAll allocates for the bytes there are, not for the size in the header.
	packed, err := io.ReadAll(io.LimitReader(l.in, int64(size)))
	if err == nil && len(packed) < int(size) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return err
	}
	if l.block == nil {
		l.block = make([]byte, legacyBlock)
	}
	n, err := lz4.UncompressBlock(packed, l.block)
	l.left = l.block[:n]
	return err
}
