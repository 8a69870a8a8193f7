package artifact

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"sort"
	"sync"

	"github.com/klauspost/compress/zstd"

	"imgtool/image"
	"imgtool/image/compress"
	"imgtool/image/simg"
)

// Opened is an image that can be read anywhere. What its manifest covers is
// checked whenever it is read, and an error of that is a *CorruptError.
type Opened struct {
	*image.Image
	Format   Format
	Manifest *Manifest // nil if it has none

	raw io.ReaderAt
}

// ErrStream says that a file can be read from front to back only: see Stream.
var ErrStream = errors.New("can only be read from front to back")

// Open opens a raw image, a seekable zstd or an Android sparse image. What such one
// does not care about is zeros that matter, unless a manifest knows better: its
// tools erase a disk first. sidecar is the manifest that lies
// beside it, or nil; one inside comes first. Others are ErrStream.
func Open(r image.Content, sidecar *Manifest) (*Opened, error) {
	head := make([]byte, headSize)
	n, err := r.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return nil, err
	}
	if n == 0 {
		return nil, corrupt("the image is empty")
	}
	o := &Opened{Format: detect(head[:n]), Manifest: sidecar}
	var raw image.Content = r
	switch o.Format {
	case Raw:
	case Zstd:
		s, own, err := openSeekable(r)
		if err != nil {
			return nil, err
		}
		if own != nil {
			o.Manifest = own
		}
		raw = s
	case Sparse:
		m, err := simg.Open(r, r.Size())
		if err == nil && o.Manifest == nil {
			m, err = simg.Zeroed(m)
		}
		if err != nil {
			return nil, corrupt("%w", err)
		}
		if o.Manifest == nil {
			o.Image = m
			return o, nil
		}
		raw = m
	default:
		return nil, ErrStream
	}
	o.raw = raw
	if o.Manifest == nil {
		o.Image, err = image.New(raw.Size(), image.Extent{Name: "image", Content: raw})
		return o, err
	}
	if raw.Size() != o.Manifest.Size {
		return nil, corrupt("the image is %d bytes, its manifest says %d: it was cut short, or the manifest is another's", raw.Size(), o.Manifest.Size)
	}
	c := &checked{raw: raw, pieces: o.Manifest.Pieces}
	var extents []image.Extent
	for _, e := range o.Manifest.Entries {
		extents = append(extents, image.Extent{Name: e.Name, Off: e.Off, Content: io.NewSectionReader(c, e.Off, e.Len)})
	}
	o.Image, err = image.New(o.Manifest.Size, extents...)
	return o, err
}

// Holes looks whether a raw image is zeros where its manifest has nothing. What
// is there would not be written, and not be missed by a verification.
//
// data, which may be nil, says where there is something at or after an offset, so
// that holes of the file itself need no reading.
func (o *Opened) Holes(ctx context.Context, data func(off int64) int64) error {
	if o.Manifest == nil || o.Format != Raw {
		return nil
	}
	var content []image.Span
	for _, p := range o.Manifest.Pieces {
		content = append(content, image.Span{Off: p.Off, Len: p.Len})
	}
	buf, zero := make([]byte, 1<<20), make([]byte, 1<<20)
	for _, s := range image.Subtract([]image.Span{{Len: o.Manifest.Size}}, content) {
		for at := s.Off; at < s.End(); {
			if err := ctx.Err(); err != nil {
				return context.Cause(ctx)
			}
			if data != nil {
				if at = max(at, data(at)); at >= s.End() {
					break
				}
			}
			part := buf[:min(int64(len(buf)), s.End()-at)]
			if n, err := o.raw.ReadAt(part, at); n < len(part) {
				return fmt.Errorf("reading at byte %d: %w", at, err)
			}
			if !bytes.Equal(part, zero[:len(part)]) {
				i := slices.IndexFunc(part, func(b byte) bool { return b != 0 })
				return corrupt("byte %d is %#x and lies where the manifest has nothing", at+int64(i), part[i])
			}
			at += int64(len(part))
		}
	}
	return nil
}

// checked reads pieces whole and compares them with the manifest before it gives
// out any of their bytes.
type checked struct {
	raw    io.ReaderAt
	pieces []image.Entry

	mu   sync.Mutex
	last [2]struct { // the latest first
		off  int64
		data []byte
	}
}

func (c *checked) piece(p image.Entry) ([]byte, error) {
	c.mu.Lock()
	for _, l := range c.last {
		if l.data != nil && l.off == p.Off {
			c.mu.Unlock()
			return l.data, nil
		}
	}
	c.mu.Unlock()
	data := make([]byte, p.Len)
	if n, err := c.raw.ReadAt(data, p.Off); n < len(data) {
		if err == nil || err == io.EOF {
			return nil, corrupt("the image ends at byte %d, in the middle of a piece", p.Off+int64(n))
		}
		return nil, err
	}
	if err := checkPiece(p, data); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last[1] = c.last[0]
	c.last[0].off, c.last[0].data = p.Off, data
	return data, nil
}

