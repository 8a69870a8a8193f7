package artifact

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"

	"imgtool/image"
	"imgtool/image/compress"
)

// Streamed is an image that comes from front to back.
type Streamed struct {
	Format   Format
	Manifest *Manifest // nil if it has none
	Others   []string  // the names of other files in a zip archive
	Trailing int64     // bytes behind the end of the compressed data, once all was read

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

// StreamFile is Stream for a file, which may be a zip archive as well. A block map, if it
// is not nil, is compared with the image as it is read.
func StreamFile(r image.Content, sidecar *Manifest, b *Bmap) (*Streamed, error) {
	var in io.Reader = io.NewSectionReader(r, 0, r.Size())
	head := make([]byte, headSize)
	n, err := r.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return nil, err
	}
	var others []string
	packed := detect(head[:n]) == Zip
	if packed {
		if in, others, err = openZip(r); err != nil {
			return nil, err
		}
	}
	s, err := Stream(in, sidecar)
	if err != nil {
		return nil, err
	}
	if s.Others = others; packed && s.Format == Raw {
		s.Format = Zip
	}
	if b != nil && s.Manifest == nil {
		s.raw = b.Reader(s.raw)
	}
	return s, nil
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
			s.raw, err = unpack(s.Format, io.MultiReader(&kept, in), s.trailing)
			return s, s.wrap(err, 0)
		}
	}
	if s.Format == Sparse {
		return nil, errors.New("an Android sparse image is read from a file, not from a pipe or an archive")
	}
	if s.Format == Zip {
		return nil, errors.New("a zip archive is read from a file, not from a pipe or another archive: unzip -p gives what is in it")
	}
	s.raw, err = unpack(s.Format, in, s.trailing)
	return s, s.wrap(err, 0)
}

func (s *Streamed) trailing(n int64) { s.Trailing = n }

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
		return fmt.Errorf("%w; unpack it with %s -d%s, and give what comes of it", err, (*memory).Format, map[compress.Format]string{compress.Zstd: " --long=31"}[(*memory).Format]) // it may well be good
	}
	if filter := new(*compress.FilterError); errors.As(err, filter) {
		return err
	}
	if known := new(*CorruptError); errors.As(err, known) {
		return err
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
						yield(image.Chunk{}, corrupt("byte %d is %#x, where the manifest has no content", at+int64(i), b))
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
