package artifact

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"imgtool/image"
	"imgtool/image/fault"
	"imgtool/image/pending"
)

// Replacement is new content for a region of an image. The ends of the region are
// multiples of image.PieceSize, or the end of the image. Content is of the size of the
// image and has no extents outside of the region.
type Replacement struct {
	Region  image.Span
	Content *image.Image
}

// Replace saves an image that was opened from f under its own name, with a region
// replaced. The rest of the file is copied as it is, without decompressing it, and the
// manifest is updated. The image must be raw or an .img.zst with a manifest; for others
// Replace returns [ErrStream].
//
// A signature of the manifest, in the file or beside it, does not match the new one: it is
// removed, and dropped says so. Other attachments are kept.
//
// The files keep their permissions and owners; a manifest or block map that did not
// exist gets the permissions and owner of the image. If path is a symbolic link, its target is replaced.
func Replace(ctx context.Context, path string, f *os.File, o *Opened, r Replacement) (dropped bool, err error) {
	if r.Region.Off%image.PieceSize != 0 || r.Region.End()%image.PieceSize != 0 && r.Region.End() != o.Size() || r.Content.Size() != o.Size() {
		return false, fmt.Errorf("the %d bytes at byte %d of an image of %d are not whole pieces of %d", r.Region.Len, r.Region.Off, o.Size(), int64(image.PieceSize))
	}
	frames, _ := o.raw.(*seekable)
	if o.Format != Raw && (frames == nil || o.Manifest == nil) {
		return false, ErrStream
	}
	m := o.Manifest
	if m != nil {
		sums, err := image.Sum(ctx, r.Content, nil)
		if err != nil {
			return false, err
		}
		changed := *m
		changed.text, changed.ImageSHA256 = nil, ""
		changed.Entries = r.entries(m.Entries, sums.Extents.Entries)
		changed.Pieces = r.entries(m.Pieces, sums.Pieces.Entries)
		m = &changed
	}
	err = rewrite(path, f, m, func(out *os.File) error {
		if o.Format == Raw {
			return r.writeRaw(ctx, out, f)
		}
		return r.writeFrames(ctx, out, frames, m)
	})
	if err != nil || m == nil {
		return false, err
	}
	if frames != nil {
		_, err := o.Attachment(Signature)
		dropped = err == nil
	}
	for _, name := range []string{Signature, Minisig} {
		found, err := removeBeside(path, name)
		if dropped = dropped || found; err != nil {
			return dropped, err
		}
	}
	return dropped, nil
}

// Patch saves a raw image without a manifest, which was opened from f, under its own
// name, with the patches written over it. Holes of the file stay holes; its permissions
// and owner are kept. If path is a symbolic link, its target is replaced.
func Patch(ctx context.Context, path string, f *os.File, patches []image.Extent) error {
	return rewrite(path, f, nil, func(out *os.File) error {
		info, err := f.Stat()
		if err != nil {
			return err
		}
		if err := out.Truncate(info.Size()); err != nil {
			return err
		}
		if err := copyData(ctx, out, f, image.Span{Len: info.Size()}); err != nil {
			return err
		}
		for _, e := range patches {
			if _, err := io.Copy(io.NewOffsetWriter(out, e.Off), io.NewSectionReader(e.Content, 0, e.Size())); err != nil {
				return err
			}
		}
		return nil
	})
}

