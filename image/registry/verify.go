package registry

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"imgtool/image/fault"
)

// maxManifest is the size of the largest index, manifest or config that is read, in bytes.
// Registries refuse manifests of more than 4 MiB.
const maxManifest = 16 << 20

// ReadAll reads a manifest, index or config. size is the announced size, or 0.
func ReadAll(r io.ReadCloser, err error, size int64) ([]byte, error) {
	return readAll(r, err, size, maxManifest)
}

func readAll(r io.ReadCloser, err error, size, most int64) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if size > most {
		return nil, fmt.Errorf("it has %d bytes, the limit is %d", size, most)
	}
	limit := cmp.Or(size, most)
	raw, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(raw)) > limit {
		if size > 0 {
			return nil, &MismatchError{"size", fmt.Sprintf("at least %d bytes", size+1), fmt.Sprint(size)}
		}
		err = fmt.Errorf("larger than the limit of %d bytes", most)
	}
	return raw, err
}

// ReadVerified reads a manifest or config and verifies its size and digest.
func ReadVerified(r io.ReadCloser, err error, d v1.Descriptor) ([]byte, error) {
	return ReadLimited(r, err, d, maxManifest)
}

// ReadLimited is ReadVerified for a blob of up to limit bytes.
func ReadLimited(r io.ReadCloser, err error, d v1.Descriptor, limit int64) ([]byte, error) {
	raw, err := readAll(r, err, max(0, d.Size), limit)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(raw)
	if err := Compare("digest", hex.EncodeToString(sum[:]), d.Digest); err != nil {
		return nil, err
	}
	if n := int64(len(raw)); d.Size > 0 && n != d.Size {
		return nil, &MismatchError{"size", fmt.Sprintf("%d bytes", n), fmt.Sprint(d.Size)}
	}
	return raw, nil
}

// Compare compares a digest, hexadecimal, with the stated digest of what.
func Compare(what, got string, want v1.Hash) error {
	if want.Algorithm != "sha256" {
		return fmt.Errorf("%s %s: only sha256 is supported", what, want)
	}
	if got != want.Hex {
		return &MismatchError{what, "sha256:" + got, want.String()}
	}
	return nil
}

// MismatchError says that a digest or size is not as stated.
type MismatchError struct{ What, Got, Want string }

func (e *MismatchError) Error() string {
	return fmt.Sprintf("its %s is %s, not %s", e.What, e.Got, e.Want)
}

// Kind returns the kind of the error.
func (e *MismatchError) Kind() string { return fault.Corrupt }
