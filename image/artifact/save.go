package artifact

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/google/renameio/v2"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"imgtool/image"
	"imgtool/image/ordered"
	"imgtool/image/simg"
)

// ManifestPath is where the manifest of an image file lies beside it.
func ManifestPath(path string) string { return path + ".manifest.json" }

// BmapPath is where the block map of an image file lies beside it.
func BmapPath(path string) string { return path + ".bmap" }

// Save writes an image in the format its name asks for, with its manifest and
// block map beside it. It fills in what the manifest says of the image's bytes.
// The files appear under their names when they are whole; on an error, nothing
// is left behind.
func Save(ctx context.Context, path string, img *image.Image, m *Manifest, phases image.Phases) error {
	format, err := FormatOf(path)
	if err != nil {
		return err
	}
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file: write the image to a file, and that to a disk with imgtool flash", path)
	}
	if format != Raw {
		// An .img.zst begins with what is found out here, and none has a piece that
		// changed since.
		sum, pieces, err := image.Sum(ctx, img, phases.Start("hashing", img.ContentSize()))
		if err != nil {
			return err
		}
		m.Version, m.Manifest, m.Pieces = 1, *sum, pieces.Entries
	}

	out, err := renameio.NewPendingFile(path, beside(path)...)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	defer out.Cleanup()
	p := phases.Start("writing", img.ContentSize())
	switch format {
	case Raw:
		err = saveRaw(ctx, out.File, img, m, p)
	case Sparse:
		err = simg.Write(out, img)
	default:
		err = encode(ctx, out, format, img, m, p)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return commit(path, out, m)
}

// commit gives an image its name, and puts its manifest and block map beside it.
func commit(path string, out *renameio.PendingFile, m *Manifest) (err error) {
	type file struct {
		path string
		file *renameio.PendingFile
		data []byte
	}
	// The image last: whoever sees it finds what belongs to it.
	pending := []file{{path, out, nil}}
	if m != nil {
		pending = []file{{BmapPath(path), nil, m.Bmap()}, {ManifestPath(path), nil, m.Encode()}, pending[0]}
	}
	for i, f := range pending {
		if info, err := os.Stat(f.path); err == nil && !info.Mode().IsRegular() {
			return fmt.Errorf("%s: there is something else of this name", f.path)
		}
		if f.file == nil {
			if f.file, err = renameio.NewPendingFile(f.path, beside(f.path)...); err != nil {
				return fmt.Errorf("%s: %w", f.path, err)
			}
			defer f.file.Cleanup()
			if _, err := f.file.Write(f.data); err != nil {
				return fmt.Errorf("%s: %w", f.path, err)
			}
			pending[i].file = f.file
		}
	}
	for _, f := range pending {
		if err := f.file.CloseAtomicallyReplace(); err != nil {
			return fmt.Errorf("%s: %w", f.path, err)
		}
	}
	return nil
}

// beside has the temporary file in the folder of the file, not in TMPDIR.
func beside(path string) []renameio.Option {
	return []renameio.Option{renameio.WithTempDir(filepath.Dir(path)), renameio.WithPermissions(0o644)}
}

func saveRaw(ctx context.Context, f *os.File, img *image.Image, m *Manifest, p image.Progress) error {
	if err := f.Truncate(img.Size()); err != nil {
		return err
	}
	d := newDirect(f)
	defer d.Close()
	sum, pieces, err := image.WriteSum(ctx, d, img, p)
	if err != nil {
		return err
	}
	m.Version, m.Manifest, m.Pieces = 1, *sum, pieces.Entries
	return nil
}

func changed(off int64) error {
	return fmt.Errorf("an input changed while it was read: the piece at byte %d is not what it was a moment ago", off)
}

// window is the pieces between two multiples of PieceSize.
type window struct {
	off, len int64
	pieces   []image.Entry
}

func windows(m *Manifest) iter.Seq[window] {
	return func(yield func(window) bool) {
		rest := m.Pieces
		for off := int64(0); off < m.Size; off += image.PieceSize {
			w := window{off: off, len: min(image.PieceSize, m.Size-off)}
			n := 0
			for n < len(rest) && rest[n].Off < off+w.len {
				n++
			}
			w.pieces, rest = rest[:n], rest[n:]
			if !yield(w) {
				return
			}
		}
	}
}

