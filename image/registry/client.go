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

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Client is a repository in a registry. Its errors are sentences that name the registry.
type Client struct {
	http   *http.Client
	wire   *wire
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

// BlobURL returns the URL of a blob, for a client that uses [Client.Transport].
func (c *Client) BlobURL(digest string) string { return c.url("blobs/" + digest) }

// Transport returns a transport that logs in to the registry, and only there: a host that a
// request is redirected to gets no login.
func (c *Client) Transport() http.RoundTripper { return blobTransport{c.http.Transport} }

// blobTransport marks requests as those of blobs, whose size the caller limits.
type blobTransport struct{ inner http.RoundTripper }

func (t blobTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Header.Get("Accept") == "" {
		req = req.Clone(req.Context())
		req.Header.Set("Accept", "*/*")
	}
	return t.inner.RoundTrip(req)
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

// get requests what, from byte offset from on if the registry supports ranges.
func (c *Client) get(ctx context.Context, what string, from int64) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url(what), nil)
	if err != nil {
		return nil, err
	}
	for _, t := range []types.MediaType{types.OCIImageIndex, types.OCIManifestSchema1, types.DockerManifestList, types.DockerManifestSchema2} {
		req.Header.Add("Accept", string(t))
	}
	if from > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", from))
	}
	kind, id, _ := strings.Cut(what, "/")
	resp, err := c.do(req, strings.TrimSuffix(kind, "s")+" "+id, http.StatusOK, http.StatusPartialContent)
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// Get opens a manifest or blob, kind "manifests" or "blobs", by its digest or tag. The caller
// verifies the digest.
func (c *Client) Get(ctx context.Context, kind, id string) (io.ReadCloser, error) {
	what := kind + "/" + id
	resp, err := c.get(ctx, what, 0)
	if err != nil {
		return nil, err
	}
	return &download{ctx: ctx, client: c, what: what, body: resp.Body}, nil
}

// download reads a manifest or blob, and resumes it after the connection was closed.
type download struct {
	ctx    context.Context
	client *Client
	what   string
	body   io.ReadCloser
	off    int64
	cuts   int
}

func (d *download) Read(p []byte) (int, error) {
	n, err := d.body.Read(p)
	d.off += int64(n)
	if err == nil || err == io.EOF || !broken(err) || d.ctx.Err() != nil {
		return n, err
	}
	if d.cuts++; d.cuts >= d.client.wire.Tries {
		return n, &GoneError{d.client.host(), fmt.Errorf("it closed the connection %d times, the last time after %d bytes", d.cuts, d.off)}
	}
	return n, d.resume()
}

// resume requests the rest.
func (d *download) resume() error {
	d.body.Close()
	resp, err := d.client.get(d.ctx, d.what, d.off)
	if err != nil {
		return err
	}
	d.body = resp.Body
	if resp.StatusCode == http.StatusPartialContent {
		if want := fmt.Sprintf("bytes %d-", d.off); !strings.HasPrefix(resp.Header.Get("Content-Range"), want) {
			return fmt.Errorf("%s sent another range of %s than requested", d.client.host(), d.what)
		}
		return nil
	}
	_, err = io.CopyN(io.Discard, resp.Body, d.off)
	return err
}

func (d *download) Close() error { return d.body.Close() }

// isNotFound reports whether the registry has no such manifest or blob.
func isNotFound(err error) bool {
	_, ok := errors.AsType[*NotFoundError](err)
	return ok
}
