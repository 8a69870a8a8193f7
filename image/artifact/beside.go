package artifact

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"imgtool/image/hostfile"
	"imgtool/image/pending"
)

// SignaturePath returns the path of the signature beside an image file. It signs the manifest
// beside the image, so it has the name that ssh-keygen -Y sign gives it.
func SignaturePath(path string) string { return ManifestPath(path) + ".sig" }

// MinisigPath returns the path of the signature by minisign beside an image file, which has the
// name that minisign -S gives it.
func MinisigPath(path string) string { return ManifestPath(path) + ".minisig" }

// SBOMPath returns the path of the SPDX document beside an image file.
func SBOMPath(path string) string { return path + ".spdx.json" }

// ProvenancePath returns the path of the provenance statement beside an image file.
func ProvenancePath(path string) string { return path + ".provenance.json" }

// AttachmentPath returns the path of the file beside an image that has an attachment, if it is
// not in the image.
func AttachmentPath(path, name string) string {
	switch name {
	case Signature:
		return SignaturePath(path)
	case Minisig:
		return MinisigPath(path)
	case SBOM:
		return SBOMPath(path)
	case Provenance:
		return ProvenancePath(path)
	}
	return path + "." + name
}

// attachBeside writes an attachment beside an image file, or removes it if data is nil.
func attachBeside(path, name string, data []byte) error {
	if data == nil {
		_, err := removeBeside(path, name)
		return err
	}
	path, err := hostfile.Target(path)
	if err != nil {
		return err
	}
	return WriteBeside(AttachmentPath(path, name), data)
}

// manifestBeside returns the manifest beside an image file, or nil if it cannot be read.
func manifestBeside(path string) *Manifest {
	path, err := hostfile.Target(path)
	if err != nil {
		return nil
	}
	text, err := hostfile.ReadFile(ManifestPath(path), MaxManifest)
	if err != nil {
		return nil
	}
	m, err := ParseManifest(text)
	if err != nil {
		return nil
	}
	return m
}

// removeBeside removes an attachment beside an image file, and reports whether there was one.
func removeBeside(path, name string) (found bool, err error) {
	path, err = hostfile.Target(path)
	if err != nil {
		return false, err
	}
	err = os.Remove(AttachmentPath(path, name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// ReadBeside reads the attachment beside an image file, and compares it with the manifest. m may
// be nil. Without an attachment the error is [fs.ErrNotExist].
func ReadBeside(path, name string, m *Manifest) ([]byte, error) {
	at := AttachmentPath(path, name)
	data, err := hostfile.ReadFile(at, MaxAttachment)
	if err == nil {
		err = m.CheckDocument(name, data)
		if err != nil {
			err = fmt.Errorf("%s: %w", at, err)
		}
	}
	return data, err
}

// WriteBeside writes a file that belongs to an image. It replaces an older one when it is
// complete.
func WriteBeside(path string, data []byte) error {
	f, err := sidecar{path, data}.create(func(string) (*pending.Access, error) { return nil, nil })
	if err != nil {
		return err
	}
	defer f.Cleanup()
	if err := f.Commit(); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
