package volume

import (
	"bytes"

	"imgtool/image"
	"imgtool/image/zip"
)

// openArchive unpacks the image in a zip archive into a scratch file, which becomes the file of the
// source: a signature at its end is read before the rest.
func (s *Source) openArchive() error {
	head, err := image.Head(s.contents(), int64(len(zip.Magic)))
	if err != nil || !bytes.Equal(head, []byte(zip.Magic)) {
		return err
	}
	in, others, err := zip.Open(s.contents())
	if err != nil {
		return err
	}
	archive, info := s.File, s.Info
	s.Archive, s.size, s.others = true, 0, others
	if err := s.spool(s.opt.context(), in, "", ""); err != nil {
		return err
	}
	if info != nil {
		s.Info = info
	}
	if archive != nil {
		return archive.Close()
	}
	return nil
}
