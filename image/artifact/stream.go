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

// Streamed is an image that is read from front to back.
type Streamed struct {
	Format   Format
	Manifest *Manifest // nil if it has none
	Others   []string  // the names of other files in a zip archive
	Trailing int64     // bytes after the end of the compressed data, after all was read

	raw io.Reader
	in  *errorReader
}

// errorReader keeps the first error of a reader, because decompressors may replace it.
type errorReader struct {
	r   io.Reader
	err error
}

func (n *errorReader) Read(p []byte) (int, error) {
	k, err := n.r.Read(p)
	if err != nil && err != io.EOF && n.err == nil {
		n.err = err
	}
	return k, err
}

// StreamFile is like [Stream] for a file, which may be a zip archive too. If b is not nil and
// there is no manifest, the image is compared with b when it is read.
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

// Stream opens a raw or compressed image; its first bytes give the format. sidecar is the
// manifest beside it, or nil; a manifest in the image has precedence.
func Stream(r io.Reader, sidecar *Manifest) (*Streamed, error) {
	from := &errorReader{r: r}
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
		return nil, errors.New("an Android sparse image cannot be read from a pipe or an archive: unpack it to a file")
	}
	if s.Format == Zip {
		return nil, errors.New("a zip archive cannot be read from a pipe or another archive: use the output of unzip -p")
	}
	s.raw, err = unpack(s.Format, in, s.trailing)
	return s, s.wrap(err, 0)
}

func (s *Streamed) trailing(n int64) { s.Trailing = n }

// wrap makes an error of a decompressor a *[CorruptError] with the offset in the image,
// unless reading its input failed.
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
		return fmt.Errorf("%w; unpack it with %s -d%s", err, (*memory).Format, map[compress.Format]string{compress.Zstd: " --long=31"}[(*memory).Format]) // not corrupt
	}
	if filter := new(*compress.FilterError); errors.As(err, filter) {
		return err
	}
	if known := new(*CorruptError); errors.As(err, known) {
		return err
	}
	return corrupt("the image is corrupt at byte %d: %w", at, err)
}

// Chunks returns the content of the image. If there is a manifest, chunks are its pieces, and
// verified; bytes that are not as the manifest says, or another size, are a *[CorruptError].
// Without a manifest all bytes are content. Chunks can be called once.
func (s *Streamed) Chunks() iter.Seq2[image.Chunk, error] {
	return func(yield func(image.Chunk, error) bool) {
		var pieces []image.Entry
		if s.Manifest != nil {
			pieces = s.Manifest.Pieces
		}
		for off := int64(0); ; {
			data := make([]byte, image.PieceSize)
			n, err := compress.ReadFull(s.raw, data)
			if err != nil && err != io.EOF {
				yield(image.Chunk{}, s.wrap(err, off+int64(n)))
				return
			}
			data = data[:n]
			end := off + int64(n)
			if m := s.Manifest; m != nil && (end > m.Size || err != nil && end < m.Size) {
				yield(image.Chunk{}, corrupt("the image has %s bytes, its manifest says %d: the image was cut short, or the manifest belongs to another image", atLeast(end, err), m.Size))
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

// atLeast formats a size, of which only a lower bound is known if the end was not reached.
func atLeast(n int64, err error) string {
	if err == nil {
		return fmt.Sprintf("at least %d", n)
	}
	return fmt.Sprint(n)
}
