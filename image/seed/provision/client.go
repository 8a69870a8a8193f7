// Package provision is the client of a device's provisioning service, with the protocol of
// package api. It sends a device its configuration and reports the outcome.
//
// A device speaks plain HTTP and does not authenticate itself. Control characters and secrets
// of the configuration are removed from all texts of a device before they are returned.
package provision

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"

	"imgtool/image/seed/api"
)

const (
	connectTimeout = 5 * time.Second
	answerTimeout  = 30 * time.Second
	uploadFactor   = 4 // times the timeout, for a bundle: the device takes 30 s to unpack one

	maxHeader     = 64 << 10 // bytes of an answer
	expectFrom    = 64 << 10 // bytes of a body from which on Expect: 100-continue is sent
	maxTries      = 3        // of a GET that the device has no resources for
	maxRetryAfter = 10 * time.Second
)

// Client talks to the service at one address.
type Client struct {
	// Secrets are removed from all texts that the client returns, longest first.
	Secrets []string
	// Device is the identifier that the device must have, as in [api.Health]. If it is empty,
	// Health sets it to the identifier of the device which answers.
	Device string

	// Timeout is the time limit for an answer, up to its last byte; 0 is 30 seconds. A
	// bundle may take four times as long.
	Timeout time.Duration

	base *url.URL
	http *http.Client
}

// URL returns the address of the device.
func (c *Client) URL() string { return c.base.String() }

// Local reports whether traffic stays in the local network: whether the address is loopback,
// private or link-local.
func (c *Client) Local() bool {
	a, err := netip.ParseAddr(c.base.Hostname())
	a = a.Unmap()
	return err == nil && (a.IsLoopback() || a.IsPrivate() || a.IsLinkLocalUnicast())
}

// Encrypted reports whether the connection is encrypted and the server authenticated.
func (c *Client) Encrypted() bool { return c.base.Scheme == "https" }

type request struct {
	method, path string
	body         []byte
	header       map[string]string
	timeout      time.Duration // 0: the client's
}

// do returns the answer, of any status. A GET is retried if the device answers that it has no
// resources for it now.
func (c *Client) do(ctx context.Context, r request) (status int, header http.Header, body []byte, err error) {
	for try := 1; ; try++ {
		status, header, body, err = c.once(ctx, r)
		if err != nil || try == maxTries || r.method != http.MethodGet || status != http.StatusTooManyRequests && status != http.StatusServiceUnavailable {
			return status, header, body, err
		}
		wait := time.Second
		if n, err := strconv.ParseUint(header.Get("Retry-After"), 10, 32); err == nil {
			wait = time.Duration(n) * time.Second
		}
		if wait > maxRetryAfter {
			return status, header, body, err
		}
		if err := sleep(ctx, wait); err != nil {
			return 0, nil, nil, err
		}
	}
}

func (c *Client) once(ctx context.Context, r request) (int, http.Header, []byte, error) {
	if r.timeout == 0 {
		r.timeout = cmp.Or(c.Timeout, answerTimeout)
	}
	timed, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	gone := func(err error) (int, http.Header, []byte, error) {
		if ctx.Err() != nil {
			return 0, nil, nil, context.Cause(ctx)
		}
		var op *net.OpError
		return 0, nil, nil, &GoneError{Address: c.URL(), Err: err, sent: !errors.As(err, &op) || op.Op != "dial"}
	}
	req, err := http.NewRequestWithContext(timed, r.method, c.base.String()+r.path, bytes.NewReader(r.body))
	if err != nil {
		return 0, nil, nil, err
	}
	for name, value := range r.header {
		req.Header.Set(name, value)
	}
	switch r.method {
	case http.MethodPost:
		req.Header.Set("Content-Type", "application/octet-stream")
	case http.MethodPut, http.MethodPatch:
		req.Header.Set("Content-Type", "application/json")
	}
	if len(r.body) > expectFrom {
		// The device can refuse the request by its headers. If it closed the connection while
		// the body is sent, its answer could be lost.
		req.Header.Set("Expect", "100-continue")
	}
	answer, err := c.http.Do(req)
	if err != nil {
		return gone(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, api.MaxBody+1))
	if err != nil {
		return gone(err)
	}
	if len(body) > api.MaxBody {
		return 0, nil, nil, &OtherError{c.URL(), "its answer is larger than 32 MiB"}
	}
	return answer.StatusCode, answer.Header, body, nil
}

// clean returns a text of the device in one line, without secrets and without characters that
// control a terminal.
func (c *Client) clean(s string) string {
	for _, secret := range c.Secrets {
		s = strings.ReplaceAll(s, secret, "***")
	}
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case unicode.IsPrint(r):
			return r
		}
		return -1
	}, strings.ToValidUTF8(s, "?"))
	s = strings.TrimSpace(s)
	if runes := []rune(s); len(runes) > 1000 {
		s = string(runes[:1000]) + "…"
	}
	return s
}

// errorText returns the message of an error answer, which is an api.Problem or an api.Refusal.
func (c *Client) errorText(status int, body []byte) string {
	var message struct{ Error, Detail string }
	json.Unmarshal(body, &message)
	if text := c.clean(message.Error + message.Detail); text != "" {
		return text
	}
	return strings.TrimSuffix(fmt.Sprintf("status %d, %s", status, http.StatusText(status)), ", ")
}

// refused returns the error of an answer with an unexpected status.
func (c *Client) refused(status int, body []byte) error {
	text := c.errorText(status, body)
	switch {
	case status/100 == 3 || status == http.StatusNotFound || status == http.StatusMethodNotAllowed || status/100 == 2:
		return &OtherError{c.URL(), text}
	case status == http.StatusRequestEntityTooLarge:
		text = "it is larger than the 32 MiB that the device takes"
	}
	return &RefusedError{c.URL(), status, "the device refused it: " + text}
}