// rewrite replaces the file at path, which is open as f, by a file that write writes, with
// the same access. If another file has the name by then, the error has the kind [fault.Refused].
// The manifest and block map beside it are written too, unless m is nil.
func rewrite(path string, f *os.File, m *Manifest, write func(out *os.File) error) error {
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	old, err := pending.AccessOf(target)
	if err == nil && old == nil {
		err = fs.ErrNotExist
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	out, err := pending.Create(target)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	defer out.Cleanup()
	if err := out.SetAccess(old); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := write(out.File); err != nil {
		return fmt.Errorf("%s: %w", out.Path, err)
	}
	was, err := f.Stat()
	if err != nil {
		return err
	}
	if now, err := os.Stat(out.Path); err != nil || !os.SameFile(was, now) {
		return fault.New(fault.Refused, "%s was replaced by another file while it was in use: try again", out.Path)
	}
	var beside []sidecar
	if m != nil {
		beside = sidecars(out.Path, m)
	}
	return commit(out, beside, func(path string) (*pending.Access, error) {
		a, err := pending.AccessOf(path)
		if a == nil && err == nil {
			a = old
		}
		return a, err
	})
}

func (r *Replacement) entries(all, inRegion []image.Entry) []image.Entry {
	kept := slices.DeleteFunc(slices.Clone(all), func(e image.Entry) bool { return r.Region.Off <= e.Off && e.Off < r.Region.End() })
	kept = append(kept, inRegion...)
	slices.SortFunc(kept, func(a, b image.Entry) int { return cmp.Compare(a.Off, b.Off) })
	return kept
}

// writeRaw copies a raw image around the region and writes the region.
func (r *Replacement) writeRaw(ctx context.Context, out, in *os.File) error {
	size := r.Content.Size()
	if err := out.Truncate(size); err != nil {
		return err
	}
	for _, s := range []image.Span{{Len: r.Region.Off}, {Off: r.Region.End(), Len: size - r.Region.End()}} {
		if err := copyData(ctx, out, in, s); err != nil {
			return err
		}
	}
	_, err := image.Write(ctx, out, r.Content.Chunks(image.PieceSize), nil)
	return err
}

// copyData copies the data of a file in a span; holes stay holes. The kernel copies
// (copy_file_range), if the file system supports that without moving the data.
func copyData(ctx context.Context, out, in *os.File, s image.Span) error {
	for at := s.Off; at < s.End(); {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		start, err := in.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // only a hole is left
		}
		var end int64
		if err != nil {
			start, end = at, s.End() // the file system does not support holes
		} else if end, err = in.Seek(start, unix.SEEK_HOLE); err != nil {
			return err
		}
		// Small enough to react to the end of ctx.
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

// writeFrames copies the frames of s outside of the region, and compresses the region. The
// result is the file that [Save] writes for the changed image.
func (r *Replacement) writeFrames(ctx context.Context, out *os.File, s *seekable, m *Manifest) error {
	enc, err := zstdEncoder()
	if err != nil {
		return err
	}
	shape, err := m.shape()
	if err != nil {
		return err
	}
	buf := bufio.NewWriterSize(out, image.PieceSize)
	t := newFrames(buf, m)
	holes := &holes{compress: enc.hole}
	old := s.frames
	for w := range windows(shape, enc.holeSize) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		for len(old) > 0 && old[0].off < w.off {
			old = old[1:]
		}
		var packed []byte
		switch {
		case len(w.pieces) == 0:
			packed, err = holes.get(w.len)
		case r.Region.Off <= w.off && w.off < r.Region.End():
			data := make([]byte, w.len)
			if _, err := r.Content.ReadAt(data, w.off); err != nil && err != io.EOF {
				return err
			}
			packed, err = enc.compress(nil, data)
		case len(old) == 0 || old[0].off != w.off || old[0].len != w.len:
			return ErrStream // its frames are not pieces
		default:
			packed = make([]byte, old[0].packedLen)
			_, err = image.ReadFull(s.r, packed, old[0].packed)
		}
		if err == nil {
			err = t.add(packed, w.len)
		}
		if err != nil {
			return err
		}
	}
	kept := slices.DeleteFunc(slices.Clone(s.attached), func(a attached) bool { return a.name == Signature })
	if err := s.readData(kept); err != nil {
		return err
	}
	if err := t.finish(t.manifest, kept); err != nil {
		return err
	}
	return buf.Flush()
}
