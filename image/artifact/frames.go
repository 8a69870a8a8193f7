package artifact

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"io"
	"slices"
	"sync"

	"github.com/cespare/xxhash/v2"
)

// The zstd seekable format (contrib/seekable_format in the zstd repository, version
// 0.1.1): after the frames, a skippable frame with a table of their sizes, which ends
// with a footer of 9 bytes: the number of frames, a descriptor and a magic number.
const (
	skippableManifest   = 0x184D2A50 // the second frame of an .img.zst; the first in files of earlier versions
	skippableSums       = 0x184D2A51 // the frame before the table
	skippableAttachment = 0x184D2A52 // frames before that one
	skippableTable      = 0x184D2A5E
	seekableMagic       = 0x8F92EAB1
	zstdMagic           = 0xFD2FB528
	footerSize          = 9
)

// sumsSize is the size of the frame with the SHA-256 of the manifest's frame, of all frames of
// the image, and of the table of frames. With attachments it has attachedSize, and the SHA-256
// of their frames last. Files of earlier versions have oldSumsSize: no SHA-256 of the table.
const (
	sumsSize     = 8 + 3*sha256.Size
	attachedSize = 8 + 4*sha256.Size
	oldSumsSize  = 8 + 2*sha256.Size
)

// skippable returns a skippable frame (RFC 8878, section 3.1.2).
func skippable(magic uint32, data []byte) []byte {
	h := binary.LittleEndian.AppendUint32(nil, magic)
	h = binary.LittleEndian.AppendUint32(h, uint32(len(data)))
	return append(h, data...)
}

// frames writes the frames of an .img.zst and the table of them.
type frames struct {
	w       io.Writer
	table   []byte
	content hash.Hash // of the frames that are neither manifest nor sums

	// manifest is the manifest's frame, or a placeholder of the same length. It is written
	// after the first frame, so that the file begins as every zstd file does and a stream
	// has the manifest before most of the image.
	manifest   []byte
	manifestAt int64 // its offset
}

func newFrames(w io.Writer, m *Manifest) *frames {
	return &frames{w: w, content: sha256.New(), manifest: skippable(skippableManifest, m.Encode())}
}

// add writes a frame of the image, which decompresses to so many bytes.
func (t *frames) add(packed []byte, unpacked int64) error {
	first := len(t.table) == 0
	t.content.Write(packed)
	if err := t.write(packed, unpacked); err != nil || !first {
		return err
	}
	t.manifestAt = int64(len(packed))
	return t.write(t.manifest, 0)
}

func (t *frames) write(packed []byte, unpacked int64) error {
	t.table = binary.LittleEndian.AppendUint32(t.table, uint32(len(packed)))
	t.table = binary.LittleEndian.AppendUint32(t.table, uint32(unpacked))
	_, err := t.w.Write(packed)
	return err
}

// finish writes what follows the frames of the image. manifest is the final frame of the
// manifest.
func (t *frames) finish(manifest []byte, list []attached) error {
	sum := sha256.Sum256(manifest)
	return t.end(sum[:], t.content.Sum(nil), list)
}

// end writes the attachments, the frame with the sums, and the table. manifest and content are
// SHA-256 of the frames before.
func (t *frames) end(manifest, content []byte, list []attached) error {
	h := sha256.New()
	for _, a := range list {
		f := a.frame()
		h.Write(f)
		if err := t.write(f, 0); err != nil {
			return err
		}
	}
	size := sumsSize
	if len(list) > 0 {
		size = attachedSize
	}
	table := binary.LittleEndian.AppendUint32(t.table, uint32(size))
	table = binary.LittleEndian.AppendUint32(table, 0)
	table = binary.LittleEndian.AppendUint32(table, uint32(len(table)/8))
	table = append(table, 0) // no checksums in the table: each frame has its own
	table = skippable(skippableTable, binary.LittleEndian.AppendUint32(table, seekableMagic))
	last := sha256.Sum256(table)
	sums := slices.Concat(manifest, content, last[:])
	if len(list) > 0 {
		sums = h.Sum(sums)
	}
	if err := t.write(skippable(skippableSums, sums), 0); err != nil {
		return err
	}
	_, err := t.w.Write(table)
	return err
}

// holeFrame is the size in the image of the largest frame of zeros.
const holeFrame = 64 << 20

// zeroFrame returns a frame of n zeros: a header, a block of 4 bytes that repeats a zero
// 128 KiB times, the largest size of a block, as often as needed, and a checksum (RFC 8878,
// section 3.1.1). The window of 128 KiB is all the memory that a decoder needs.
func zeroFrame(n int64) []byte {
	const block = 128 << 10
	b := binary.LittleEndian.AppendUint32(nil, zstdMagic)
	b = append(b, 2<<6|1<<2, 7<<3) // a content size of 4 bytes, a checksum; a window of 2^(10+7) bytes
	b = binary.LittleEndian.AppendUint32(b, uint32(n))
	for left := n; left > 0; {
		k := min(left, block)
		left -= k
		header := uint32(k)<<3 | 1<<1 // RLE
		if left == 0 {
			header |= 1 // the last block
		}
		b = append(b, byte(header), byte(header>>8), byte(header>>16), 0)
	}
	sum, zeros := xxhash.New(), make([]byte, 1<<20)
	for left := n; left > 0; left -= int64(len(zeros)) {
		sum.Write(zeros[:min(left, int64(len(zeros)))])
	}
	return binary.LittleEndian.AppendUint32(b, uint32(sum.Sum64()))
}

// holes returns holes of an image in compressed form. There are few sizes, so it keeps them.
type holes struct {
	compress func(n int64) ([]byte, error)

	mu   sync.Mutex
	done map[int64][]byte
}

func (h *holes) get(n int64) ([]byte, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if b := h.done[n]; b != nil {
		return b, nil
	}
	b, err := h.compress(n)
	if h.done == nil {
		h.done = map[int64][]byte{}
	}
	h.done[n] = b
	return b, err
}
