// Package provision is the client of a device's provisioning service, as package
// api has it: it gives a device its configuration and finds out what became of it.
//
// A device speaks plain HTTP and proves nothing of itself. What it says is cleaned
// of control characters and of the configuration's secrets before it is returned.
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
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"

	"golang.org/x/crypto/ssh"

	"imgtool/image/fault"
	"imgtool/image/seed/api"
)

const (
	connecting = 5 * time.Second
	answering  = 30 * time.Second // a short question
	judging    = 4                // times as long: a bundle takes the device 30 s to unpack

	maxHeader  = 64 << 10 // of an answer
	expectFrom = 64 << 10 // bytes of a body from which the device is asked first whether it takes it
	tries      = 3        // of a question that the device has no time for now
	maxWait    = 10 * time.Second
)

// GoneError is a device that does not answer.
type GoneError struct {
	Address string
	Err     error
	sent    bool // it may have got the request
}

func (e *GoneError) Error() string { return e.Address + " does not answer: " + plainly(e.Err) }
func (e *GoneError) Unwrap() error { return e.Err }
func (e *GoneError) Kind() string  { return fault.Gone }

// plainly says why a connection failed, without the request: paths of jobs are
// secret.
func plainly(err error) string {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	var number syscall.Errno
	var dns *net.DNSError
	var timeout net.Error
	switch {
	case errors.As(err, &number):
		return number.Error()
	case errors.As(err, &dns):
		return dns.Err
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, os.ErrDeadlineExceeded):
		return "timed out"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "it closed the connection"
	}
	return err.Error()
}

// OtherError is something that answers, but not as a device does.
type OtherError struct{ Address, Said string }

func (e *OtherError) Error() string {
	return e.Address + " is not the provisioning service of an AtomixOS device: " + e.Said
}

func (e *OtherError) Kind() string { return fault.WrongBoard }

// DeviceError is a device that is not the one it should be.
type DeviceError struct{ Address, Has, Wants string }

func (e *DeviceError) Error() string {
	if e.Has == "" {
		return e.Address + " does not say which device it is; it must be " + e.Wants
	}
	return fmt.Sprintf("%s is the device %s; it must be %s", e.Address, e.Has, e.Wants)
}

func (e *DeviceError) Kind() string { return fault.WrongBoard }

// RefusedError is a request that the device does not follow; it is as before.
type RefusedError struct {
	Address string
	Status  int // of HTTP, where that says why
	Why     string
}

func (e *RefusedError) Error() string { return e.Address + ": " + e.Why }
func (e *RefusedError) Kind() string  { return fault.Refused }

// unsigned is true of a refusal for want of a good signature.
func unsigned(err error) bool {
	var r *RefusedError
	return errors.As(err, &r) && r.Status == http.StatusUnauthorized
}

// Key signs requests.
type Key struct {
	Name string // for messages
	ssh.Signer
}

// Client talks to the service at one address.
type Client struct {
	// Secrets are never part of what the client returns or says.
	Secrets []string
	// Device is the identifier of the only device that the client talks to, as in
	// api.Health. If it is empty, Health sets it to that of the device which answers.
	Device string

	// Timeout is how long the answer to a short question may take, up to its last byte;
	// 0 is 30 seconds. A bundle may take four times as long.
	Timeout time.Duration

	base *url.URL
	http *http.Client
}

// Address reads where a device is: a host, HOST:PORT or a URL.
func Address(s string) (*url.URL, error) {
	wrong := func(format string, args ...any) (*url.URL, error) {
		return nil, fmt.Errorf("%q is no address of a device: %s", s, fmt.Sprintf(format, args...))
	}
	text := s
	if !strings.Contains(s, "://") {
		// An address of IPv6 has no brackets of its own.
		if a, err := netip.ParseAddr(s); err == nil && a.Is6() {
			text = "[" + s + "]"
		}
		text = "http://" + strings.ReplaceAll(text, "%", "%25")
	}
	u, err := url.Parse(text)
	if err != nil {
		var parse *url.Error
		if errors.As(err, &parse) {
			err = parse.Err
		}
		return wrong("%v", err)
	}
	port := u.Port()
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return wrong("it must be a host, or begin with http:// or https://")
	case u.Hostname() == "":
		return wrong("it has no host")
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.Path != "" && u.Path != "/":
		return wrong("it must be a host and a port only")
	case port == "" && strings.HasSuffix(u.Host, ":"):
		return wrong("it has no port after the colon")
	case port == "" && u.Scheme == "https":
		port = "443"
	case port == "":
		port = strconv.Itoa(api.Port)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return wrong("its port is %s; it must be 1 to 65535", port)
	}
	return &url.URL{Scheme: u.Scheme, Host: net.JoinHostPort(u.Hostname(), port)}, nil
}

