package artifact

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
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
	"imgtool/image/hostfile"
	"imgtool/image/parallel"
	"imgtool/image/simg"
)

// ManifestPath is where the manifest of an image file lies beside it.
func ManifestPath(path string) string { return path + ".manifest.json" }

// BmapPath is where the block map of an image file lies beside it.
func BmapPath(path string) string { return path + ".bmap" }

// Save writes an image in the format its name asks for, with its manifest and
// block map beside it. It fills in what the manifest says of the image's bytes.
// If path is a symbolic link, they are the file that it leads to and those beside that.
// The files appear under their names when they are whole; on an error, nothing
// is left behind. room is that of path, or nil.
func Save(ctx context.Context, path string, room *Room, img *image.Image, m *Manifest, phases image.Phases) error {
	format, err := FormatOf(path)
	if err != nil {
		return err
	}
	// The manifest goes beside the file, not beside a link to it.
	if path, err = hostfile.Target(path); err != nil {
		return err
	}
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file: write the image to a file, and that to a disk with imgtool flash", path)
	}
	var out *pending
	if room != nil {
		out = room.p
	} else if out, err = newPending(path); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	defer out.Cleanup()
	if m != nil && m.Private {
		if err := out.Chmod(0o600); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	p := phases.Start("writing", img.ContentSize())
	d := newDirect(out.File, img, room)
	defer d.Close()
	switch format {
	case Raw:
		err = saveRaw(ctx, d, img, m, p)
	case Sparse:
		err = saveSparse(ctx, out, img, m, p)
	default:
		err = encode(ctx, d, format, img, m, p)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	access := func(string) (*access, error) { return nil, nil }
	if m != nil && m.Private {
		access = private
	}
	return commit(path, out, m, access)
}

// private is the access of files for their owner alone.
func private(string) (*access, error) {
	return &access{mode: 0o600, uid: os.Geteuid(), gid: os.Getegid()}, nil
}

// commit gives an image its name, and puts its manifest and block map beside it, with the
// access that accessFor says, if it says any.
func commit(path string, out *pending, m *Manifest, accessFor func(path string) (*access, error)) (err error) {
	type file struct {
		path string
		file *pending
		data []byte
	}
	// The image last: whoever sees it finds what belongs to it.
	files := []file{{path, out, nil}}
	if m != nil {
		files = []file{{BmapPath(path), nil, m.Bmap()}, {ManifestPath(path), nil, m.Encode()}, files[0]}
	}
	for i, f := range files {
		if info, err := os.Stat(f.path); err == nil && !info.Mode().IsRegular() {
			return fmt.Errorf("%s: there is something else of this name", f.path)
		}
		if f.file == nil {
			if f.file, err = newPending(f.path); err != nil {
				return fmt.Errorf("%s: %w", f.path, err)
			}
			defer f.file.Cleanup()
			access, err := accessFor(f.path)
			if err == nil && access != nil {
				err = f.file.give(access)
			}
			if err == nil {
				_, err = f.file.Write(f.data)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", f.path, err)
			}
			files[i].file = f.file
		}
	}
	for _, f := range files {
		if err := f.file.Commit(); err != nil {
			return fmt.Errorf("%s: %w", f.path, err)
		}
	}
	return nil
}

func saveRaw(ctx context.Context, d *direct, img *image.Image, m *Manifest, p image.Progress) error {
	if err := d.f.Truncate(img.Size()); err != nil {
		return err
	}
	t, err := image.WriteSum(ctx, d, img, d.known, p)
	if err != nil {
		return err
	}
	m.fill(t)
	return nil
}

func saveSparse(ctx context.Context, w io.Writer, img *image.Image, m *Manifest, p image.Progress) error {
	t, err := image.Sum(ctx, img, p)
	if err != nil {
		return err
	}
	m.fill(t)
	return simg.Write(w, img)
}

// fill fills in what is known of the image's bytes.
func (m *Manifest) fill(t *image.Tally) {
	m.Version, m.Manifest, m.Pieces = 1, *t.Leaves, t.Pieces.Entries
}

// window is the pieces between two multiples of PieceSize.
type window struct {
	off, len int64
	pieces   []image.Span
	first    int // the number of the first of them
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

// compressor packs one piece so that the pieces can follow one another, in dst
// where it has the room.
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
		return func(dst, data []byte) ([]byte, error) {
			b := bytes.NewBuffer(dst[:0])
			w, err := xz.WriterConfig{DictCap: image.PieceSize, CheckSum: xz.CRC32}.NewWriter(b)
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
		return func(dst, data []byte) ([]byte, error) {
			b := bytes.NewBuffer(dst[:0])
			w, err := gzip.NewWriterLevel(b, gzip.DefaultCompression)
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
	skippableSums     = 0x184D2A51 // what it holds is 64 bytes long
	skippableTable    = 0x184D2A5E
	seekableMagic     = 0x8F92EAB1
	footerSize        = 9
)

func skippable(magic uint32, data []byte) []byte {
	h := binary.LittleEndian.AppendUint32(nil, magic)
	h = binary.LittleEndian.AppendUint32(h, uint32(len(data)))
	return append(h, data...)
}

// encode packs the pieces one by one. An .img.zst begins with the manifest: there is
// room for it, and it is written when all hashes are known.
func encode(ctx context.Context, d *direct, f Format, img *image.Image, m *Manifest, p image.Progress) error {
	compress, err := newCompressor(f)
	if err != nil {
		return err
	}
	// Every full hole packs to the same bytes.
	hole, err := compress(nil, make([]byte, min(image.PieceSize, img.Size())))
	if err != nil {
		return err
	}
	tally := image.NewTally(img)
	m.fill(tally)
	t := frames{w: d}
	room := skippable(skippableManifest, m.Encode())
	if f == Zstd {
		if err := t.add(room, 0); err != nil {
			return err
		}
	}
	type slot struct {
		window
		data   []byte // PieceSize of room, cut to the window
		room   []byte // for what is packed
		packed []byte
	}
	// Bounded, on machines with many processors too.
	workers := min(runtime.GOMAXPROCS(0), 8)
	slots := make([]slot, workers+2)
	next, stop := iter.Pull(windows(img))
	defer stop()
	fill := func(s *slot) (ok bool) {
		s.window, ok = next()
		return ok
	}
	work := func(s *slot) (err error) {
		if len(s.pieces) == 0 && s.len == min(image.PieceSize, img.Size()) {
			s.packed = hole
			return nil
		}
		s.data = slices.Grow(s.data[:0], image.PieceSize)[:s.len]
		clear(s.data)
		for i, e := range s.pieces {
			part := s.data[e.Off-s.off:][:e.Len]
			if _, err := img.ReadAt(part, e.Off); err != nil && err != io.EOF {
				return err
			}
			tally.Piece(s.first + i).Write(part)
		}
		s.packed, err = compress(s.room, s.data)
		s.room = s.packed
		return err
	}
	data := sha256.New()
	take := func(s *slot) error {
		if f == Zstd {
			data.Write(s.packed)
		}
		if err := t.add(s.packed, s.len); err != nil {
			return err
		}
		for _, e := range s.pieces {
			p.Add(e.Len)
		}
		return nil
	}
	if err := parallel.Map(ctx, slots, fill, slices.Repeat([]func(*slot) error{work}, workers), take); err != nil {
		return err
	}
	if f != Zstd {
		return d.Flush()
	}
	whole := skippable(skippableManifest, m.Encode())
	if err := t.sums(whole, data); err != nil {
		return err
	}
	if err := t.finish(); err != nil {
		return err
	}
	if err := d.Flush(); err != nil {
		return err
	}
	if len(whole) != len(room) {
		return fmt.Errorf("internal error: a manifest of %d bytes has become one of %d", len(room), len(whole))
	}
	_, err = d.f.WriteAt(whole, 0)
	return err
}
