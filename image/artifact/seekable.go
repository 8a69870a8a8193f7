package artifact

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"regexp"
	"slices"
	"sort"
	"sync"

	"github.com/klauspost/compress/zstd"

	"imgtool/image"
)

// seekable reads a file in the zstd seekable format at any offset.
type seekable struct {
	r      io.ReaderAt
	dec    *zstd.Decoder
	frames []frame
	size   int64
	packed int64 // size of the file before the table of frames

	manifest image.Span // in the file; its length is 0 without a manifest
	end      int64      // offset in the file of the end of the manifest and the image
	entries  []byte     // of the table, up to there
	attached []attached // in order of their names
	sums     []summed   // what the sums are of; nil without sums

	cached            // the frames, decompressed
	buffers sync.Pool // for compressed frames
}

// summed are parts of a file and the SHA-256 of their bytes.
type summed struct {
	name  string
	parts []image.Span
	want  []byte
}

// contentSum is the name of the sum of the frames of the image.
const contentSum = "content"

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

// openSeekable reads the table at the end, and the manifest if there is one. Without a table,
// the error is [ErrStream].
func openSeekable(r image.Content) (*seekable, *Manifest, error) {
	s, skipped, table, err := readTable(r)
	if err != nil {
		return nil, nil, err
	}
	if s == nil {
		m, err := manifestFrame(io.NewSectionReader(r, 0, r.Size()))
		if err == nil && m != nil {
			err = corrupt("the image is cut short: the table of frames at its end is missing")
		}
		return nil, nil, cmp.Or(err, ErrStream)
	}
	m, err := s.readManifest(skipped)
	if err == nil {
		err = s.readTail(skipped, table)
	}
	if err != nil {
		return nil, nil, err
	}
	for _, f := range s.frames {
		if f.len <= maxFrame && f.packedLen <= 2*maxFrame {
			continue
		}
		if m != nil {
			return nil, nil, corrupt("the table has a frame of %d bytes, the limit is %d", max(f.len, f.packedLen), maxFrame)
		}
		return nil, nil, ErrStream
	}
	s.dec, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxFrame), zstd.WithDecoderMaxWindow(maxFrame))
	return s, m, err
}

// readTable reads the table of frames. It returns the frames without data apart, and the
// table with its header. Without a table all are nil.
func readTable(r image.Content) (s *seekable, skipped []frame, table []byte, err error) {
	le := binary.LittleEndian
	footer := make([]byte, footerSize)
	if r.Size() < 8+footerSize {
		return nil, nil, nil, nil
	}
	if _, err := r.ReadAt(footer, r.Size()-footerSize); err != nil && err != io.EOF {
		return nil, nil, nil, err
	}
	n, flags := int64(le.Uint32(footer)), footer[4]
	entry := int64(8)
	if flags&0x80 != 0 {
		entry = 12
	}
	tableSize := n*entry + footerSize
	if le.Uint32(footer[5:]) != seekableMagic || flags&0x7c != 0 || tableSize+8 > r.Size() || n > maxFrames {
		return nil, nil, nil, nil
	}
	table = make([]byte, 8+tableSize)
	if _, err := r.ReadAt(table, r.Size()-int64(len(table))); err != nil && err != io.EOF {
		return nil, nil, nil, err
	}
	if le.Uint32(table) != skippableTable || int64(le.Uint32(table[4:])) != tableSize {
		return nil, nil, nil, nil
	}
	s = &seekable{r: r}
	s.load = s.frame
	s.buffers.New = func() any { return new([]byte) }
	for t := table[8 : 8+n*entry]; len(t) > 0; t = t[entry:] {
		f := frame{packed: s.packed, off: s.size, packedLen: int64(le.Uint32(t)), len: int64(le.Uint32(t[4:]))}
		s.packed += f.packedLen
		if f.len == 0 {
			skipped = append(skipped, f)
			continue
		}
		s.size += f.len
		s.frames = append(s.frames, f)
		s.spans = append(s.spans, image.Span{Off: f.off, Len: f.len})
	}
	if want := r.Size() - int64(len(table)); s.packed != want {
		return nil, nil, nil, corrupt("the table has %d bytes of frames, the file has %d before the table", s.packed, want)
	}
	return s, skipped, table, nil
}

