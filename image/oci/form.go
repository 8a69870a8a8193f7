// Package oci describes disk images as artifacts in registries, pushes and pulls them, and opens
// them to be read where they are.
//
// An image file is a manifest with the artifact type [ArtifactType], a config that states the
// architecture, and one layer: the file as it is. The images of a board's media are the
// manifests of an index. Files that belong to an image, such as its signature, are in manifests of
// their own whose subject is the image.
package oci

import (
	"encoding/json"
	"regexp"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"imgtool/image/artifact"
	"imgtool/image/bmap"
)

// ArtifactType is the type of manifests and indexes of disk images.
const ArtifactType = "application/vnd.imgtool.image.v1"

// layerTypes are the media types of layers.
var layerTypes = map[artifact.Format]types.MediaType{
	artifact.Raw:    "application/vnd.imgtool.image.layer.v1.raw",
	artifact.Zstd:   "application/vnd.imgtool.image.layer.v1.raw+zstd",
	artifact.XZ:     "application/vnd.imgtool.image.layer.v1.raw+xz",
	artifact.Gzip:   "application/vnd.imgtool.image.layer.v1.raw+gzip",
	artifact.Bzip2:  "application/vnd.imgtool.image.layer.v1.raw+bzip2",
	artifact.LZ4:    "application/vnd.imgtool.image.layer.v1.raw+lz4",
	artifact.Zip:    "application/vnd.imgtool.image.layer.v1.raw+zip",
	artifact.Sparse: "application/vnd.imgtool.image.layer.v1.sparse",
}

// Annotations.
const (
	title       = "org.opencontainers.image.title"
	created     = "org.opencontainers.image.created"
	version     = "org.opencontainers.image.version"
	description = "org.opencontainers.image.description"

	board  = "vnd.imgtool.board"  // of a manifest and its descriptor, and of an index
	medium = "vnd.imgtool.medium" // of a manifest and its descriptor

	// Of the descriptor of a layer. The SHA-256 is of the encoded manifest of the image, which
	// has the hashes of all that is written: with it, the layer can be read in part.
	unpackedSize   = "vnd.imgtool.size"
	manifestSHA256 = "vnd.imgtool.manifest.sha256"
	bmapSHA256     = "vnd.imgtool.bmap.sha256"
)

// Part is a kind of file that belongs to an image.
type Part struct {
	Name  string
	Type  string                    // the artifact type of its manifest, and the media type of its layer
	Path  func(image string) string // beside the image file
	Limit int64                     // of its size
}

// maxPart is the size of the largest file that belongs to an image, except for its manifest and
// block map.
const maxPart = artifact.MaxAttachment

// Parts are what may belong to an image.
var Parts = []Part{
	{"manifest", "application/vnd.imgtool.manifest.v1+json", artifact.ManifestPath, artifact.MaxManifest},
	{"block map", "application/vnd.imgtool.bmap.v2+xml", artifact.BmapPath, bmap.MaxSize},
	{artifact.Signature, "application/vnd.imgtool.signature.v1", artifact.SignaturePath, maxPart},
	{artifact.Minisig, "application/vnd.imgtool.minisig.v1", artifact.MinisigPath, maxPart},
	{artifact.SBOM, "application/spdx+json", artifact.SBOMPath, maxPart},
	{artifact.Provenance, "application/vnd.in-toto+json", artifact.ProvenancePath, maxPart},
}

// partOf returns the part with an artifact type, or nil.
func partOf(artifactType string) *Part {
	for i := range Parts {
		if Parts[i].Type == artifactType {
			return &Parts[i]
		}
	}
	return nil
}

// The empty config of manifests of parts, as the specification recommends.
const emptyType = "application/vnd.oci.empty.v1+json"

var emptyConfig = []byte("{}")

// blob is a manifest or config in memory.
type blob struct {
	v1.Descriptor
	data []byte
}

// encode returns a manifest, index or config and its descriptor. The same value gives the same
// bytes.
func encode(media types.MediaType, value any) (blob, error) {
	data, err := json.Marshal(value)
	if err != nil {
		return blob{}, err
	}
	return newBlob(media, data), nil
}

func newBlob(media types.MediaType, data []byte) blob {
	return blob{v1.Descriptor{MediaType: media, Size: int64(len(data)), Digest: sum(data)}, data}
}

// timeOf returns the time of an image as annotations have it, or "".
func timeOf(m *artifact.Manifest) string {
	if m == nil {
		return ""
	}
	return time.Unix(m.Time, 0).UTC().Format(time.RFC3339)
}

// annotations returns the pairs of keys and values whose value is not empty.
func annotations(pairs ...string) map[string]string {
	m := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			m[pairs[i]] = pairs[i+1]
		}
	}
	return m
}

// goodTag matches tags, by the specification.
var goodTag = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)
