package oci

import (
	"context"
	"io/fs"
	"slices"

	"imgtool/image/artifact"
	"imgtool/image/remote"
)

// Open opens the file of the image, to be read at any offset if the registry sends ranges. count
// is called with the number of bytes that arrive; it may be nil. A stream of all of it is compared
// with the digest; the caller verifies other reads.
func (i *Image) Open(ctx context.Context, count func(int64)) (*remote.File, error) {
	return i.client.Open(ctx, i.Layer, count)
}

// ManifestSHA256 returns the SHA-256 of the encoded manifest of the image, which its digest
// covers, or "".
func (i *Image) ManifestSHA256() string { return i.Layer.Annotations[manifestSHA256] }

// Seekable reports whether the format of the image can be read at any offset.
func (i *Image) Seekable() bool {
	return slices.Contains([]string{string(layerTypes[artifact.Raw]), string(layerTypes[artifact.Zstd]), string(layerTypes[artifact.Sparse])}, string(i.Layer.MediaType))
}

// Beside returns the file that belongs to the image and is beside it under this suffix of its
// name. Without one, the error is [fs.ErrNotExist].
func (i *Image) Beside(ctx context.Context, suffix string) ([]byte, error) {
	if i.read == nil {
		parts, err := i.parts(ctx)
		if err != nil {
			return nil, err
		}
		i.read = parts
	}
	for _, p := range Parts {
		if data := i.read[p.Name]; data != nil && p.Path("") == suffix {
			return data, nil
		}
	}
	return nil, fs.ErrNotExist
}
