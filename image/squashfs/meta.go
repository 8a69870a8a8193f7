package squashfs

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"

	"imgtool/image/squashfs/codec"
)

// output writes a file system sequentially. Bytes beyond max are counted but not
// written.
type output struct {
	w   io.WriterAt
	pos int64
	max int64
}

func (o *output) write(p []byte) error {
	err := o.writeAt(p, o.pos)
	o.pos += int64(len(p))
	return err
}

func (o *output) writeAt(p []byte, off int64) error {
	if off+int64(len(p)) > o.max {
		return nil
	}
	n, err := o.w.WriteAt(p, off)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return fmt.Errorf("writing squashfs at byte %d: %w", off+int64(n), err)
	}
	return nil
}

// appendMeta appends p, up to metaSize bytes, to b as a metadata block: a word with
// its stored length, then the bytes. (squashfs 4.0, "Packing Metadata")
func appendMeta(b []byte, encode codec.Encoder, p, scratch []byte) ([]byte, error) {
	data, err := encode(scratch, p)
	if err != nil {
		return nil, err
	}
	head := uint16(len(data))
	if len(data) >= len(p) {
		data, head = p, uint16(len(p))|metaRaw
	}
	return append(binary.LittleEndian.AppendUint16(b, head), data...), nil
}

type table struct {
	encode  codec.Encoder
	buf     []byte // content of the last block
	out     []byte // stored form of the blocks before it
	scratch []byte
	err     error
}

func newTable(encode codec.Encoder) *table {
	return &table{encode: encode, scratch: make([]byte, 2*metaSize)}
}

// ref returns the reference to what is written next.
func (t *table) ref() uint64 { return reference(int64(len(t.out)), len(t.buf)) }

func (t *table) write(p []byte) {
	for len(p) > 0 {
		n := min(len(p), metaSize-len(t.buf))
		t.buf = append(t.buf, p[:n]...)
		p = p[n:]
		if len(t.buf) == metaSize {
			t.flush()
		}
	}
}

func (t *table) flush() {
	if len(t.buf) == 0 || t.err != nil {
		return
	}
	t.out, t.err = appendMeta(t.out, t.encode, t.buf, t.scratch)
	t.buf = t.buf[:0]
}

// writeTable writes the blocks of a table. Inodes have 32 bits for the offset of a
// block, which limits the length of the table.
func (o *output) writeTable(t *table) error {
	t.flush()
	if t.err != nil {
		return t.err
	}
	if len(t.out) > math.MaxUint32 {
		return fmt.Errorf("a squashfs table of %d bytes exceeds the limit of %d", len(t.out), math.MaxUint32)
	}
	return o.write(t.out)
}

// writeIndexed writes a table whose entries are found by number: its metadata
// blocks, the result of head if that is not nil, and the offset of each block. It
// returns the offset of what follows the blocks. (squashfs 4.0, "Storing Lookup
// Tables")
func (o *output) writeIndexed(encode codec.Encoder, entries []byte, head func() []byte) (int64, error) {
	var index, block []byte
	scratch := make([]byte, 2*metaSize)
	for len(entries) > 0 {
		n := min(len(entries), metaSize)
		var err error
		if block, err = appendMeta(block[:0], encode, entries[:n], scratch); err != nil {
			return 0, err
		}
		index = binary.LittleEndian.AppendUint64(index, uint64(o.pos))
		if err := o.write(block); err != nil {
			return 0, err
		}
		entries = entries[n:]
	}
	start := o.pos
	if head != nil {
		if err := o.write(head()); err != nil {
			return 0, err
		}
	}
	return start, o.write(index)
}