func (c *checked) ReadAt(b []byte, off int64) (int, error) {
	n := 0
	for n < len(b) {
		at := off + int64(n)
		i := sort.Search(len(c.pieces), func(i int) bool { return c.pieces[i].Off+c.pieces[i].Len > at })
		if i == len(c.pieces) || c.pieces[i].Off > at {
			return n, fmt.Errorf("byte %d is in no piece", at)
		}
		data, err := c.piece(c.pieces[i])
		if err != nil {
			return n, err
		}
		n += copy(b[n:], data[at-c.pieces[i].Off:])
	}
	return n, nil
}

// seekable reads a zstd file by its table of frames.
type seekable struct {
	r      io.ReaderAt
	dec    *zstd.Decoder
	frames []frame
	size   int64

	mu   sync.Mutex
	last struct {
		frame int
		data  []byte
	}
}

type frame struct {
	packed, off int64 // where it lies in the file, and what it is in the image
	packedLen   int64
	len         int64
}

// maxFrames bounds a table: enough for 4 TiB in pieces of ours.
const maxFrames = 1 << 20

// maxFrame bounds a frame that is unpacked whole; larger ones are read as a
// stream.
const maxFrame = 64 << 20

// openSeekable reads the table at the end and the manifest at the start.
func openSeekable(r image.Content) (*seekable, *Manifest, error) {
	m, err := manifestFrame(io.NewSectionReader(r, 0, r.Size()))
	if err != nil {
		return nil, nil, err
	}
	noTable := ErrStream
	if m != nil {
		// Ours have one.
		noTable = corrupt("the image is cut short: the table of frames at its end is missing")
	}
	le := binary.LittleEndian
	footer := make([]byte, footerSize)
	if r.Size() < 8+footerSize {
		return nil, nil, noTable
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
	if le.Uint32(footer[5:]) != seekableMagic || flags&0x7c != 0 || tableSize+8 > r.Size() || n > maxFrames {
		return nil, nil, noTable
	}
	table := make([]byte, 8+tableSize)
	if _, err := r.ReadAt(table, r.Size()-int64(len(table))); err != nil && err != io.EOF {
		return nil, nil, err
	}
	if le.Uint32(table) != skippableTable || int64(le.Uint32(table[4:])) != tableSize {
		return nil, nil, noTable
	}
	s := &seekable{r: r}
	s.last.frame = -1
	packed := int64(0)
	for t := table[8 : 8+n*entry]; len(t) > 0; t = t[entry:] {
		f := frame{packed: packed, off: s.size, packedLen: int64(le.Uint32(t)), len: int64(le.Uint32(t[4:]))}
		packed += f.packedLen
		if f.len == 0 {
			continue
		}
		if f.len > maxFrame || f.packedLen > 2*maxFrame {
			return nil, nil, ErrStream
		}
		s.size += f.len
		s.frames = append(s.frames, f)
	}
	if want := r.Size() - int64(len(table)); packed != want {
		return nil, nil, corrupt("the table of frames speaks of %d bytes, the file has %d before it", packed, want)
	}
	s.dec, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxFrame), zstd.WithDecoderMaxWindow(maxFrame))
	return s, m, err
}

func (s *seekable) Size() int64 { return s.size }

func (s *seekable) frame(i int) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last.frame == i {
		return s.last.data, nil
	}
	f := s.frames[i]
	packed := make([]byte, f.packedLen)
	if n, err := s.r.ReadAt(packed, f.packed); n < len(packed) {
		return nil, err
	}
	data, err := s.dec.DecodeAll(packed, make([]byte, 0, f.len))
	if err != nil {
		return nil, corrupt("the frame at byte %d of the file is corrupt: %w", f.packed, err)
	}
	if int64(len(data)) != f.len {
		return nil, corrupt("the frame at byte %d of the file has %d bytes, its table says %d", f.packed, len(data), f.len)
	}
	s.last.frame, s.last.data = i, data
	return data, nil
}

func (s *seekable) ReadAt(b []byte, off int64) (int, error) {
	n := 0
	for n < len(b) {
		at := off + int64(n)
		if at >= s.size {
			return n, io.EOF
		}
		i := sort.Search(len(s.frames), func(i int) bool { return s.frames[i].off+s.frames[i].len > at })
		data, err := s.frame(i)
		if err != nil {
			return n, err
		}
		n += copy(b[n:], data[at-s.frames[i].off:])
	}
	return n, nil
}

// manifestFrame reads the manifest if r starts with one, and else nothing is
// said of how far it read.
func manifestFrame(r io.Reader) (*Manifest, error) {
	h := make([]byte, 8)
	if _, err := io.ReadFull(r, h); err != nil || binary.LittleEndian.Uint32(h) != skippableManifest {
		return nil, nil
	}
	size := binary.LittleEndian.Uint32(h[4:])
	if size > MaxManifest {
		return nil, nil
	}
	// Read as it comes: the size alone must not cost memory.
	b, err := io.ReadAll(io.LimitReader(r, int64(size)))
	if err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(bytes.TrimLeft(b, " \n\t"), []byte("{")) {
		return nil, nil // somebody else's frame
	}
	if int64(len(b)) < int64(size) {
		return nil, corrupt("the image is cut short in its manifest: %d bytes of %d", len(b), size)
	}
	m, err := ParseManifest(b)
	if err != nil {
		return nil, &CorruptError{err}
	}
	return m, nil
}

