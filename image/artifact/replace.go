package artifact

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"imgtool/image"
	"imgtool/image/fault"
)

// Replace saves an image that was opened from f under its own name, with other
// content in a region whose ends are multiples of image.PieceSize, or the end of
// the image. Everything else is taken over as it lies in the file, packed or not.
// content is of the size of the image, and has nothing outside of the region. The
// manifest, if there is one, is the old one with what has changed.
//
// A raw image or one of our own .img.zst can be changed so; else the error is
// ErrStream.
//
// The files keep their modes and owners; a manifest or block map that was not there gets
// those of the image. If path is a symbolic link, it stays one.
func Replace(ctx context.Context, path string, f *os.File, o *Opened, region image.Span, content *image.Image, p image.Progress) error {
	if region.Off%image.PieceSize != 0 || region.End()%image.PieceSize != 0 && region.End() != o.Size() || content.Size() != o.Size() {
		return fmt.Errorf("the %d bytes at %d of an image of %d are no whole pieces of %d", region.Len, region.Off, o.Size(), int64(image.PieceSize))
	}
	if o.Format != Raw && (o.Format != Zstd || o.Manifest == nil) {
		return ErrStream
	}
	m := o.Manifest
	if m != nil {
		t, err := image.Sum(ctx, content, nil)
		if err != nil {
			return err
		}
		changed := *m
		changed.Entries = swap(m.Entries, t.Leaves.Entries, region)
		changed.Pieces = swap(m.Pieces, t.Pieces.Entries, region)
		m = &changed
	}
	path, old, out, err := replacing(path)
	if err != nil {
		return err
	}
	defer out.Cleanup()
	if o.Format == Raw {
		err = replaceRaw(ctx, out.File, f, o.Size(), region, content, p)
	} else {
		err = replaceFrames(ctx, out.File, f, o, region, content, m, p)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := stillThere(path, f); err != nil {
		return err
	}
	return commit(path, out, m, func(path string) (*access, error) {
		a, err := accessOf(path)
		if a == nil && err == nil {
			a = old
		}
		return a, err
	})
}

// replacing is a file that will take the place of another, with its access, and the path
// of that without symbolic links. Cleanup is to be called.
func replacing(name string) (path string, old *access, out *pending, err error) {
	if path, err = filepath.EvalSymlinks(name); err != nil {
		return "", nil, nil, err
	}
	old, err = accessOf(path)
	if err == nil && old == nil {
		err = fs.ErrNotExist
	}
	if err == nil {
		out, err = newPending(path)
	}
	if err == nil {
		if err = out.give(old); err != nil {
			out.Cleanup()
		}
	}
	if err != nil {
		return "", nil, nil, fmt.Errorf("%s: %w", name, err)
	}
	return path, old, out, nil
}

// ReplacedError is a file that is another one than when it was opened.
type ReplacedError struct{ Path string }

func (e *ReplacedError) Error() string {
	return e.Path + ": another file has taken its name since it was opened: start over"
}

func (e *ReplacedError) Kind() string { return fault.Refused }

func stillThere(path string, f *os.File) error {
	was, err := f.Stat()
	if err != nil {
		return err
	}
	if now, err := os.Stat(path); err != nil || !os.SameFile(was, now) {
		return &ReplacedError{path}
	}
	return nil
}

// swap puts other entries in the place of those in a region.
func swap(entries, others []image.Entry, region image.Span) []image.Entry {
	kept := slices.DeleteFunc(slices.Clone(entries), func(e image.Entry) bool { return region.Off <= e.Off && e.Off < region.End() })
	kept = append(kept, others...)
	slices.SortFunc(kept, func(a, b image.Entry) int { return cmp.Compare(a.Off, b.Off) })
	return kept
}

// replaceRaw copies a sparse file around a region, and writes that.
func replaceRaw(ctx context.Context, out, in *os.File, size int64, region image.Span, content *image.Image, p image.Progress) error {
	if err := out.Truncate(size); err != nil {
		return err
	}
	for _, s := range []image.Span{{Len: region.Off}, {Off: region.End(), Len: size - region.End()}} {
		if err := copyData(ctx, out, in, s); err != nil {
			return err
		}
	}
	_, err := image.Write(ctx, out, content.Chunks(image.PieceSize), p)
	return err
}

// copyData copies what a file has in a span, and no holes: the kernel does it.
func copyData(ctx context.Context, out, in *os.File, s image.Span) error {
	for at := s.Off; at < s.End(); {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		start, err := in.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil
		}
		var end int64
		if err != nil {
			start, end = at, s.End() // a file system without holes
		} else if end, err = in.Seek(start, unix.SEEK_HOLE); err != nil {
			return err
		}
		// Not too much at once, so that who is told to stop stops.
		if end = min(end, s.End(), start+64<<20); start >= end {
			return nil
		}
		if _, err := in.Seek(start, io.SeekStart); err != nil {
			return err
		}
		if _, err := out.Seek(start, io.SeekStart); err != nil {
			return err
		}
		if _, err := io.CopyN(out, in, end-start); err != nil {
			return err
		}
		at = end
	}
	return nil
}