// readManifest reads the manifest, if the first frame without data is one. That is the second
// frame of the file, or the first in files of earlier versions.
func (s *seekable) readManifest(skipped []frame) (*Manifest, error) {
	for i, f := range skipped {
		if i > 1 {
			break // not ours
		}
		m, err := parseManifestFrame(io.NewSectionReader(s.r, f.packed, f.packedLen))
		if err != nil {
			return nil, err
		}
		if m == nil {
			continue
		}
		if i > 0 || f.off > 0 && f.off != s.frames[0].len {
			return nil, corrupt("the manifest in it is not where it belongs, at byte %d of the file", f.packed)
		}
		s.manifest = image.Span{Off: f.packed, Len: f.packedLen}
		return m, nil
	}
	return nil, nil
}

// readTail reads the frames after the manifest and the image: attachments and then the
// sums, which files of the first versions do not have. skipped are the frames without data.
// Without a manifest it is a file of another program.
func (s *seekable) readTail(skipped []frame, table []byte) error {
	if s.manifest.Len == 0 {
		return s.readForeign(skipped)
	}
	n := len(s.frames) + 1
	if len(table) != 8+8*(len(s.frames)+len(skipped))+footerSize {
		return corrupt("the table of frames has checksums, that of an image has none")
	}
	s.end = s.manifest.End()
	if k := len(s.frames); k > 0 {
		s.end = max(s.end, s.frames[k-1].packed+s.frames[k-1].packedLen)
	}
	s.entries = table[8 : 8+8*n]
	if len(skipped) == 1 {
		if s.end != s.packed {
			return corrupt("the table has a frame without data between others")
		}
		return nil
	}
	last := skipped[len(skipped)-1]
	if err := s.readList(skipped[1 : len(skipped)-1]); err != nil {
		return err
	}
	end := s.end
	for _, f := range skipped[1 : len(skipped)-1] {
		end += f.packedLen
	}
	if last.packed != end {
		return corrupt("the table has a frame without data between others, at byte %d of the file", last.packed)
	}
	return s.readSums(last, table)
}

// readSums reads the frame with the sums.
func (s *seekable) readSums(last frame, table []byte) error {
	bad := corrupt("the frame with the sums, at byte %d of the file, is damaged", last.packed)
	switch {
	case len(s.attached) > 0 && last.packedLen != attachedSize:
		return bad
	case len(s.attached) == 0 && last.packedLen != sumsSize && last.packedLen != oldSumsSize:
		return bad
	}
	b := make([]byte, last.packedLen)
	if _, err := image.ReadFull(s.r, b, last.packed); err != nil {
		return err
	}
	if !bytes.Equal(b[:8], skippable(skippableSums, b[8:])[:8]) {
		return bad
	}
	sum := func(i int) []byte { return b[8+i*sha256.Size:][:sha256.Size] }
	end := s.manifest.End()
	s.sums = []summed{
		{"manifest", []image.Span{s.manifest}, sum(0)},
		{contentSum, []image.Span{{Len: s.manifest.Off}, {Off: end, Len: s.end - end}}, sum(1)}}
	if len(b) >= sumsSize {
		s.sums = append(s.sums, summed{"table of frames", []image.Span{{Off: s.packed, Len: int64(len(table))}}, sum(2)})
	}
	if len(s.attached) > 0 {
		s.sums = append(s.sums, summed{"part with the attachments", []image.Span{{Off: s.end, Len: last.packed - s.end}}, sum(3)})
	}
	return nil
}

// readForeign checks that a file without a manifest in its place does not have our sums: then its
// manifest is damaged.
func (s *seekable) readForeign(skipped []frame) error {
	for _, f := range skipped {
		if f.packed == 0 || f.packedLen != sumsSize && f.packedLen != oldSumsSize && f.packedLen != attachedSize {
			continue
		}
		head := make([]byte, 8)
		if _, err := image.ReadFull(s.r, head, f.packed); err != nil {
			return err
		}
		if bytes.Equal(head, skippable(skippableSums, make([]byte, f.packedLen-8))[:8]) {
			return corrupt("the manifest in it is damaged")
		}
	}
	return nil
}

