package volume

import (
	"context"
	"crypto/sha256"
	"encoding/hex"

	"imgtool/image"
	"imgtool/image/fault"
)

// Sum reads an image file from front to back, as a program does that knows no manifests, and
// returns the length and the SHA-256 of the image without compression. The image is compared
// with its manifest or block map at the same time. If the manifest has the SHA-256, holes are not
// read.
func (s *Source) Sum(ctx context.Context) (size int64, sum string, err error) {
	if s.File == nil {
		return 0, "", fault.New(fault.Usage, "%s: it can be read once only: give a file", s.Name)
	}
	if err := s.beside.bmapErr; err != nil && s.Manifest == nil {
		return 0, "", s.Wrap(err)
	}
	if m := s.Manifest; m != nil && m.ImageSHA256 != "" && s.opened != nil {
		return m.Size, m.ImageSHA256, s.CheckAll(ctx)
	}
	if err := s.Restart(); err != nil {
		return 0, "", s.Wrap(err)
	}
	h, zeros := sha256.New(), make([]byte, image.PieceSize)
	skip := func(end int64) {
		for ; size < end; size += min(end-size, int64(len(zeros))) {
			h.Write(zeros[:min(end-size, int64(len(zeros)))])
		}
	}
	p := s.phase("hashing")
	for c, err := range s.stream.Chunks() {
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return 0, "", s.Wrap(s.explain(err))
		}
		skip(c.Off)
		h.Write(c.Data)
		size += int64(len(c.Data))
		p.Add(int64(len(c.Data)))
	}
	if s.Manifest != nil {
		skip(s.Manifest.Size)
	}
	s.opt.Reporter.EndPhase()
	s.ReportTrailing()
	return size, hex.EncodeToString(h.Sum(nil)), nil
}