// replaceFrames copies the frames of a seekable zstd around a region, and packs
// that anew.
func replaceFrames(ctx context.Context, out, in *os.File, o *Opened, region image.Span, content *image.Image, m *Manifest, p image.Progress) error {
	s, ok := o.raw.(*seekable)
	if !ok {
		return ErrStream
	}
	compress, err := newCompressor(Zstd)
	if err != nil {
		return err
	}
	t := frames{w: out}
	manifest := skippable(skippableManifest, m.Encode())
	if err := t.add(manifest, 0); err != nil {
		return err
	}
	for i := 0; i < len(s.frames); i++ {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		f := s.frames[i]
		switch {
		case f.off >= region.End() || f.off+f.len <= region.Off:
			// A run of them at once: the kernel copies it.
			end := f.packed
			for ; i < len(s.frames) && end == s.frames[i].packed && (s.frames[i].off >= region.End() || s.frames[i].off+s.frames[i].len <= region.Off); i++ {
				end += s.frames[i].packedLen
				t.note(s.frames[i].packedLen, s.frames[i].len)
			}
			i--
			if _, err := in.Seek(f.packed, io.SeekStart); err != nil {
				return err
			}
			if _, err := io.CopyN(out, in, end-f.packed); err != nil {
				return err
			}
		case f.off < region.Off || f.off+f.len > region.End():
			return ErrStream // frames of another size than ours
		default:
			data := make([]byte, f.len)
			if _, err := content.ReadAt(data, f.off); err != nil && err != io.EOF {
				return err
			}
			packed, err := compress(nil, data)
			if err == nil {
				err = t.add(packed, f.len)
			}
			if err != nil {
				return err
			}
			p.Add(f.len)
		}
	}
	size, err := out.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	data := sha256.New()
	if _, err := io.Copy(data, io.NewSectionReader(out, int64(len(manifest)), size-int64(len(manifest)))); err != nil {
		return err
	}
	if err := t.sums(manifest, data); err != nil {
		return err
	}
	return t.finish()
}

// frames writes frames, and then the table of them.
type frames struct {
	w     io.Writer
	table []byte
}

// sums writes the frame with the SHA-256 of the first frame, the manifest's, and of all
// between it and this one.
func (t *frames) sums(manifest []byte, data hash.Hash) error {
	first := sha256.Sum256(manifest)
	return t.add(skippable(skippableSums, data.Sum(first[:])), 0)
}

func (t *frames) add(packed []byte, unpacked int64) error {
	t.note(int64(len(packed)), unpacked)
	_, err := t.w.Write(packed)
	return err
}

func (t *frames) note(packed, unpacked int64) {
	t.table = binary.LittleEndian.AppendUint32(t.table, uint32(packed))
	t.table = binary.LittleEndian.AppendUint32(t.table, uint32(unpacked))
}

func (t *frames) finish() error {
	table := binary.LittleEndian.AppendUint32(t.table, uint32(len(t.table)/8))
	table = append(table, 0) // no checksums in the table: the frames have their own
	table = binary.LittleEndian.AppendUint32(table, seekableMagic)
	_, err := t.w.Write(skippable(skippableTable, table))
	return err
}