// part returns bytes that are in one frame, without copying them, or nil if they are not.
func (s *seekable) part(off, n int64) ([]byte, error) {
	i := sort.Search(len(s.frames), func(i int) bool { return s.frames[i].off+s.frames[i].len > off })
	if i == len(s.frames) || off+n > s.frames[i].off+s.frames[i].len {
		return nil, nil
	}
	data, err := s.get(i)
	if err != nil {
		return nil, err
	}
	off -= s.frames[i].off
	return data[off : off+n : off+n], nil
}

func (s *seekable) Size() int64 { return s.size }

func (s *seekable) frame(i int) ([]byte, error) {
	f := s.frames[i]
	buf := s.buffers.Get().(*[]byte)
	defer s.buffers.Put(buf)
	*buf = slices.Grow((*buf)[:0], int(f.packedLen))[:f.packedLen]
	packed := *buf
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

// firstFrame is the largest size in the file of a first frame that is read in search of the
// manifest after it.
const firstFrame = 2 * image.PieceSize

// manifestFrame returns the manifest if r starts with one, or with one frame and a manifest
// after it, and nil if not. It reads an unspecified number of bytes then.
func manifestFrame(r io.Reader) (*Manifest, error) {
	magic := make([]byte, 4)
	if _, err := io.ReadFull(r, magic); err != nil {
		return nil, unlessShort(err)
	}
	if binary.LittleEndian.Uint32(magic) == zstdMagic {
		if err := skipFrame(r); err != nil {
			return nil, unlessShort(err)
		}
		return parseManifestFrame(r)
	}
	return parseManifestFrame(io.MultiReader(bytes.NewReader(magic), r))
}

// errLarge says that the first frame is too large for a manifest to follow.
var errLarge = errors.New("the frame is large")

// unlessShort returns an error of reading, unless the file is too short for a manifest.
func unlessShort(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF || err == errLarge {
		return nil
	}
	return err
}

// skipFrame reads the rest of a frame after its magic number (RFC 8878, section 3.1.1).
func skipFrame(r io.Reader) error {
	left := int64(firstFrame)
	skip := func(n int) error {
		if left -= int64(n); left < 0 {
			return errLarge
		}
		_, err := io.CopyN(io.Discard, r, int64(n))
		return err
	}
	b := make([]byte, 3)
	if _, err := io.ReadFull(r, b[:1]); err != nil {
		return err
	}
	single, checksum := int(b[0]>>5&1), int(b[0]>>2&1)
	if err := skip([]int{0, 1, 2, 4}[b[0]&3] + []int{single, 2, 4, 8}[b[0]>>6] + 1 - single); err != nil {
		return err
	}
	for last := false; !last; {
		if _, err := io.ReadFull(r, b); err != nil {
			return err
		}
		n := int(b[0]) | int(b[1])<<8 | int(b[2])<<16
		last = n&1 == 1
		size := n >> 3
		if n>>1&3 == 1 {
			size = 1 // RLE
		}
		if err := skip(size); err != nil {
			return err
		}
	}
	return skip(4 * checksum)
}

// minManifest is less than the size of any manifest, in bytes.
const minManifest = 64

// manifestStart matches the start of a manifest.
var manifestStart = regexp.MustCompile(`^\s*\{\s*"imgtool"\s*:`)

// isManifest reports whether b is a manifest, also if it is damaged or cut short: it has its
// first key, or its long lists.
func isManifest(b []byte) bool {
	return manifestStart.Match(b[:min(len(b), 256)]) || bytes.Contains(b, []byte(`"extents": [`)) && bytes.Contains(b, []byte(`"pieces": [`))
}

// parseManifestFrame returns the manifest if r starts with one, and nil if not.
func parseManifestFrame(r io.Reader) (*Manifest, error) {
	h := make([]byte, 8)
	if _, err := io.ReadFull(r, h); err != nil || binary.LittleEndian.Uint32(h) != skippableManifest {
		return nil, unlessShort(err)
	}
	size := binary.LittleEndian.Uint32(h[4:])
	if size < minManifest || size > MaxManifest {
		return nil, nil // a skippable frame of another program, such as pzstd's, of 4 bytes
	}
	// ReadAll allocates for the bytes there are, not for the size in the header.
	b, err := io.ReadAll(io.LimitReader(r, int64(size)))
	if err != nil {
		return nil, err
	}
	if !isManifest(b) {
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
