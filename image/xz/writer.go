package xz

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/ulikunitz/xz/lzma"
)

// checkCRC32 is the type of the checksums that Writer writes, the one which every decoder has.
const checkCRC32 = 1

// Writer writes one stream of blocks from [AppendBlock], with an index of them.
type Writer struct {
	w       io.Writer
	n       uint64 // blocks
	records []byte // of the index
}

// NewWriter writes the header of a stream.
func NewWriter(w io.Writer) (*Writer, error) {
	_, err := w.Write(streamStart(checkCRC32))
	return &Writer{w: w}, err
}

// WriteBlock writes a block.
func (w *Writer) WriteBlock(b []byte) error {
	info, err := parseBlock(b[:blockHeaderSize])
	if err != nil {
		return err
	}
	w.records = append(w.records, record(blockHeaderSize+info.packed+crc32.Size, info.unpacked)...)
	w.n++
	_, err = w.w.Write(b)
	return err
}

// Close writes the index and the footer.
func (w *Writer) Close() error {
	_, err := w.w.Write(streamEnd(checkCRC32, w.n, w.records))
	return err
}

// AppendBlock compresses data as a block with its sizes in the header, so that decoders can
// decompress several at once. It uses dst if that is large enough.
func AppendBlock(dst, data []byte) ([]byte, error) {
	dict := dictSize(dictCode(int64(len(data)))) // holds all data
	out := bytes.NewBuffer(append(dst[:0], make([]byte, blockHeaderSize)...))
	z, err := lzma.Writer2Config{DictCap: int(dict)}.NewWriter2(out)
	if err != nil {
		return nil, err
	}
	if _, err := z.Write(data); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	packed := out.Len() - blockHeaderSize
	if packed >= maxBlock || len(data) >= maxBlock {
		return nil, fmt.Errorf("xz: internal error: a block of %d bytes", len(data))
	}
	out.Write(make([]byte, -packed&3))
	b := binary.LittleEndian.AppendUint32(out.Bytes(), crc32.ChecksumIEEE(data))
	copy(b, blockHeader(int64(packed), int64(len(data)), dict))
	return b, nil
}
