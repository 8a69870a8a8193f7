package registry

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"imgtool/image/fault"
	"imgtool/image/remote"
)

// Has reports whether the repository has a manifest or blob, kind "manifests" or "blobs".
func (c *Client) Has(ctx context.Context, kind string, digest v1.Hash) (bool, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, c.url(kind+"/"+digest.String()), nil)
	if err != nil {
		return false, err
	}
	req.Header.Set("Accept", "*/*")
	resp, err := c.do(req, kind, http.StatusOK)
	if isNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, resp.Body.Close()
}

// PutManifest stores a manifest or index under a tag or its digest. subject reports whether the
// registry lists it as a referrer of the subject that it names.
func (c *Client) PutManifest(ctx context.Context, id string, media types.MediaType, raw []byte) (subject bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, c.url("manifests/"+id), bytes.NewReader(raw))
	if err != nil {
		return false, err
	}
	req.Header.Set("Content-Type", string(media))
	resp, err := c.do(req, "", http.StatusOK, http.StatusCreated, http.StatusAccepted)
	if err != nil {
		return false, fmt.Errorf("storing manifest %s: %w", id, err)
	}
	return resp.Header.Get("OCI-Subject") != "", resp.Body.Close()
}

// PutBlob stores a blob. sent receives the number of bytes that were sent for the first time; it
// may be nil.
func (c *Client) PutBlob(ctx context.Context, d v1.Descriptor, content io.ReaderAt, sent func(int64)) error {
	u := &upload{client: c, desc: d, content: content, sent: sent}
	for try, pause := 1, c.wire.Pause; ; try, pause = try+1, 2*pause {
		again, err := u.try(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if try >= c.wire.Tries || again == nil {
			return fmt.Errorf("storing blob %s: %w", d.Digest, err)
		}
		if err := c.wire.Await(ctx, pause, again); err != nil {
			return err
		}
	}
}

// upload sends a blob in one request. A registry that closes the connection gets all of it again:
// few can resume.
type upload struct {
	client  *Client
	desc    v1.Descriptor
	content io.ReaderAt
	sent    func(int64)
	most    int64 // bytes that were sent in the try that got furthest
}

// try begins an upload and sends the blob. If it is worth another try, it returns the response
// that says when, or an empty one.
func (u *upload) try(ctx context.Context) (again *http.Response, err error) {
	where, err := u.begin(ctx)
	if err != nil {
		return nil, err // the transport has retried it
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	b := &sending{ctx: ctx, upload: u, in: io.NewSectionReader(u.content, 0, u.desc.Size)}
	stall := u.client.wire.Stall
	b.stall = time.AfterFunc(stall, func() {
		cancel(&remote.GoneError{Host: u.client.host(), Err: fmt.Errorf("it accepted nothing for %v", stall)})
	})
	defer b.stall.Stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, where, b)
	if err != nil {
		return nil, err
	}
	req.ContentLength = u.desc.Size
	req.Header.Set("Content-Type", "application/octet-stream")
	resp, err := u.client.http.Do(req)
	empty := &http.Response{Request: req}
	if cause := context.Cause(ctx); cause != nil {
		return empty, cause
	}
	if b.failed != nil {
		return nil, b.failed // reading the file
	}
	if err != nil {
		return empty, explain(u.client.host(), err)
	}
	status := resp.StatusCode
	if resp, err = u.client.checked(resp, http.StatusCreated, http.StatusOK, http.StatusAccepted, http.StatusNoContent); err == nil {
		return nil, resp.Body.Close()
	}
	if remote.Temporary(status) || status == http.StatusNotFound { // an upload that the registry forgot
		return resp, err
	}
	return nil, err
}

// begin asks for an upload, and returns the URL to send the blob to.
func (u *upload) begin(ctx context.Context) (string, error) {
	c := u.client
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url("blobs/uploads/"), nil)
	if err != nil {
		return "", err
	}
	resp, err := c.do(req, "", http.StatusAccepted, http.StatusCreated)
	if err != nil {
		return "", err
	}
	resp.Body.Close()
	where, err := resp.Request.URL.Parse(resp.Header.Get("Location"))
	if err != nil || resp.Header.Get("Location") == "" {
		return "", fmt.Errorf("%s sent no valid Location for the upload: %q", c.host(), resp.Header.Get("Location"))
	}
	if c.scheme == "https" && where.Scheme != "https" {
		return "", fault.New(fault.Refused, "%s wants the upload without encryption, at %s", c.host(), where.Host)
	}
	query, err := url.ParseQuery(where.RawQuery)
	if err != nil {
		return "", fmt.Errorf("%s sent no valid Location for the upload: %w", c.host(), err)
	}
	query.Set("digest", u.desc.Digest.String())
	where.RawQuery = query.Encode()
	return where.String(), nil
}

// sending is the body of an upload. The request fails if the registry accepts nothing for long.
type sending struct {
	ctx    context.Context
	upload *upload
	in     *io.SectionReader
	stall  *time.Timer
	off    int64
	failed error
}

func (b *sending) Read(p []byte) (int, error) {
	if b.ctx.Err() != nil {
		return 0, context.Cause(b.ctx)
	}
	n, err := b.in.Read(p)
	b.off += int64(n)
	if more := b.off - b.upload.most; more > 0 {
		b.upload.most = b.off
		if b.upload.sent != nil {
			b.upload.sent(more)
		}
	}
	if err == io.EOF && b.off < b.in.Size() {
		err = io.ErrUnexpectedEOF
	}
	if err != nil && err != io.EOF {
		b.failed = fmt.Errorf("reading at byte %d: %w", b.off, err)
	}
	if b.off < b.in.Size() {
		b.stall.Reset(b.upload.client.wire.Stall)
	} else {
		b.stall.Stop() // the registry may take longer to store it, within Network.Commit
	}
	return n, err
}
