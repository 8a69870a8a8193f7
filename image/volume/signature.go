package volume

import (
	"bytes"
	"context"
	"errors"
	"io/fs"

	"imgtool/image/artifact"
)

// Signed returns the bytes of the manifest that signatures sign, and the signatures in the image
// and beside it. The manifest is nil if there is none.
//
// From now on another manifest is an error, so that what was checked is what is read.
func (s *Source) Signed() (manifest, signatures []byte, err error) {
	if s.Manifest == nil {
		return nil, nil, nil
	}
	s.signed = s.Manifest.Text()
	inside, err := s.inside(artifact.Signature)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, s.Wrap(err)
	}
	signatures = bytes.Clone(inside)
	for _, name := range []string{artifact.Signature, artifact.Minisig} {
		beside, _, err := s.readBeside(name, nil)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		if len(signatures) > 0 && !bytes.HasSuffix(signatures, []byte("\n")) {
			signatures = append(signatures, '\n')
		}
		signatures = append(signatures, beside...)
	}
	return s.signed, signatures, nil
}

// KeepsSignature reports whether a signature is stored in the image file, and not beside it.
func (s *Source) KeepsSignature() bool {
	return s.opened != nil && s.Format == artifact.Zstd && s.Manifest != nil && s.Manifest != s.beside.manifest
}

// checkSigned returns an error if the manifest is not what [Source.Signed] returned.
func (s *Source) checkSigned() error {
	if s.signed == nil || s.Manifest != nil && bytes.Equal(s.Manifest.Text(), s.signed) {
		return nil
	}
	return corrupt("its manifest was replaced after the signature was checked")
}

// CheckPieces reads all content of an image with random access and compares it with the
// manifest. [Source.Check] compares with the checksums in the file, which who alters the image
// can alter too.
func (s *Source) CheckPieces(ctx context.Context) error {
	if s.Image == nil || s.Manifest == nil || s.opened == nil || s.Format == artifact.Raw {
		return nil // Check does it
	}
	defer s.opt.Reporter.EndPhase()
	var total int64
	for _, p := range s.Manifest.Pieces {
		total += p.Len
	}
	progress := s.opt.Reporter.Phase("checking", total)
	for c, err := range s.Chunks() {
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return s.Wrap(err)
		}
		progress.Add(int64(len(c.Data)))
	}
	return nil
}
