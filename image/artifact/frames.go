package artifact

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"io"
)

// The zstd seekable format (contrib/seekable_format in the zstd repository, version
// 0.1.1): after the frames, a skippable frame with a table of their sizes, which ends
// with a footer of 9 bytes: the number of frames, a descriptor and a magic number.
const (
	skippableManifest = 0x184D2A50 // the first frame of an .img.zst
	skippableSums     = 0x184D2A51 // the frame before the table: two SHA-256
	skippableTable    = 0x184D2A5E
	seekableMagic     = 0x8F92EAB1
	footerSize        = 9
)

// sumsSize is the size of the frame with the sums.
const sumsSize = 8 + 2*sha256.Size

// skippable returns a skippable frame (RFC 8878, section 3.1.2).
func skippable(magic uint32, data []byte) []byte {
	h := binary.LittleEndian.AppendUint32(nil, magic)
	h = binary.LittleEndian.AppendUint32(h, uint32(len(data)))
	return append(h, data...)
}

// frames writes frames and the table of them.
type frames struct {
	w     io.Writer
	table []byte
}

// add writes a frame, which decompresses to so many bytes.
func (t *frames) add(packed []byte, unpacked int64) error {
	t.note(int64(len(packed)), unpacked)
	_, err := t.w.Write(packed)
	return err
}

// note adds a frame that was written to the table.
func (t *frames) note(packed, unpacked int64) {
	t.table = binary.LittleEndian.AppendUint32(t.table, uint32(packed))
	t.table = binary.LittleEndian.AppendUint32(t.table, uint32(unpacked))
}

// finish writes the frame with the SHA-256 of the manifest's frame and of all frames after
// that, and the table.
func (t *frames) finish(manifest []byte, content hash.Hash) error {
	first := sha256.Sum256(manifest)
	if err := t.add(skippable(skippableSums, content.Sum(first[:])), 0); err != nil {
		return err
	}
	table := binary.LittleEndian.AppendUint32(t.table, uint32(len(t.table)/8))
	table = append(table, 0) // no checksums in the table: each frame has its own
	table = binary.LittleEndian.AppendUint32(table, seekableMagic)
	_, err := t.w.Write(skippable(skippableTable, table))
	return err
}