// Dial finds the device and stays with it: of plain HTTP only its IP address is
// used from then on, which a device that waits for its first configuration wants,
// too. No proxy is used and no redirection followed.
func Dial(ctx context.Context, address *url.URL) (*Client, error) {
	dialer := &net.Dialer{Timeout: connecting}
	conn, err := dialer.DialContext(ctx, "tcp", address.Host)
	if err != nil {
		return nil, &GoneError{Address: address.Host, Err: err}
	}
	defer conn.Close()
	base := *address
	if base.Scheme == "http" {
		base.Host = conn.RemoteAddr().String()
	}
	return newClient(&base), nil
}

func newClient(base *url.URL) *Client {
	return &Client{
		base: base,
		http: &http.Client{
			// A service that restarts leaves dead connections behind.
			Transport:     &http.Transport{DisableKeepAlives: true, DialContext: (&net.Dialer{Timeout: connecting}).DialContext, TLSHandshakeTimeout: connecting, ExpectContinueTimeout: connecting, MaxResponseHeaderBytes: maxHeader},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// URL is where the device is asked.
func (c *Client) URL() string { return c.base.String() }

// Local says whether nobody far away can see what is sent: the address is this
// machine's, private, or of the link.
func (c *Client) Local() bool {
	a, err := netip.ParseAddr(c.base.Hostname())
	a = a.Unmap()
	return err == nil && (a.IsLoopback() || a.IsPrivate() || a.IsLinkLocalUnicast())
}

// Encrypted says whether the connection is, and the name proven.
func (c *Client) Encrypted() bool { return c.base.Scheme == "https" }

type request struct {
	method, path string
	body         []byte
	header       map[string]string
	timeout      time.Duration // 0 is the client's
}

// do returns the answer whatever its status is. A question is asked again where the
// device says that it has no time for it now.
func (c *Client) do(ctx context.Context, r request) (status int, header http.Header, body []byte, err error) {
	for try := 1; ; try++ {
		status, header, body, err = c.once(ctx, r)
		if err != nil || try == tries || r.method != http.MethodGet || status != http.StatusTooManyRequests && status != http.StatusServiceUnavailable {
			return status, header, body, err
		}
		wait := time.Second
		if n, err := strconv.ParseUint(header.Get("Retry-After"), 10, 32); err == nil {
			wait = time.Duration(n) * time.Second
		}
		if wait > maxWait {
			return status, header, body, err
		}
		select {
		case <-ctx.Done():
			return 0, nil, nil, context.Cause(ctx)
		case <-time.After(wait):
		}
	}
}

func (c *Client) once(ctx context.Context, r request) (int, http.Header, []byte, error) {
	if r.timeout == 0 {
		r.timeout = cmp.Or(c.Timeout, answering)
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
		// A device that refuses it by its headers can say why: of one that closes the
		// connection while the body is sent the answer may be lost.
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
		return 0, nil, nil, &OtherError{c.URL(), "its answer has no end"}
	}
	return answer.StatusCode, answer.Header, body, nil
}

// clean is what a device says, fit to be shown: in one line, without what moves a
// cursor and without secrets.
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

// said is the words of an answer that is an error, in any of its shapes.
func (c *Client) said(status int, body []byte) string {
	var words struct{ Error, Detail string }
	json.Unmarshal(body, &words)
	text := c.clean(words.Error + words.Detail)
	if text == "" {
		text = fmt.Sprintf("status %d", status)
		if name := http.StatusText(status); name != "" {
			text += ", " + name
		}
	}
	return text
}

// refused is an answer that is none of those that a route gives.
func (c *Client) refused(status int, body []byte) error {
	text := c.said(status, body)
	switch {
	case status/100 == 3 || status == http.StatusNotFound || status == http.StatusMethodNotAllowed || status/100 == 2:
		return &OtherError{c.URL(), text}
	case status == http.StatusRequestEntityTooLarge:
		text = "it is larger than the 32 MiB the device takes"
	}
	return &RefusedError{c.URL(), status, "the device refused it: " + text}
}

// get asks for JSON.
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

// Health is nil if the service is up.
func (c *Client) Health(ctx context.Context) error {
	var h api.Health
	if err := c.get(ctx, api.PathHealth, &h); err != nil {
		return err
	}
	if h.Status != "ok" {
		return &RefusedError{c.URL(), http.StatusOK, fmt.Sprintf("its health is %q", c.clean(h.Status))}
	}
	if raw, err := base64.RawURLEncoding.DecodeString(h.Device); h.Device != "" && (err != nil || len(raw) != api.DeviceIDSize) {
		return &OtherError{c.URL(), "its identifier is not one"}
	}
	if c.Device == "" {
		c.Device = h.Device
	}
	if c.Device != h.Device {
		return &DeviceError{c.URL(), h.Device, c.Device}
	}
	return nil
}

// named says whether a nonce is the device's. It is part of what is signed, so that a
// device cannot have another's nonce signed.
func (c *Client) named(nonce string) bool {
	id, _ := base64.RawURLEncoding.DecodeString(c.Device)
	raw, err := base64.RawURLEncoding.DecodeString(nonce)
	return len(id) == 0 || err == nil && bytes.HasPrefix(raw, id)
}

// Fresh says whether the device waits for its first configuration: it has a page
// for browsers only then.
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

// signed sends a request with a signature, and once more if its nonce was too
// old: people take their time to touch a key.
func (c *Client) signed(ctx context.Context, r request, key *Key) (int, http.Header, []byte, error) {
	for again := true; ; again = false {
		var n api.Nonce
		if err := c.get(ctx, api.PathNonce, &n); err != nil {
			return 0, nil, nil, err
		}
		if n.Nonce == "" || strings.ContainsFunc(n.Nonce, func(r rune) bool { return !unicode.IsGraphic(r) || r == ' ' || r > unicode.MaxASCII }) {
			return 0, nil, nil, &OtherError{c.URL(), "its nonce is none"}
		}
		if !c.named(n.Nonce) {
			return 0, nil, nil, &OtherError{c.URL(), "the nonce it gives out is not one of the device " + c.Device}
		}
		signature, err := api.Sign(api.Message(n.Nonce, r.path, sha256.Sum256(r.body)), key.Signer)
		if err != nil {
			return 0, nil, nil, fmt.Errorf("%s: signing: %w", key.Name, err)
		}
		own := map[string]string{api.HeaderNonce: n.Nonce, api.HeaderSignature: signature}
		for name, value := range r.header {
			own[name] = value
		}
		s := r
		s.header = own
		status, header, body, err := c.do(ctx, s)
		if err != nil || status != http.StatusUnauthorized {
			return status, header, body, err
		}
		said := c.said(status, body)
		stale := strings.Contains(strings.ToLower(said), "nonce")
		if stale && again {
			continue
		}
		if stale {
			return 0, nil, nil, &RefusedError{c.URL(), 0, fmt.Sprintf("what the device gave out to be signed was too old when it came back, twice (%q)", said)}
		}
		return 0, nil, nil, &RefusedError{c.URL(), status, fmt.Sprintf("the device does not take the signature of %s (%q); "+
			"the key must be that of an admin of the configuration the device has now", key.Name, said)}
	}
}

// Validate lets the device judge a document or bundle, which changes nothing. It
// wants a signature always, so a device without configuration cannot be asked.
func (c *Client) Validate(ctx context.Context, name string, body []byte, key *Key) (warnings []string, err error) {
	status, _, answer, err := c.signed(ctx, request{method: http.MethodPost, path: api.PathValidate, body: body,
		header: map[string]string{api.HeaderFilename: name}, timeout: judging * cmp.Or(c.Timeout, answering)}, key)
	if err != nil {
		return nil, err
	}
	var v api.Verdict
	if status == http.StatusOK && json.Unmarshal(answer, &v) == nil && v.OK {
		return c.cleaned(v.Warnings), nil
	}
	if status == http.StatusOK || status == http.StatusBadRequest {
		return nil, &RefusedError{c.URL(), status, "the configuration is not valid: " + c.said(status, answer)}
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

// Export is the configuration that the device has, without files of a bundle.
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
