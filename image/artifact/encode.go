package artifact

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"iter"
	"os"
	"runtime"
	"slices"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"imgtool/image"
	"imgtool/image/parallel"
)

// compressor compresses a piece as a complete frame, stream or member, so that the results
// can be concatenated. It uses dst if that is large enough.
type compressor func(dst, data []byte) ([]byte, error)

func newCompressor(f Format) (compressor, error) {
	switch f {
	case Zstd:
		e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderCRC(true), zstd.WithEncoderConcurrency(min(runtime.GOMAXPROCS(0), 8)), zstd.WithLowerEncoderMem(true))
		if err != nil {
			return nil, err
		}
		return func(dst, data []byte) ([]byte, error) { return e.EncodeAll(data, dst[:0]), nil }, nil
	case XZ:
		return writerCompressor(func(w io.Writer) (io.WriteCloser, error) {
			return xz.WriterConfig{DictCap: image.PieceSize, CheckSum: xz.CRC32}.NewWriter(w)
		}), nil
	case Gzip:
		return writerCompressor(func(w io.Writer) (io.WriteCloser, error) {
			return gzip.NewWriterLevel(w, gzip.DefaultCompression)
		}), nil
	}
	return nil, fmt.Errorf("writing %s images is not supported", f)
}

func writerCompressor(newWriter func(io.Writer) (io.WriteCloser, error)) compressor {
	return func(dst, data []byte) ([]byte, error) {
		b := bytes.NewBuffer(dst[:0])
		w, err := newWriter(b)
		if err != nil {
			return nil, err
		}
		if _, err := w.Write(data); err != nil {
			return nil, err
		}
		err = w.Close()
		return b.Bytes(), err
	}
}

// compressed writes the image piece by piece. An .img.zst begins with the manifest; it
// is written last, over a placeholder of the same length, because it has the hashes.
func (s *saver) compressed(ctx context.Context, file *os.File) error {
	sums := image.NewChecksums(s.img)
	s.m.fill(sums)
	out := bufio.NewWriterSize(file, image.PieceSize)
	t := frames{w: out}
	if s.format != Zstd {
		if err := s.pieces(ctx, sums, t.add); err != nil {
			return err
		}
		return out.Flush()
	}

	placeholder := skippable(skippableManifest, s.m.Encode())
	if err := t.add(placeholder, 0); err != nil {
		return err
	}
	content := sha256.New()
	err := s.pieces(ctx, sums, func(packed []byte, n int64) error {
		content.Write(packed)
		return t.add(packed, n)
	})
	if err != nil {
		return err
	}
	manifest := skippable(skippableManifest, s.m.Encode())
	if len(manifest) != len(placeholder) {
		return fmt.Errorf("internal error: the manifest has %d bytes, the space for it has %d", len(manifest), len(placeholder))
	}
	if err := t.finish(manifest, content); err != nil {
		return err
	}
	if err := out.Flush(); err != nil {
		return err
	}
	_, err = file.WriteAt(manifest, 0)
	return err
}

// pieces compresses the image in windows of PieceSize, several at once, and hashes its
// pieces. emit receives the compressed windows in order, with their sizes in the image.
func (s *saver) pieces(ctx context.Context, sums *image.Checksums, emit func(packed []byte, n int64) error) error {
	compress, err := newCompressor(s.format)
	if err != nil {
		return err
	}
	// All holes of this size compress to the same bytes.
	holeSize := min(image.PieceSize, s.img.Size())
	hole, err := compress(nil, make([]byte, holeSize))
	if err != nil {
		return err
	}
	type slot struct {
		window
		data   []byte // of the window; has a capacity of PieceSize
		buf    []byte // for packed
		packed []byte
	}
	workers := min(runtime.GOMAXPROCS(0), 8) // bounds the memory on large machines
	slots := make([]slot, workers+2)
	nextWindow, stop := iter.Pull(windows(s.img))
	defer stop()
	next := func(sl *slot) (ok bool) {
		sl.window, ok = nextWindow()
		return ok
	}
	work := func(sl *slot) (err error) {
		if len(sl.pieces) == 0 && sl.len == holeSize {
			sl.packed = hole
			return nil
		}
		sl.data = slices.Grow(sl.data[:0], image.PieceSize)[:sl.len]
		clear(sl.data)
		for i, e := range sl.pieces {
			part := sl.data[e.Off-sl.off:][:e.Len]
			if _, err := s.img.ReadAt(part, e.Off); err != nil && err != io.EOF {
				return err
			}
			sums.Piece(sl.first + i).Write(part)
		}
		sl.packed, err = compress(sl.buf, sl.data)
		sl.buf = sl.packed
		return err
	}
	take := func(sl *slot) error {
		if err := emit(sl.packed, sl.len); err != nil {
			return err
		}
		for _, e := range sl.pieces {
			s.done.Add(e.Len)
		}
		return nil
	}
	return parallel.Map(ctx, slots, next, slices.Repeat([]func(*slot) error{work}, workers), take)
}

// window is a range of an image between two multiples of PieceSize.
type window struct {
	off, len int64
	pieces   []image.Span // in the window
	first    int          // index of pieces[0] among all pieces of the image
}

func windows(m *image.Image) iter.Seq[window] {
	return func(yield func(window) bool) {
		next, stop := iter.Pull(m.Pieces(image.PieceSize))
		defer stop()
		s, ok := next()
		n := 0
		for off := int64(0); off < m.Size(); off += image.PieceSize {
			w := window{off: off, len: min(image.PieceSize, m.Size()-off), first: n}
			for ok && s.Off < off+w.len {
				w.pieces = append(w.pieces, s)
				s, ok = next()
				n++
			}
			if !yield(w) {
				return
			}
		}
	}
}
