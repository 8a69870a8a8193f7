// Package simg reads and writes Android sparse images of version 1: a header, and chunks with
// data, a word to repeat, or no content: see sparse_format.h in libsparse of Android's
// system/core. All numbers are little-endian.
package simg

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"

	"imgtool/image"
)

const (
	magic      = 0xed26ff3a
	headerSize = 28
	chunkSize  = 12 // of a chunk header
	block      = 4096

	raw      = 0xcac1
	fill     = 0xcac2
	dontCare = 0xcac3
	checksum = 0xcac4

	// maxChunks limits the memory for chunks. It suffices for every other block of 16 GiB.
	maxChunks = 1 << 22

	// maxRaw limits the blocks of a raw chunk, as its size in bytes has 32 bits.
	maxRaw = 64 << 20 / block
)

// header is sparse_header_t.
type header struct {
	Magic                 uint32
	Major, Minor          uint16
	HeaderSize, ChunkSize uint16
	Block, Blocks, Chunks uint32
	Checksum              uint32
}

// chunk is chunk_header_t.
type chunk struct {
	Type, _      uint16
	Blocks, Size uint32 // blocks of output; bytes with this header
}

// ErrNotSparse is the error for a file that does not start like a sparse image.
var ErrNotSparse = errors.New("not a sparse image")

// IsSparse reports whether head, the first 4 bytes of a file, is the magic number of a sparse
// image.
func IsSparse(head []byte) bool {
	return len(head) >= 4 && binary.LittleEndian.Uint32(head) == magic
}

// Open returns the unpacked image of the sparse image in r, which has size bytes. The content
// is read from r on demand. Blocks of "don't care" chunks are not content, and read as
// zeros: see [Zeroed]. Open does not check checksums, as it would have to read all content.
func Open(r io.ReaderAt, size int64) (*image.Image, error) {
	var h header
	if size < headerSize {
		return nil, ErrNotSparse
	}
	if err := decode(r, 0, &h); err != nil {
		return nil, err
	}
	switch {
	case h.Magic != magic:
		return nil, ErrNotSparse
	case h.Major != 1:
		return nil, fmt.Errorf("version %d.%d of sparse images is not supported, only version 1", h.Major, h.Minor)
	case h.HeaderSize < headerSize || h.ChunkSize < chunkSize || h.Block == 0 || h.Block%4 != 0:
		return nil, fmt.Errorf("the sparse image is damaged: headers of %d and %d bytes, blocks of %d", h.HeaderSize, h.ChunkSize, h.Block)
	case uint64(h.Blocks)*uint64(h.Block) > math.MaxInt64:
		return nil, fmt.Errorf("the sparse image is damaged: %d blocks of %d bytes", h.Blocks, h.Block)
	case h.Chunks > maxChunks:
		return nil, fmt.Errorf("the sparse image has %d chunks, more than %d", h.Chunks, maxChunks)
	}
	var extents []image.Extent
	at, blocks := int64(h.HeaderSize), int64(0)
	for i := range h.Chunks {
		bad := func(what string, args ...any) error {
			return fmt.Errorf("the sparse image is damaged: chunk %d at byte %d: %s", i, at, fmt.Sprintf(what, args...))
		}
		if at+int64(h.ChunkSize) > size {
			return nil, bad("cut short at %d bytes", size)
		}
		var c chunk
		if err := decode(r, at, &c); err != nil {
			return nil, err
		}
		data := int64(c.Size) - int64(h.ChunkSize)
		out := int64(c.Blocks) * int64(h.Block)
		if blocks += int64(c.Blocks); blocks > int64(h.Blocks) {
			return nil, bad("it ends at block %d of %d", blocks, h.Blocks)
		}
		e := image.Extent{Name: fmt.Sprintf("chunk %d", i), Off: (blocks - int64(c.Blocks)) * int64(h.Block)}
		want := int64(0)
		switch c.Type {
		case raw:
			want = out
			e.Content = io.NewSectionReader(r, at+int64(h.ChunkSize), out)
		case fill:
			want = 4
		case dontCare:
		case checksum:
			want = 4
			if c.Blocks != 0 {
				return nil, bad("a checksum of %d blocks", c.Blocks)
			}
		default:
			return nil, bad("unknown type %#x", c.Type)
		}
		if data != want {
			return nil, bad("type %#x of %d blocks has %d bytes and not %d", c.Type, c.Blocks, data, want)
		}
		if data > size-at-int64(h.ChunkSize) {
			return nil, bad("cut short at %d bytes", size)
		}
		if c.Type == fill {
			var word [4]byte
			if err := decode(r, at+int64(h.ChunkSize), &word); err != nil {
				return nil, err
			}
			if e.Content = (repeated{word, out}); word == [4]byte{} {
				e.Content = image.Zeros(out)
			}
		}
		if e.Content != nil {
			extents = append(extents, e)
		}
		at += int64(c.Size)
	}
	if blocks != int64(h.Blocks) {
		return nil, fmt.Errorf("the sparse image is damaged: its chunks have %d blocks and not %d", blocks, h.Blocks)
	}
	return image.New(blocks*int64(h.Block), extents...)
}