func (c *Client) get(ctx context.Context, path string, v any) error {
	status, _, body, err := c.do(ctx, request{method: http.MethodGet, path: path})
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return c.refused(status, body)
	}
	if err := json.Unmarshal(body, v); err != nil {
		return &OtherError{c.URL(), "its answer is not JSON"}
	}
	return nil
}

// Health returns nil if the service is up. It sets or checks c.Device.
func (c *Client) Health(ctx context.Context) error {
	var h api.Health
	if err := c.get(ctx, api.PathHealth, &h); err != nil {
		return err
	}
	if h.Status != "ok" {
		return &RefusedError{c.URL(), http.StatusOK, fmt.Sprintf("its health is %q", c.clean(h.Status))}
	}
	if raw, err := base64.RawURLEncoding.DecodeString(h.Device); h.Device != "" && (err != nil || len(raw) != api.DeviceIDSize) {
		return &OtherError{c.URL(), "its identifier is malformed"}
	}
	if c.Device == "" {
		c.Device = h.Device
	}
	if c.Device != h.Device {
		return wrongDevice(c.URL(), h.Device, c.Device)
	}
	return nil
}

// isOwn reports whether a nonce begins with the identifier of the device. Without this check
// a device could make an admin sign the nonce of another device.
func (c *Client) isOwn(nonce string) bool {
	id, _ := base64.RawURLEncoding.DecodeString(c.Device)
	raw, err := base64.RawURLEncoding.DecodeString(nonce)
	return len(id) == 0 || err == nil && bytes.HasPrefix(raw, id)
}

// Fresh reports whether the device waits for its first configuration. Only then it has a page
// for browsers.
func (c *Client) Fresh(ctx context.Context) (bool, error) {
	status, _, body, err := c.do(ctx, request{method: http.MethodGet, path: api.PathPage})
	switch {
	case err != nil:
		return false, err
	case status == http.StatusOK:
		return true, nil
	case status == http.StatusNotFound:
		return false, nil
	}
	return false, c.refused(status, body)
}

// signed sends a request with a signature, and again if its nonce has expired, such as while
// the user had to touch a security key.
func (c *Client) signed(ctx context.Context, r request, key *Key) (int, http.Header, []byte, error) {
	for again := true; ; again = false {
		var n api.Nonce
		if err := c.get(ctx, api.PathNonce, &n); err != nil {
			return 0, nil, nil, err
		}
		if n.Nonce == "" || strings.ContainsFunc(n.Nonce, func(r rune) bool { return !unicode.IsGraphic(r) || r == ' ' || r > unicode.MaxASCII }) {
			return 0, nil, nil, &OtherError{c.URL(), "its nonce is malformed"}
		}
		if !c.isOwn(n.Nonce) {
			return 0, nil, nil, &OtherError{c.URL(), "its nonce is not a nonce of the device " + c.Device}
		}
		signature, err := api.Sign(api.Message(n.Nonce, r.path, sha256.Sum256(r.body)), key.Signer)
		if err != nil {
			return 0, nil, nil, fmt.Errorf("%s: signing: %w", key.Name, err)
		}
		s := r
		s.header = map[string]string{api.HeaderNonce: n.Nonce, api.HeaderSignature: signature}
		maps.Copy(s.header, r.header)
		status, answer, body, err := c.do(ctx, s)
		if err != nil || status != http.StatusUnauthorized {
			return status, answer, body, err
		}
		text := c.errorText(status, body)
		switch stale := strings.Contains(strings.ToLower(text), "nonce"); {
		case stale && again:
			continue
		case stale:
			return 0, nil, nil, &RefusedError{c.URL(), 0, fmt.Sprintf("the nonce of the device had expired when the signed request arrived, twice (%q)", text)}
		}
		return 0, nil, nil, &RefusedError{c.URL(), status, fmt.Sprintf("the device does not take the signature of %s (%q); "+
			"it must be the key of an admin in the configuration that the device has now", key.Name, text)}
	}
}

// Validate makes the device check a document or bundle, and returns its warnings. It always
// requires a signature, so that a device without a configuration refuses it.
func (c *Client) Validate(ctx context.Context, name string, body []byte, key *Key) (warnings []string, err error) {
	status, _, answer, err := c.signed(ctx, request{method: http.MethodPost, path: api.PathValidate, body: body,
		header: map[string]string{api.HeaderFilename: name}, timeout: uploadFactor * cmp.Or(c.Timeout, answerTimeout)}, key)
	if err != nil {
		return nil, err
	}
	var v api.Verdict
	if status == http.StatusOK && json.Unmarshal(answer, &v) == nil && v.OK {
		return c.cleaned(v.Warnings), nil
	}
	if status == http.StatusOK || status == http.StatusBadRequest {
		return nil, &RefusedError{c.URL(), status, "the configuration is not valid: " + c.errorText(status, answer)}
	}
	return nil, c.refused(status, answer)
}

func (c *Client) cleaned(list []string) []string {
	var all []string
	for _, s := range list {
		all = append(all, c.clean(s))
	}
	return all
}

// Export returns the config.toml of the device.
func (c *Client) Export(ctx context.Context, key *Key) ([]byte, error) {
	status, _, body, err := c.signed(ctx, request{method: http.MethodGet, path: api.PathExport}, key)
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		return nil, c.refused(status, body)
	}
	return body, nil
}
