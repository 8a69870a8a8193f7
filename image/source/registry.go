package source

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// repository is a repository of a registry. The digests of what it sends are
// checked by who asked, with better words than a client's.
type repository struct {
	client *http.Client
	name   name.Repository
}

func (r repository) get(ctx context.Context, what string) (*http.Response, error) {
	url := fmt.Sprintf("%s://%s/v2/%s/%s", r.name.Scheme(), r.name.RegistryStr(), r.name.RepositoryStr(), what)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	for _, t := range []types.MediaType{types.OCIImageIndex, types.OCIManifestSchema1, types.DockerManifestList, types.DockerManifestSchema2} {
		req.Header.Add("Accept", string(t))
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, err
	}
	if err := transport.CheckError(resp, http.StatusOK); err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

func (r repository) manifest(ctx context.Context, d v1.Hash) (io.ReadCloser, error) {
	resp, err := r.get(ctx, "manifests/"+d.String())
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

func (r repository) blob(ctx context.Context, d v1.Hash) (io.ReadCloser, error) {
	resp, err := r.get(ctx, "blobs/"+d.String())
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// registry opens an image of a registry: over plain http only where that is on
// this machine or a private network, with the user's logins.
func (o *Opener) registry(ctx context.Context, ref, image string) (*Root, error) {
	in, err := name.ParseReference(image)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ref, err)
	}
	auth, err := authn.Resolve(ctx, authn.DefaultKeychain, in.Context())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ref, err)
	}
	t, err := transport.NewWithContext(ctx, in.Context().Registry, auth,
		transport.NewRetry(remote.DefaultTransport), []string{in.Scope(transport.PullScope)})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ref, err)
	}
	repo := repository{&http.Client{Transport: t}, in.Context()}
	resp, err := repo.get(ctx, "manifests/"+in.Identifier())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ref, err)
	}
	// A tag's digest is what came; a digest must be it.
	var raw []byte
	digest, err := v1.NewHash(in.Identifier())
	if err == nil {
		raw, err = checked(resp.Body, nil, digest)
	} else if raw, err = readAll(resp.Body, nil); err == nil {
		digest, _, err = v1.SHA256(strings.NewReader(string(raw)))
	}
	if err != nil {
		return nil, blobError(ref, "manifest", digest, err)
	}
	return o.manifest(ctx, ref, repo, digest, raw, 0)
}
