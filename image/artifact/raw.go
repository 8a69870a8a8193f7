package artifact

import (
	"fmt"
	"io"
	"slices"

	"imgtool/image"
	"imgtool/image/pending"
)

// RawFile is a raw image file that is being written and does not have its name yet.
// Parts of the image can be written at their offsets before the image is complete;
// [Options.Save] adds the others.
//
// A build writes the squashfs there instead of to a scratch file that is copied into the
// image. With a Debian root file system of 1 GB (squashfs of 280 MB) that saves 13 % of the CPU
// time of a build whose blocks are all cached (1.23 s, not 1.42 s; medians of 8 paired runs),
// and 7 % of one without a cache (17.5 s, not 19.0 s; 3 paired runs), at the same peak memory.
// Wall times on two busy cores differed by -33 to +7 %.
type RawFile struct{ out *pending.File }

// CreateRaw creates the file for a raw image at path, without the name. The caller must
// call Close.
func CreateRaw(path string) (*RawFile, error) {
	out, err := pending.Create(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &RawFile{out}, nil
}

// ReadAt reads what was written.
func (f *RawFile) ReadAt(b []byte, off int64) (int, error) { return f.out.ReadAt(b, off) }

// WriteAt writes at an offset in the image.
func (f *RawFile) WriteAt(b []byte, off int64) (int, error) { return f.out.WriteAt(b, off) }

// Commit gives the file its name as it is. It is for other files than images.
func (f *RawFile) Commit() error { return f.out.Commit() }

// Close discards the file unless it was saved or committed.
func (f *RawFile) Close() { f.out.Cleanup() }

// skipWriter is an [io.WriterAt] that does not write ranges which have been written.
type skipWriter struct {
	io.WriterAt
	written []image.Span
}

func (w *skipWriter) WriteAt(b []byte, off int64) (int, error) {
	end := off + int64(len(b))
	if slices.ContainsFunc(w.written, func(s image.Span) bool { return s.Off <= off && end <= s.End() }) {
		return len(b), nil
	}
	return w.WriterAt.WriteAt(b, off)
}
