package artifact

import "fmt"

// SBOMPath returns the path of the SPDX document beside an image file.
func SBOMPath(path string) string { return path + ".spdx.json" }

// ProvenancePath returns the path of the provenance statement beside an image file.
func ProvenancePath(path string) string { return path + ".provenance.json" }

// WriteBeside writes a file that belongs to an image. It replaces an older one when it is
// complete.
func WriteBeside(path string, data []byte) error {
	f, err := sidecar{path, data}.create(func(string) (*access, error) { return nil, nil })
	if err != nil {
		return err
	}
	defer f.Cleanup()
	if err := f.Commit(); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
