package artifact

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"io"

	"github.com/klauspost/compress/zstd"

	"imgtool/image"
)

// seekable reads a file in the zstd seekable format at any offset.
type seekable struct {
	r      io.ReaderAt
	dec    *zstd.Decoder
	frames []frame
	size   int64
	packed int64    // size of the file before the table of frames
	first  int64    // size of the frame with the manifest
	sums   [][]byte // SHA-256 of the first frame, and of the frames between it and the sums; nil if unknown

	cached // the frames, decompressed
}

type frame struct {
	packed, off int64 // offsets in the file and in the image
	packedLen   int64 // in the file
	len         int64 // in the image
}

// maxFrames is the largest number of frames in a table: enough for 4 TiB in pieces of
// image.PieceSize.
const maxFrames = 1 << 20

// maxFrame is the size of the largest frame that is decompressed at once. A file with larger
// frames is read as a stream.
const maxFrame = 64 << 20

// openSeekable reads the manifest at the start, if there is one, and the table at the end.
// Without a table, the error is [ErrStream].
func openSeekable(r image.Content) (*seekable, *Manifest, error) {
	m, err := manifestFrame(io.NewSectionReader(r, 0, r.Size()))
	if err != nil {
		return nil, nil, err
	}
	missing := ErrStream
	if m != nil {
		missing = corrupt("the image is cut short: the table of frames at its end is missing")
	}
	le := binary.LittleEndian
	footer := make([]byte, footerSize)
	if r.Size() < 8+footerSize {
		return nil, nil, missing
	}
	if _, err := r.ReadAt(footer, r.Size()-footerSize); err != nil && err != io.EOF {
		return nil, nil, err
	}
	n, flags := int64(le.Uint32(footer)), footer[4]
	entry := int64(8)
	if flags&0x80 != 0 {
		entry = 12
	}
	tableSize := n*entry + footerSize
	if le.Uint32(footer[5:]) != seekableMagic || flags&0x7c != 0 || m != nil && flags != 0 || tableSize+8 > r.Size() || n > maxFrames {
		return nil, nil, missing
	}
	table := make([]byte, 8+tableSize)
	if _, err := r.ReadAt(table, r.Size()-int64(len(table))); err != nil && err != io.EOF {
		return nil, nil, err
	}
	if le.Uint32(table) != skippableTable || int64(le.Uint32(table[4:])) != tableSize {
		return nil, nil, missing
	}
	s := &seekable{r: r}
	s.load = s.frame
	packed := int64(0)
	var skipped []frame
	for t := table[8 : 8+n*entry]; len(t) > 0; t = t[entry:] {
		f := frame{packed: packed, off: s.size, packedLen: int64(le.Uint32(t)), len: int64(le.Uint32(t[4:]))}
		packed += f.packedLen
		if f.len == 0 {
			skipped = append(skipped, f)
			continue
		}
		if f.len > maxFrame || f.packedLen > 2*maxFrame {
			if m != nil {
				return nil, nil, corrupt("the table has a frame of %d bytes, the limit is %d", max(f.len, f.packedLen), maxFrame)
			}
			return nil, nil, ErrStream
		}
		s.size += f.len
		s.frames = append(s.frames, f)
		s.spans = append(s.spans, image.Span{Off: f.off, Len: f.len})
	}
	if want := r.Size() - int64(len(table)); packed != want {
		return nil, nil, corrupt("the table has %d bytes of frames, the file has %d before the table", packed, want)
	}
	s.packed = packed
	if err := s.readSums(skipped, m != nil); err != nil {
		return nil, nil, err
	}
	s.dec, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxFrame), zstd.WithDecoderMaxWindow(maxFrame))
	return s, m, err
}

// readSums reads the frame with the sums, if it is the last one before the table. skipped
// are the frames without data. ours says that the file has a manifest: then the only such
// frames are the manifest and the sums, which files of earlier versions do not have.
func (s *seekable) readSums(skipped []frame, ours bool) error {
	n := len(skipped)
	if ours && (n < 1 || n > 2 || skipped[0].packed != 0) {
		return corrupt("the table has %d frames without data, an image has one or two: its manifest and sums", n)
	}
	if n == 0 {
		return nil
	}
	last := skipped[n-1]
	if last.packed+last.packedLen != s.packed || last.packed == 0 {
		if n > 1 && ours {
			return corrupt("the table has a frame without data between others")
		}
		return nil
	}
	b := make([]byte, sumsSize)
	if last.packedLen == sumsSize {
		if k, err := s.r.ReadAt(b, last.packed); k < len(b) {
			return err
		}
	}
	if !bytes.Equal(b[:8], skippable(skippableSums, b[8:])[:8]) {
		if ours {
			return corrupt("the frame with the sums, at byte %d of the file, is damaged", last.packed)
		}
		return nil
	}
	if !ours {
		return corrupt("the manifest in it is damaged")
	}
	s.first = skipped[0].packedLen
	s.sums = [][]byte{b[8:][:sha256.Size], b[8+sha256.Size:]}
	return nil
}

func (s *seekable) Size() int64 { return s.size }

func (s *seekable) frame(i int) ([]byte, error) {
	f := s.frames[i]
	packed := make([]byte, f.packedLen)
	if _, err := image.ReadFull(s.r, packed, f.packed); err != nil {
		return nil, err
	}
	data, err := s.dec.DecodeAll(packed, make([]byte, 0, f.len))
	if err != nil {
		return nil, corrupt("the frame at byte %d of the file is corrupt: %w", f.packed, err)
	}
	if int64(len(data)) != f.len {
		return nil, corrupt("the frame at byte %d of the file has %d bytes, its table says %d", f.packed, len(data), f.len)
	}
	return data, nil
}

// manifestFrame returns the manifest if r starts with one, and nil if not. It reads an
// unspecified number of bytes then.
func manifestFrame(r io.Reader) (*Manifest, error) {
	h := make([]byte, 8)
	if _, err := io.ReadFull(r, h); err != nil || binary.LittleEndian.Uint32(h) != skippableManifest {
		return nil, nil
	}
	size := binary.LittleEndian.Uint32(h[4:])
	if size > MaxManifest {
		return nil, nil
	}
	// ReadAll allocates for the bytes there are, not for the size in the header.
	b, err := io.ReadAll(io.LimitReader(r, int64(size)))
	if err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(bytes.TrimLeft(b, " \n\t"), []byte("{")) {
		return nil, nil // a skippable frame of another program
	}
	if int64(len(b)) < int64(size) {
		return nil, corrupt("the image is cut short: it has %d of the %d bytes of its manifest", len(b), size)
	}
	m, err := ParseManifest(b)
	if err != nil {
		return nil, &CorruptError{err}
	}
	return m, nil
}
