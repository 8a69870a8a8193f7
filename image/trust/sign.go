package trust

import (
	"context"
	"fmt"

	"imgtool/image/artifact"
	"imgtool/image/fault"
	"imgtool/image/hostfile"
	"imgtool/image/sign"
	"imgtool/image/volume"
)

// Signing is how images are signed: with a key, or with signatures that were made elsewhere.
type Signing struct {
	Key     *sign.Key                         // nil: with Made
	Comment func(image string) string         // of a signature by minisign
	Made    func() ([]*sign.Signature, error) // the signatures that were made elsewhere
	Replace bool                              // remove the signatures there are
}

// Signed is what [Signing.Sign] did with an image.
type Signed struct {
	Image   string         `json:"image"`
	BuildID string         `json:"build_id,omitempty"`
	Added   []sign.Checked `json:"signed"`
	Paths   []string       `json:"paths"` // of the files that have the signatures
}

// Sign signs the image in a file. The image is checked first, so that a damaged one is not
// signed. The signature goes into an .img.zst, and beside the manifest of others.
func (s *Signing) Sign(ctx context.Context, path string, opt volume.Options) (*Signed, error) {
	src, err := volume.Open(path, opt)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	manifest, file, err := src.Signed()
	if err != nil {
		return nil, err
	}
	if manifest == nil {
		return nil, fmt.Errorf("%s: it has no manifest, which is what imgtool signs: sign the file with ssh-keygen -Y sign -n file, or put the manifest of imgtool build beside it", path)
	}
	if err := check(ctx, src); err != nil {
		return nil, err
	}
	more, err := s.signatures(manifest, path)
	if err != nil {
		return nil, src.Wrap(reasoned(err))
	}
	if s.Replace {
		file = nil
	}
	all, err := sign.Add(file, more...)
	if err != nil {
		return nil, src.Wrap(err)
	}
	if s.Replace && src.KeepsSignature() {
		for _, name := range []string{artifact.Signature, artifact.Minisig} {
			if err := artifact.Attach(ctx, path, name, nil); err != nil {
				return nil, err
			}
		}
	}
	result := &Signed{Image: path, BuildID: src.BuildID()}
	for _, m := range more {
		result.Added = append(result.Added, m.Identify())
	}
	result.Paths, err = store(ctx, src, all)
	return result, err
}

// signatures returns the signatures to add, each of which signs the manifest.
func (s *Signing) signatures(manifest []byte, path string) (all []*sign.Signature, err error) {
	if s.Key == nil {
		all, err = s.Made()
	} else {
		all = make([]*sign.Signature, 1)
		all[0], err = s.Key.Sign(manifest, s.Comment(path))
	}
	if err != nil {
		return nil, err
	}
	for _, one := range all {
		if err := one.Check(manifest); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// check reads all of an image.
func check(ctx context.Context, src *volume.Source) error {
	if src.File == nil || src.IsDisk() {
		return fault.New(fault.Usage, "%s: only an image in a file can be signed", src.Name)
	}
	if err := hostfile.CheckOutput(src.Name); err != nil {
		return err
	}
	if err := src.Check(ctx); err != nil {
		return err
	}
	if src.Image == nil {
		return src.ReadThrough(ctx, func(c volume.Chunks) volume.Chunks { return c })
	}
	return src.CheckPieces(ctx)
}

// store writes the signatures of an image, and returns the files that have them.
func store(ctx context.Context, src *volume.Source, file []byte) (paths []string, err error) {
	if src.KeepsSignature() {
		return []string{src.Name}, artifact.Attach(ctx, src.Name, artifact.Signature, file)
	}
	for _, beside := range []struct{ name, format string }{{artifact.Signature, sign.SSH}, {artifact.Minisig, sign.Minisign}} {
		part := sign.Of(beside.format, file)
		if err := artifact.Attach(ctx, src.Name, beside.name, part); err != nil {
			return nil, err
		}
		if part != nil {
			paths = append(paths, artifact.AttachmentPath(src.Name, beside.name))
		}
	}
	return paths, nil
}