// Streamed is an image that comes from front to back.
type Streamed struct {
	Format   Format
	Manifest *Manifest // nil if it has none

	raw io.Reader
	in  *noted
}

// noted keeps the first error of a reader, which unpackers may wrap or replace.
type noted struct {
	r   io.Reader
	err error
}

func (n *noted) Read(p []byte) (int, error) {
	k, err := n.r.Read(p)
	if err != nil && err != io.EOF && n.err == nil {
		n.err = err
	}
	return k, err
}

// Stream opens whatever r brings, by its first bytes. sidecar is the manifest
// that lies beside it, or nil; one inside comes first.
func Stream(r io.Reader, sidecar *Manifest) (*Streamed, error) {
	from := &noted{r: r}
	in := bufio.NewReaderSize(from, 1<<20)
	head, err := in.Peek(headSize)
	if len(head) == 0 {
		if err == io.EOF {
			return nil, corrupt("the image is empty")
		}
		return nil, err
	}
	if from.err != nil {
		return nil, from.err
	}
	s := &Streamed{Format: detect(head), Manifest: sidecar, in: from}
	if s.Format == Zstd && len(head) >= 8 && binary.LittleEndian.Uint32(head) == skippableManifest {
		var kept bytes.Buffer
		m, err := manifestFrame(io.TeeReader(in, &kept))
		if err != nil {
			return nil, err
		}
		if m != nil {
			s.Manifest = m
		} else {
			s.raw, err = unpack(s.Format, io.MultiReader(&kept, in))
			return s, s.wrap(err, 0)
		}
	}
	if s.Format == Sparse {
		return nil, errors.New("an Android sparse image is read from a file, not from a pipe")
	}
	s.raw, err = unpack(s.Format, in)
	return s, s.wrap(err, 0)
}

// wrap says where an image is corrupt. One that cannot be read need not be.
func (s *Streamed) wrap(err error, at int64) error {
	if err != nil && s.in.err != nil {
		return s.in.err
	}
	return wrapCorrupt(err, at)
}

func wrapCorrupt(err error, at int64) error {
	if err == nil {
		return nil
	}
	if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
		return corrupt("the image is cut short at byte %d", at)
	}
	if memory := new(*compress.MemoryError); errors.As(err, memory) {
		return err // it may well be good
	}
	return corrupt("the image is corrupt at byte %d: %w", at, err)
}

// Chunks gives the content, each chunk checked if there is a manifest; without
// one everything is content. An image that is shorter or longer than its
// manifest says ends in a *CorruptError. It can be called once.
func (s *Streamed) Chunks() iter.Seq2[image.Chunk, error] {
	return func(yield func(image.Chunk, error) bool) {
		var pieces []image.Entry
		if s.Manifest != nil {
			pieces = s.Manifest.Pieces
		}
		for off := int64(0); ; {
			data := make([]byte, image.PieceSize)
			n, err := fill(s.raw, data)
			if err != nil && err != io.EOF {
				yield(image.Chunk{}, s.wrap(err, off+int64(n)))
				return
			}
			data = data[:n]
			end := off + int64(n)
			if m := s.Manifest; m != nil && (end > m.Size || err != nil && end < m.Size) {
				yield(image.Chunk{}, corrupt("the image has %s bytes, its manifest says %d: it was cut short, or the manifest is another's", ended(end, err), m.Size))
				return
			}
			if s.Manifest == nil {
				if n > 0 && !yield(image.Chunk{Off: off, Data: data}, nil) {
					return
				}
			}
			at := off
			hole := func(to int64) bool {
				for i, b := range data[at-off : to-off] {
					if b != 0 {
						yield(image.Chunk{}, corrupt("byte %d is %#x and lies where the manifest has nothing", at+int64(i), b))
						return false
					}
				}
				return true
			}
			for len(pieces) > 0 && pieces[0].Off+pieces[0].Len <= end {
				p := pieces[0]
				pieces = pieces[1:]
				if !hole(p.Off) {
					return
				}
				at = p.Off + p.Len
				part := data[p.Off-off:][:p.Len:p.Len]
				if err := checkPiece(p, part); err != nil {
					yield(image.Chunk{}, err)
					return
				}
				if !yield(image.Chunk{Off: p.Off, Data: part}, nil) {
					return
				}
			}
			if s.Manifest != nil && !hole(end) || err != nil {
				return
			}
			off = end
		}
	}
}

// fill reads until p is full. Unlike io.ReadFull it keeps apart a stream that
// ends, io.EOF, and one that is cut, io.ErrUnexpectedEOF.
func fill(r io.Reader, p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var k int
		k, err = r.Read(p[n:])
		n += k
	}
	return n, err
}

func ended(n int64, err error) string {
	if err == nil {
		return fmt.Sprintf("more than %d", n-1)
	}
	return fmt.Sprint(n)
}
