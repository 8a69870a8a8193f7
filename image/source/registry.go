package source

import (
	"bytes"
	"context"
	"fmt"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"imgtool/image/registry"
)

// registry opens an image in a registry with the logins of the user. It uses HTTP without TLS
// only for registries on this machine or a private network.
func (o *Opener) registry(ctx context.Context, ref, image string) (*Root, error) {
	in, err := name.ParseReference(image)
	if err != nil {
		return nil, fmt.Errorf("%s is not the name of an image in a registry, such as docker://HOST/REPOSITORY:TAG", ref)
	}
	repo, err := registry.Open(ctx, in.Context(), registry.Options{Network: o.opt.Network})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ref, err)
	}
	// A digest is verified; the digest of a tag is computed.
	r, err := repo.Get(ctx, "manifests", in.Identifier())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ref, err)
	}
	var raw []byte
	digest, err := v1.NewHash(in.Identifier())
	if err == nil {
		raw, err = registry.ReadVerified(r, nil, v1.Descriptor{Digest: digest})
	} else if raw, err = registry.ReadAll(r, nil, 0); err == nil {
		digest, _, err = v1.SHA256(bytes.NewReader(raw))
	}
	if err != nil {
		return nil, blobError(ref, "manifest", digest, err)
	}
	return o.manifest(ctx, container{ref, repo.Get}, digest, raw, 0)
}
