package volume

import (
	"context"
	"fmt"
	"io"

	"imgtool/image"
	"imgtool/image/artifact"
)

// Check reads an image file once and compares it with its manifest, its block map or the
// checksums of its compression. A stream is checked when it is unpacked or read instead. Of an
// image on a server only the manifest and the table of its parts are checked: each part is
// compared with the manifest when it is read.
func (s *Source) Check(ctx context.Context) error {
	if err := s.beside.bmapErr; err != nil && s.Manifest == nil {
		return s.Wrap(err)
	}
	if s.opened == nil {
		return nil
	}
	if s.IsURL() {
		return s.Wrap(s.opened.CheckIndex(ctx))
	}
	return s.CheckAll(ctx)
}

// CheckAll is Check, and reads all of an image on a server as well.
func (s *Source) CheckAll(ctx context.Context) error {
	if s.opened == nil {
		return s.Check(ctx)
	}
	s.planAll()
	defer s.opt.Reporter.EndPhase()
	if b := s.beside.bmap; b != nil && s.Manifest == nil {
		p := s.opt.Reporter.Phase("checking", b.Size)
		r := image.NewReader(ctx, b.Reader(io.NewSectionReader(s.opened, 0, b.Size)), p)
		_, err := io.Copy(io.Discard, r)
		return s.Wrap(err)
	}
	n := s.opened.CheckSize()
	if n == 0 {
		return nil
	}
	var data func(int64) int64
	if info, err := s.File.Stat(); err == nil && info.Mode().IsRegular() { // not of a URL
		data = func(off int64) int64 { return nextData(s.File, off, s.size) }
	}
	err := s.opened.Check(ctx, data, s.opt.Reporter.Phase("checking", n))
	return s.Wrap(s.explain(err))
}

// CheckedWith returns a clause that says what the bytes of a checked image were compared
// with.
func (s *Source) CheckedWith() string {
	switch {
	case s.Manifest != nil:
		return "it is as its manifest says"
	case s.beside.bmap != nil:
		return "it is as its block map says"
	case s.Format != artifact.Raw && s.Format != artifact.Sparse:
		return fmt.Sprintf("its %s data are whole", s.Format)
	}
	return "there are no checksums to compare its bytes with"
}