// Zeroed returns m with zeros as content where it has none: some tools write zeros as "don't
// care" chunks, and the disk may not be blank.
func Zeroed(m *image.Image) (*image.Image, error) {
	extents := slices.Collect(m.Extents())
	var content []image.Span
	for _, e := range extents {
		content = append(content, image.Span{Off: e.Off, Len: e.Size()})
	}
	for _, gap := range image.Subtract([]image.Span{{Len: m.Size()}}, content) {
		extents = append(extents, image.Extent{Name: "zeros", Off: gap.Off, Content: image.Zeros(gap.Len)})
	}
	return image.New(m.Size(), extents...)
}

func decode(r io.ReaderAt, at int64, v any) error {
	b := make([]byte, binary.Size(v))
	if _, err := image.ReadFull(r, b, at); err != nil {
		return fmt.Errorf("reading the sparse image at %d: %w", at, err)
	}
	_, err := binary.Decode(b, binary.LittleEndian, v)
	return err
}

type repeated struct {
	word [4]byte
	size int64
}

func (f repeated) Size() int64 { return f.size }

func (f repeated) ReadAt(p []byte, off int64) (int, error) {
	n := int(max(0, min(int64(len(p)), f.size-off)))
	for i := range p[:n] {
		p[i] = f.word[(off+int64(i))%4]
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// run is a number of blocks for one chunk.
type run struct {
	kind   uint16
	word   [4]byte
	blocks int64
}

// Write writes m to w as a sparse image with blocks of 4096 bytes. Places without content
// become "don't care" chunks, and the last block is padded with zeros. Write reads content
// twice, because the header has the number of chunks.
func Write(w io.Writer, m *image.Image) error {
	total := (m.Size() + block - 1) / block
	if total > math.MaxUint32 {
		return fmt.Errorf("an image of %d bytes is too large for a sparse image, which has at most %d", m.Size(), int64(math.MaxUint32)*block)
	}
	runs, err := plan(m, total)
	if err != nil {
		return err
	}
	h := header{magic, 1, 0, headerSize, chunkSize, block, uint32(total), uint32(len(runs)), 0}
	if err := binary.Write(w, binary.LittleEndian, h); err != nil {
		return err
	}
	buf := make([]byte, 256*block)
	at := int64(0)
	for _, r := range runs {
		size := chunkSize + map[uint16]int64{raw: r.blocks * block, fill: 4}[r.kind]
		if err := binary.Write(w, binary.LittleEndian, chunk{Type: r.kind, Blocks: uint32(r.blocks), Size: uint32(size)}); err != nil {
			return err
		}
		end := at + r.blocks*block
		for ; r.kind == raw && at < end; at += int64(len(buf)) {
			part := buf[:min(int64(len(buf)), end-at)]
			n, err := m.ReadAt(part, at)
			if n < len(part) && err != nil && (err != io.EOF || at+int64(n) < m.Size()) {
				return err
			}
			clear(part[n:])
			if _, err := w.Write(part); err != nil {
				return err
			}
		}
		if r.kind == fill {
			if _, err := w.Write(r.word[:]); err != nil {
				return err
			}
		}
		at = end
	}
	return nil
}

// plan reads m and returns its runs.
func plan(m *image.Image, total int64) ([]run, error) {
	var runs []run
	add := func(r run) {
		if r.blocks == 0 {
			return
		}
		if n := len(runs); n > 0 {
			last := &runs[n-1]
			if last.kind == r.kind && last.word == r.word && (r.kind != raw || last.blocks+r.blocks <= maxRaw) {
				last.blocks += r.blocks
				return
			}
		}
		runs = append(runs, r)
	}
	at := int64(0) // in blocks
	for c, err := range m.Chunks(image.PieceSize) {
		if err != nil {
			return nil, err
		}
		add(run{kind: dontCare, blocks: c.Off/block - at})
		at = c.Off / block
		for data := c.Data; len(data) > 0; at++ {
			b := data[:min(block, len(data))]
			data = data[len(b):]
			r := run{kind: raw, blocks: 1}
			if len(b) == block && bytes.Equal(b[4:], b[:block-4]) {
				r.kind, r.word = fill, [4]byte(b)
			}
			add(r)
		}
	}
	add(run{kind: dontCare, blocks: total - at})
	return runs, nil
}
