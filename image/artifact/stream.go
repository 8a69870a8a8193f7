package artifact

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"

	"imgtool/image"
	"imgtool/image/bmap"
	"imgtool/image/compress"
	"imgtool/image/xz"
	"imgtool/image/zip"
)

// Streamed is an image that is read from front to back.
type Streamed struct {
	Format   Format
	Manifest *Manifest // nil if it has none
	Others   []string  // the names of other files in a zip archive
	Trailing int64     // bytes after the end of the compressed data, after all was read
	Claimed  int64     // length of the content that the index of an xz file claims, or 0

	raw   io.Reader
	in    *compress.Input
	tail  *trailer // of an .img.zst
	ended bool     // the image was read to its end
	close func() error
}

// Close ends the decompression. It does not close the input.
func (s *Streamed) Close() error { return s.close() }

// StreamFile is like [Stream] for a file, which may be a zip archive too. If b is not nil and
// there is no manifest, the image is compared with b when it is read.
func StreamFile(r image.Content, sidecar *Manifest, b *bmap.Map) (*Streamed, error) {
	var in io.Reader = io.NewSectionReader(r, 0, r.Size())
	head, err := image.Head(r, headSize)
	if err != nil {
		return nil, err
	}
	var others []string
	var sizes []xz.Size
	if detect(head) == XZ {
		sizes = xz.ReadSizes(r, r.Size())
	}
	packed := detect(head) == Zip
	if packed {
		if in, others, err = zip.Open(r); err != nil {
			return nil, err
		}
	}
	s, err := stream(in, sidecar, sizes)
	if err != nil {
		return nil, err
	}
	s.Claimed = xz.Unpacked(sizes)
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
func Stream(r io.Reader, sidecar *Manifest) (*Streamed, error) { return stream(r, sidecar, nil) }

// stream is Stream for a file whose blocks have these sizes if it is an xz file.
func stream(r io.Reader, sidecar *Manifest, sizes []xz.Size) (*Streamed, error) {
	from := &compress.Input{R: r}
	in := bufio.NewReaderSize(from, 256<<10) // no larger than the buffers of decompressors, which then read past it
	head, err := in.Peek(headSize)
	if len(head) == 0 {
		if err == io.EOF {
			return nil, corrupt("the image is empty")
		}
		return nil, err
	}
	if from.Err() != nil {
		return nil, from.Err()
	}
	s := &Streamed{Format: detect(head), Manifest: sidecar, in: from}
	var all io.Reader = in
	if s.Format == Zstd {
		var kept bytes.Buffer
		m, err := manifestFrame(io.TeeReader(in, &kept))
		if err != nil {
			return nil, err
		}
		if from.Err() != nil {
			return nil, from.Err()
		}
		if m != nil {
			s.Manifest = m
		}
		all = io.MultiReader(&kept, in)
		s.tail = newTrailer(all, m != nil)
		all = s.tail
	}
	if s.Format == Sparse {
		return nil, errors.New("an Android sparse image cannot be read from a pipe or an archive: unpack it to a file")
	}
	if s.Format == Zip {
		return nil, errors.New("a zip archive cannot be read from a pipe or another archive: use the output of unzip -p")
	}
	raw, err := unpack(s.Format, all, compress.Options{
		MaxMemory: compress.LargeMemory(), Trailing: func(n int64) { s.Trailing = n }, Ahead: true, Sizes: sizes})
	if err != nil {
		return nil, s.wrap(err, 0)
	}
	s.raw, s.close = raw, raw.Close
	return s, nil
}

// wrap makes an error of a decompressor a *[CorruptError] with the offset in the image,
// unless reading its input failed.
func (s *Streamed) wrap(err error, at int64) error {
	if err == nil {
		return nil
	}
	if s.in.Err() != nil {
		return s.in.Err()
	}
	if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
		return corrupt("the image is cut short at byte %d", at)
	}
	if memory := new(*compress.MemoryError); errors.As(err, memory) {
		return fmt.Errorf("%w; unpack it with %s -d%s", err, (*memory).Format, map[compress.Format]string{compress.Zstd: " --long=31"}[(*memory).Format]) // not corrupt
	}
	if errors.As(err, new(*compress.FilterError)) || errors.As(err, new(*CorruptError)) || errors.As(err, new(*bmap.CorruptError)) {
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
				few := ""
				if err == nil {
					few = "at least " // the end was not reached
				}
				yield(image.Chunk{}, corrupt("the image has %s%d bytes, its manifest says %d: the image was cut short, or the manifest belongs to another image", few, end, m.Size))
				return
			}
			if s.Manifest == nil {
				if n > 0 && !yield(image.Chunk{Off: off, Data: data}, nil) {
					return
				}
			}
			at := off
			for len(pieces) > 0 && pieces[0].Off+pieces[0].Len <= end {
				p := pieces[0]
				pieces = pieces[1:]
				part := data[p.Off-off:][:p.Len:p.Len]
				err := checkZeros(data[at-off:p.Off-off], at, noContent)
				if err == nil {
					err = checkPiece(p, part)
				}
				at = p.Off + p.Len
				if err != nil {
					yield(image.Chunk{}, err)
					return
				}
				if !yield(image.Chunk{Off: p.Off, Data: part}, nil) {
					return
				}
			}
			if s.Manifest != nil {
				if err := checkZeros(data[at-off:], at, noContent); err != nil {
					yield(image.Chunk{}, err)
					return
				}
			}
			if err != nil {
				if err := s.end(); err != nil {
					yield(image.Chunk{}, err)
				}
				return
			}
			off = end
		}
	}
}

// end checks what follows the image.
func (s *Streamed) end() error {
	s.ended = true
	if s.tail == nil {
		return nil
	}
	if err := s.tail.check(); err != nil {
		return err
	}
	if !s.tail.ours {
		return nil
	}
	for _, a := range s.tail.list {
		if err := s.Manifest.CheckDocument(a.name, a.data); err != nil {
			return err
		}
	}
	return nil
}

// Attachments describes the attachments in the image, after all of it was read.
func (s *Streamed) Attachments() (all []Attached) {
	if s.ended && s.tail != nil && s.tail.ours {
		for _, a := range s.tail.list {
			all = append(all, Describe(a.name, a.data))
		}
	}
	return all
}

// Attachment returns an attachment in the image, after all of it was read. Without one the
// error is [fs.ErrNotExist].
func (s *Streamed) Attachment(name string) ([]byte, error) {
	if s.ended && s.tail != nil && s.tail.ours {
		for _, a := range s.tail.list {
			if a.name == name {
				return a.data, s.Manifest.CheckDocument(name, a.data)
			}
		}
	}
	return nil, noAttachment(name)
}
