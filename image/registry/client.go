// Package registry is a client of registries: it logs in, reads manifests and blobs, and pushes
// them. It knows neither images nor artifacts.
//
// It is used in place of package remote of go-containerregistry, which does not resume
// interrupted downloads, reads manifests of up to 100 MiB, obeys no Retry-After, and has no
// error type for wrong sizes and digests.
package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"imgtool/image/remote"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Client is a repository in a registry. Its errors are sentences that name the registry.
type Client struct {
	http   *http.Client
	wire   *remote.Transport
	scheme string
	repo   name.Repository
}

// NotFoundError says that a repository has no such manifest or blob.
type NotFoundError struct{ Repository, What string }

func (e *NotFoundError) Error() string {
	return fmt.Sprintf("%s has no %s (status 404)", e.Repository, e.What)
}

func (c *Client) host() string { return c.repo.RegistryStr() }

// url returns the URL of what, such as "blobs/sha256:…".
func (c *Client) url(what string) string {
	return fmt.Sprintf("%s://%s/v2/%s/%s", c.scheme, c.host(), c.repo.RepositoryStr(), what)
}

// do sends a request and checks the status of the response.
func (c *Client) do(req *http.Request, what string, statuses ...int) (*http.Response, error) {
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, explain(c.host(), err)
	}
	if resp.StatusCode == http.StatusNotFound && what != "" {
		resp.Body.Close()
		return nil, &NotFoundError{c.repo.String(), what}
	}
	return c.checked(resp, statuses...)
}

// checked closes a response with another status than expected and returns its error.
func (c *Client) checked(resp *http.Response, statuses ...int) (*http.Response, error) {
	if err := transport.CheckError(resp, statuses...); err != nil {
		resp.Body.Close()
		return resp, explain(c.host(), err)
	}
	return resp, nil
}

// options are how a manifest or blob is read. The status of a response that is an error is
// turned into a sentence.
func (c *Client) options(kind, id string) remote.Options {
	accept := http.Header{}
	for _, t := range []types.MediaType{types.OCIImageIndex, types.OCIManifestSchema1, types.DockerManifestList, types.DockerManifestSchema2} {
		accept.Add("Accept", string(t))
	}
	return remote.Options{Transport: c.http.Transport, Network: c.wire.Network, Header: accept, Status: func(resp *http.Response) error {
		if resp.StatusCode == http.StatusNotFound {
			return &NotFoundError{c.repo.String(), strings.TrimSuffix(kind, "s") + " " + id}
		}
		return explain(c.host(), transport.CheckError(resp))
	}}
}

// Get opens a manifest or blob, kind "manifests" or "blobs", by its digest or tag, to be read from
// front to back. The caller verifies the digest.
func (c *Client) Get(ctx context.Context, kind, id string) (io.ReadCloser, error) {
	opt := c.options(kind, id)
	opt.Sequential = true
	f, err := remote.Open(ctx, c.url(kind+"/"+id), opt)
	if err != nil {
		return nil, explain(c.host(), err)
	}
	return f.Stream(ctx, 0)
}

// Open opens a blob to be read at any offset, which the registry may not support. count is called
// with the number of bytes that arrive; it may be nil. The caller verifies what it reads.
func (c *Client) Open(ctx context.Context, d v1.Descriptor, count func(int64)) (*remote.File, error) {
	opt := c.options("blobs", d.Digest.String())
	opt.Size, opt.SHA256, opt.Count = d.Size, d.Digest.Hex, count
	f, err := remote.Open(ctx, c.url("blobs/"+d.Digest.String()), opt)
	if err != nil {
		return nil, explain(c.host(), err)
	}
	return f, nil
}

// isNotFound reports whether the registry has no such manifest or blob.
func isNotFound(err error) bool {
	_, ok := errors.AsType[*NotFoundError](err)
	return ok
}
