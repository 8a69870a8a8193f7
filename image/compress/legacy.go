package compress

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"

	"github.com/pierrec/lz4/v4"
)

// legacy unpacks the legacy format of lz4: after the magic number, blocks of up to
// legacyBlock bytes, each behind its packed size. It has no checksums and no end. A size
// that no block has is the magic number of another frame.
type legacy struct {
	in    *bufio.Reader
	block []byte // unpacked
	left  []byte // of it
	next  io.Reader
}

const (
	legacyBlock = 8 << 20
	legacyMax   = legacyBlock + legacyBlock/255 + 16 // packed
)

// newLZ4 unpacks lz4 in both formats.
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

// unpack unpacks the next block, or begins the next frame.
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
	// Read as it comes: the size alone must not cost memory.
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
