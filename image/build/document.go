package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/hostfile"
	"imgtool/image/provenance"
)

// hash sets the checksums of a saved image. A raw image is hashed only if it is asked for or a
// document needs it: SHA-256 cannot skip holes, so it may take longer than the build.
func (j *Job) hash(ctx context.Context, img Image, file *File) error {
	format, err := artifact.FormatOf(file.Path)
	if err != nil {
		return err
	}
	raw := format == artifact.Raw
	if raw && !j.SBOM && !j.Provenance && !j.imageSHA256 {
		return nil
	}
	f, err := hostfile.Open(file.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	if file.SHA256, err = j.digest(ctx, f, file.FileSize); err != nil {
		return fmt.Errorf("%s: %w", file.Path, err)
	}
	switch {
	case raw:
		file.ImageSHA256 = file.SHA256
	case j.imageSHA256:
		if file.ImageSHA256, err = j.digest(ctx, io.NewSectionReader(img, 0, img.Size()), img.Size()); err != nil {
			return fmt.Errorf("%s: %w", file.Path, err)
		}
	}
	return nil
}

func (j *Job) digest(ctx context.Context, r io.Reader, size int64) (string, error) {
	h := sha256.New()
	_, err := io.CopyBuffer(h, image.NewReader(ctx, r, j.Phases.Start("hashing", size)), make([]byte, 1<<20))
	return hex.EncodeToString(h.Sum(nil)), err
}

// document writes the documents about a saved image beside it. It warns of documents of an earlier
// image.
func (j *Job) document(img Image, file *File) error {
	path, err := hostfile.Target(file.Path)
	if err != nil {
		return err
	}
	name := filepath.Base(path)
	if img.SBOM != nil {
		img.SBOM.Image.File, img.SBOM.Image.SHA256 = name, file.SHA256
		file.SBOM = artifact.SBOMPath(path)
		if err := artifact.WriteBeside(file.SBOM, img.SBOM.Encode()); err != nil {
			return err
		}
	}
	if img.Provenance != nil {
		file.Provenance = artifact.ProvenancePath(path)
		if err := artifact.WriteBeside(file.Provenance, img.Provenance.Encode(provenance.Resource{Name: name, Digest: map[string]string{"sha256": file.SHA256}})); err != nil {
			return err
		}
	}
	for _, old := range []struct{ path, made, flag string }{{artifact.SBOMPath(path), file.SBOM, "--sbom"}, {artifact.ProvenancePath(path), file.Provenance, "--provenance"}} {
		if _, err := os.Lstat(old.path); old.made == "" && !errors.Is(err, fs.ErrNotExist) {
			j.Warn(fmt.Sprintf("%s describes an earlier image: remove it, or build with %s", old.path, old.flag))
		}
	}
	return nil
}
