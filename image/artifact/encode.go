package artifact

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/klauspost/pgzip"

	"imgtool/image"
	"imgtool/image/parallel"
	"imgtool/image/xz"
)

// encoder is how windows of an image are compressed on their own, several at once.
type encoder struct {
	holeSize int64                                  // largest window without content
	compress func(dst, data []byte) ([]byte, error) // uses dst if that is large enough
	hole     func(n int64) ([]byte, error)          // compresses n zeros
}

// zstdEncoder compresses a window as a frame.
func zstdEncoder() (*encoder, error) {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderCRC(true), zstd.WithEncoderConcurrency(workers()), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, err
	}
	return &encoder{holeFrame,
		func(dst, data []byte) ([]byte, error) { return z.EncodeAll(data, dst[:0]), nil },
		func(n int64) ([]byte, error) { return zeroFrame(n), nil }}, nil
}

// xzEncoder compresses a window as a block.
func xzEncoder() *encoder {
	return &encoder{image.PieceSize, xz.AppendBlock,
		func(n int64) ([]byte, error) { return xz.AppendBlock(nil, make([]byte, n)) }}
}

// workers is how many windows are compressed at once; it bounds the memory on large machines.
func workers() int { return min(runtime.GOMAXPROCS(0), 8) }

// compressed writes the image in a compressed format.
func (s *saver) compressed(ctx context.Context, file *os.File) error {
	sums := image.NewChecksums(s.img)
	s.m.fill(sums)
	if s.format == Zstd {
		return s.zstd(ctx, file, sums)
	}
	sum := sha256.New()
	out := bufio.NewWriterSize(io.MultiWriter(file, sum), image.PieceSize)
	switch s.format {
	case XZ:
		w, err := xz.NewWriter(out)
		if err == nil {
			err = s.windows(ctx, sums, xzEncoder(), func(block []byte, _ int64) error { return w.WriteBlock(block) })
		}
		if err == nil {
			err = w.Close()
		}
		if err != nil {
			return err
		}
	case Gzip:
		if err := s.gzip(ctx, out, sums); err != nil {
			return err
		}
	default:
		return fmt.Errorf("writing %s images is not supported", s.format)
	}
	if err := out.Flush(); err != nil {
		return err
	}
	s.sum = hex.EncodeToString(sum.Sum(nil))
	s.setImageSHA256()
	return nil
}

func (s *saver) setImageSHA256() {
	if s.whole != nil {
		s.m.ImageSHA256 = hex.EncodeToString(s.whole.Sum(nil))
	}
}

// zstd writes frames. The manifest is written last, over a placeholder of the same length,
// because it has the hashes.
func (s *saver) zstd(ctx context.Context, file *os.File, sums *image.Checksums) error {
	enc, err := zstdEncoder()
	if err != nil {
		return err
	}
	if s.ImageSHA256 {
		s.m.ImageSHA256 = unknownSHA256
	}
	for _, d := range s.Documents {
		s.m.Documents = append(s.m.Documents, DocumentSum{d.Name, unknownSHA256})
	}
	out := bufio.NewWriterSize(file, image.PieceSize)
	t := newFrames(out, s.m)
	if err := s.windows(ctx, sums, enc, t.add); err != nil {
		return err
	}
	s.setImageSHA256()
	var list []attached
	for i, d := range s.Documents {
		text := d.Encode(Subject{strings.TrimSuffix(filepath.Base(s.Raw.out.Path), ".zst"), s.m.ImageSHA256, s.m.Content()})
		list = append(list, attached{name: d.Name, data: text})
		s.m.Documents[i].SHA256 = hexSum(text)
	}
	manifest := skippable(skippableManifest, s.m.Encode())
	if len(manifest) != len(t.manifest) {
		return fmt.Errorf("internal error: the manifest has %d bytes, the space for it has %d", len(manifest), len(t.manifest))
	}
	if err := t.finish(manifest, list); err != nil {
		return err
	}
	if err := out.Flush(); err != nil {
		return err
	}
	_, err = file.WriteAt(manifest, t.manifestAt)
	return err
}

