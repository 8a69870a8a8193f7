package volume

import (
	"errors"
	"io/fs"
	"os"

	"imgtool/image/artifact"
)

// Attachment returns an attachment of the image, such as [artifact.Signature]: that in the
// image, else that of the file beside it. Without one the error is [fs.ErrNotExist]. The
// attachments in a stream are known when it was read to its end.
func (s *Source) Attachment(name string) ([]byte, error) {
	data, err := s.inside(name)
	if !errors.Is(err, fs.ErrNotExist) {
		return data, s.Wrap(err)
	}
	beside, _, found := s.readBeside(name, s.documented())
	if errors.Is(found, fs.ErrNotExist) {
		return nil, s.Wrap(err)
	}
	return beside, found
}

// readBeside reads an attachment that is beside the image at path, and compares it with the
// manifest if that is not nil.
func (s *Source) readBeside(name string, m *artifact.Manifest) (data []byte, path string, err error) {
	if s.remote != nil {
		data, err = s.ReadBeside(func(path string) string { return artifact.AttachmentPath(path, name) }, artifact.MaxAttachment)
		if err == nil && m != nil {
			err = m.CheckDocument(name, data)
		}
		return data, s.Name, s.Wrap(err)
	}
	if path = s.attachmentPath(name); path == "" {
		return nil, "", fs.ErrNotExist
	}
	data, err = artifact.ReadBeside(path, name, m)
	return data, path, err
}

// documented returns the manifest if it has the checksums of the documents beside the image. For
// an .img.zst, it has the checksums of the documents inside.
func (s *Source) documented() *artifact.Manifest {
	if s.Format == artifact.Zstd {
		return nil
	}
	return s.Manifest
}

// CheckAttachments compares the documents of the image with its manifest.
func (s *Source) CheckAttachments() error {
	all, err := s.Attachments()
	for _, a := range all {
		if _, err := s.Attachment(a.Name); err != nil {
			return err
		}
	}
	return err
}

func (s *Source) inside(name string) ([]byte, error) {
	if s.opened != nil {
		return s.opened.Attachment(name)
	}
	if s.stream != nil {
		return s.stream.Attachment(name)
	}
	return nil, fs.ErrNotExist
}

// attachmentPath returns the path of the image that an attachment is beside, or "".
func (s *Source) attachmentPath(name string) string {
	if s.Info == nil || !s.Info.Mode().IsRegular() {
		return ""
	}
	for _, path := range pathsOf(s.Name) {
		if _, err := os.Stat(artifact.AttachmentPath(path, name)); !errors.Is(err, fs.ErrNotExist) {
			return path
		}
	}
	return ""
}

// Attachments describes the attachments in the image and beside it, as [Source.Attachment]
// finds them.
func (s *Source) Attachments() (all []artifact.Attached, err error) {
	if s.opened != nil {
		if all, err = s.opened.Attachments(); err != nil {
			return nil, s.Wrap(err)
		}
	} else if s.stream != nil {
		all = s.stream.Attachments()
	}
	has := map[string]bool{}
	for _, a := range all {
		has[a.Name] = true
	}
	for _, name := range []string{artifact.Minisig, artifact.Provenance, artifact.SBOM, artifact.Signature} {
		if has[name] {
			continue
		}
		data, path, err := s.readBeside(name, nil)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		a := artifact.Describe(name, data)
		a.Path = artifact.AttachmentPath(path, name)
		all = append(all, a)
	}
	return all, nil
}