// compressor packs one piece so that the pieces can follow one another.
type compressor func(data []byte) ([]byte, error)

func newCompressor(f Format) (compressor, error) {
	switch f {
	case Zstd:
		e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderCRC(true), zstd.WithEncoderConcurrency(min(runtime.GOMAXPROCS(0), 8)), zstd.WithLowerEncoderMem(true))
		if err != nil {
			return nil, err
		}
		return func(data []byte) ([]byte, error) { return e.EncodeAll(data, nil), nil }, nil
	case XZ:
		return func(data []byte) ([]byte, error) {
			var b bytes.Buffer
			w, err := xz.WriterConfig{DictCap: image.PieceSize, CheckSum: xz.CRC32}.NewWriter(&b)
			if err != nil {
				return nil, err
			}
			if _, err := w.Write(data); err != nil {
				return nil, err
			}
			err = w.Close()
			return b.Bytes(), err
		}, nil
	case Gzip:
		return func(data []byte) ([]byte, error) {
			var b bytes.Buffer
			w, err := gzip.NewWriterLevel(&b, gzip.DefaultCompression)
			if err != nil {
				return nil, err
			}
			if _, err := w.Write(data); err != nil {
				return nil, err
			}
			err = w.Close()
			return b.Bytes(), err
		}, nil
	}
	return nil, fmt.Errorf("%s is not written", f)
}

// The zstd seekable format: a skippable frame with a table of the sizes of all
// frames, and a footer.
const (
	skippableManifest = 0x184D2A50
	skippableTable    = 0x184D2A5E
	seekableMagic     = 0x8F92EAB1
	footerSize        = 9
)

func skippable(magic uint32, data []byte) []byte {
	h := binary.LittleEndian.AppendUint32(nil, magic)
	h = binary.LittleEndian.AppendUint32(h, uint32(len(data)))
	return append(h, data...)
}

func encode(ctx context.Context, w io.Writer, f Format, img *image.Image, m *Manifest, p image.Progress) error {
	compress, err := newCompressor(f)
	if err != nil {
		return err
	}
	// Every full hole packs to the same bytes.
	hole, err := compress(make([]byte, min(image.PieceSize, m.Size)))
	if err != nil {
		return err
	}
	t := frames{w: w}
	if f == Zstd {
		if err := t.add(skippable(skippableManifest, m.Encode()), 0); err != nil {
			return err
		}
	}
	type slot struct {
		window
		data   []byte // PieceSize of room, cut to the window
		packed []byte
	}
	// Bounded, on machines with many processors too.
	workers := min(runtime.GOMAXPROCS(0), 8)
	slots := make([]slot, workers+2)
	next, stop := iter.Pull(windows(m))
	defer stop()
	fill := func(s *slot) (ok bool) {
		s.window, ok = next()
		return ok
	}
	work := func(s *slot) (err error) {
		if len(s.pieces) == 0 && s.len == min(image.PieceSize, m.Size) {
			s.packed = hole
			return nil
		}
		s.data = slices.Grow(s.data[:0], image.PieceSize)[:s.len]
		clear(s.data)
		for _, e := range s.pieces {
			part := s.data[e.Off-s.off:][:e.Len]
			if _, err := img.ReadAt(part, e.Off); err != nil && err != io.EOF {
				return err
			}
			if checkPiece(e, part) != nil {
				return changed(e.Off)
			}
		}
		s.packed, err = compress(s.data)
		return err
	}
	take := func(s *slot) error {
		if err := t.add(s.packed, s.len); err != nil {
			return err
		}
		for _, e := range s.pieces {
			p.Add(e.Len)
		}
		return nil
	}
	if err := ordered.Run(ctx, slots, fill, slices.Repeat([]func(*slot) error{work}, workers), take); err != nil {
		return err
	}
	if f != Zstd {
		return nil
	}
	return t.finish()
}
