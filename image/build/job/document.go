package job

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"imgtool/image/artifact"
	"imgtool/image/build"
	"imgtool/image/hostfile"
	"imgtool/image/provenance"
)

// documents returns what is attached to an image.
func documents(img build.Image) (all []artifact.Document) {
	if img.SBOM != nil {
		all = append(all, artifact.Document{Name: artifact.SBOM, Encode: func(s artifact.Subject) []byte {
			d := *img.SBOM
			d.SetSubject(s)
			return d.Encode()
		}})
	}
	if img.Provenance != nil {
		all = append(all, artifact.Document{Name: artifact.Provenance, Encode: func(s artifact.Subject) []byte {
			digest := map[string]string{"imgtoolContent": s.Content}
			if s.SHA256 != "" {
				digest["sha256"] = s.SHA256
			}
			return img.Provenance.Encode(provenance.Resource{Name: s.File, Digest: digest})
		}})
	}
	return all
}

// nameDocuments sets the paths of the documents beside a saved image. It warns of documents of an
// earlier image.
func (j *Job) nameDocuments(img build.Image, file *File) error {
	path, err := hostfile.Target(file.Path)
	if err != nil {
		return err
	}
	if img.SBOM != nil {
		file.SBOM = artifact.SBOMPath(path)
	}
	if img.Provenance != nil {
		file.Provenance = artifact.ProvenancePath(path)
	}
	for _, old := range []struct{ path, made, advice string }{
		{artifact.SBOMPath(path), file.SBOM, "remove it, or build with --sbom"},
		{artifact.ProvenancePath(path), file.Provenance, "remove it, or build with --provenance"},
		{artifact.SignaturePath(path), "", "remove it, and sign the new image"}} {
		if _, err := os.Lstat(old.path); old.made == "" && !errors.Is(err, fs.ErrNotExist) {
			j.Warn(fmt.Sprintf("%s describes an earlier image: %s", old.path, old.advice))
		}
	}
	return nil
}