// gzip writes one member.
func (s *saver) gzip(ctx context.Context, out io.Writer, sums *image.Checksums) error {
	z := pgzip.NewWriter(out)
	if err := z.SetConcurrency(1<<20, workers()); err != nil { // the block size affects the result, the number of workers does not
		return err
	}
	data := make([]byte, image.PieceSize)
	for w := range windows(s.img, image.PieceSize) {
		err := context.Cause(ctx)
		if err == nil {
			err = s.read(w, data[:w.len], sums)
		}
		if err == nil {
			s.hashWindow(w, data)
			_, err = z.Write(data[:w.len])
		}
		if err != nil {
			z.Close()
			return err
		}
		s.progress(w)
	}
	return z.Close()
}

// windows compresses the windows of the image, several at once, and hashes its pieces. emit
// receives the compressed windows in order, with their sizes in the image.
func (s *saver) windows(ctx context.Context, sums *image.Checksums, enc *encoder, emit func(packed []byte, n int64) error) error {
	type slot struct {
		window
		data   []byte // of the window; has a capacity of PieceSize
		buf    []byte // for packed
		packed []byte
	}
	slots := make([]slot, workers()+2)
	nextWindow, stop := iter.Pull(windows(s.img, enc.holeSize))
	defer stop()
	next := func(sl *slot) (ok bool) {
		sl.window, ok = nextWindow()
		return ok
	}
	holes := &holes{compress: enc.hole}
	work := func(sl *slot) (err error) {
		if len(sl.pieces) == 0 {
			sl.packed, err = holes.get(sl.len)
			return err
		}
		sl.data = slices.Grow(sl.data[:0], image.PieceSize)[:sl.len]
		if err := s.read(sl.window, sl.data, sums); err != nil {
			return err
		}
		sl.packed, err = enc.compress(sl.buf, sl.data)
		sl.buf = sl.packed
		return err
	}
	take := func(sl *slot) error {
		if err := emit(sl.packed, sl.len); err != nil {
			return err
		}
		s.hashWindow(sl.window, sl.data)
		s.progress(sl.window)
		return nil
	}
	return parallel.Map(ctx, slots, next, slices.Repeat([]func(*slot) error{work}, workers()), take)
}

// read reads a window into data, and hashes its pieces.
func (s *saver) read(w window, data []byte, sums *image.Checksums) error {
	clear(data)
	for i, e := range w.pieces {
		part := data[e.Off-w.off:][:e.Len]
		if _, err := s.img.ReadAt(part, e.Off); err != nil && err != io.EOF {
			return err
		}
		sums.Piece(w.first + i).Write(part)
	}
	return nil
}

// hashWindow adds a window to the hash of the image, if it is wanted. Windows must come in order.
func (s *saver) hashWindow(w window, data []byte) {
	if s.whole == nil {
		return
	}
	if len(w.pieces) > 0 {
		s.whole.Write(data[:w.len])
		return
	}
	for left := w.len; left > 0; left -= int64(len(someZeros)) {
		s.whole.Write(someZeros[:min(left, int64(len(someZeros)))])
	}
}

var someZeros [1 << 20]byte

func (s *saver) progress(w window) {
	for _, e := range w.pieces {
		s.done.Add(e.Len)
	}
}

// window is a range of an image: the range between two multiples of PieceSize, or several
// of these without content.
type window struct {
	off, len int64
	pieces   []image.Span // in the window
	first    int          // index of pieces[0] among all pieces of the image
}

// windows returns the windows of an image. Those without content end at multiples of
// holeSize, which is a multiple of PieceSize.
func windows(m *image.Image, holeSize int64) iter.Seq[window] {
	return func(yield func(window) bool) {
		next, stop := iter.Pull(m.Pieces(image.PieceSize))
		defer stop()
		s, ok := next()
		n := 0
		for off := int64(0); off < m.Size(); {
			w := window{off: off, len: min(image.PieceSize, m.Size()-off), first: n}
			if !ok || s.Off >= off+w.len {
				end := min(m.Size(), (off/holeSize+1)*holeSize)
				if ok {
					end = min(end, s.Off/image.PieceSize*image.PieceSize)
				}
				w.len = end - off
			}
			for ok && s.Off < off+w.len {
				w.pieces = append(w.pieces, s)
				s, ok = next()
				n++
			}
			if !yield(w) {
				return
			}
			off += w.len
		}
	}
}
