package registry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"imgtool/image/fault"
)

// Network has the timeouts and retries for registries. Zero fields mean the defaults.
type Network struct {
	Connect time.Duration // to connect, and for the TLS handshake; default 10 s
	Header  time.Duration // from the request to the end of the response header; default 30 s
	Stall   time.Duration // for each 16 KiB of a body; default 30 s
	Tries   int           // of a request with a temporary failure; default 4
	Pause   time.Duration // after the first try, doubled after each other; default 1 s
	Wait    time.Duration // longest Retry-After that is obeyed; default 60 s
	Commit  time.Duration // from the end of an upload to the response; default 10 min
}

func (n Network) withDefaults() Network {
	return Network{
		Connect: cmp.Or(n.Connect, 10*time.Second),
		Header:  cmp.Or(n.Header, 30*time.Second),
		Stall:   cmp.Or(n.Stall, 30*time.Second),
		Tries:   cmp.Or(n.Tries, 4),
		Pause:   cmp.Or(n.Pause, time.Second),
		Wait:    cmp.Or(n.Wait, time.Minute),
		Commit:  cmp.Or(n.Commit, 10*time.Minute),
	}
}

const (
	// minProgress is the number of bytes of a body that must arrive in each Network.Stall.
	minProgress = 16 << 10
	// maxHeader limits the header of a response, in bytes.
	maxHeader = 1 << 20
	// maxAnswer limits the bodies of pings, tokens and errors, in bytes.
	maxAnswer = 1 << 20
)

// GoneError says that a host does not respond.
type GoneError struct {
	Host string
	Err  error
}

func (e *GoneError) Error() string { return e.Host + " does not answer: " + e.Err.Error() }
func (e *GoneError) Unwrap() error { return e.Err }
func (e *GoneError) Kind() string  { return fault.Gone }

// wire is the innermost transport. It limits the time and the size of responses and retries
// temporary failures.
type wire struct {
	Network
	inner http.RoundTripper
	slow  http.RoundTripper     // for uploads, which a registry stores before it responds
	plain atomic.Pointer[error] // error of the last request without TLS
}

func newWire(n Network) *wire {
	n = n.withDefaults()
	inner := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: n.Connect}).DialContext,
		TLSHandshakeTimeout:    n.Connect,
		ResponseHeaderTimeout:  n.Header,
		MaxResponseHeaderBytes: maxHeader,
		IdleConnTimeout:        90 * time.Second,
		ForceAttemptHTTP2:      true,
		DisableCompression:     true, // digests are of what was sent
	}
	slow := inner.Clone()
	slow.ResponseHeaderTimeout = n.Commit
	return &wire{Network: n, inner: inner, slow: slow}
}

func (w *wire) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := w.roundTrip(req)
	if req.URL.Scheme == "http" {
		w.plain.Store(&err)
	}
	return resp, err
}

func (w *wire) roundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	repeatable := req.Method == http.MethodGet || req.Method == http.MethodHead || req.GetBody != nil || req.Body == nil
	for try, pause := 1, w.Pause; ; try, pause = try+1, 2*pause {
		// A request that was sent before, here or by the caller, has no body left.
		if req.GetBody != nil {
			body, err := req.GetBody()
			if err != nil {
				return nil, err
			}
			req.Body = body
		}
		resp, err := w.once(req)
		last := try >= w.Tries || !repeatable
		switch {
		case ctx.Err() != nil:
			if err == nil {
				resp.Body.Close()
			}
			return nil, context.Cause(ctx)
		case err != nil && (last || !broken(err)):
			return nil, gone(req.URL.Host, err)
		case err == nil && (last || !temporary(resp.StatusCode)):
			return resp, nil
		}
		after := ""
		if err == nil {
			resp.Body.Close()
			after = resp.Header.Get("Retry-After")
			err = fmt.Errorf("%s responds with status %d", req.URL.Host, resp.StatusCode)
		}
		if err := w.sleep(ctx, pause, after, err); err != nil {
			return nil, err
		}
	}
}

// sleep waits before the next try: for pause, or for longer if the header Retry-After of the
// response says so. why is what happened.
func (w *wire) sleep(ctx context.Context, pause time.Duration, header string, why error) error {
	if after, ok := retryAfter(header, time.Now()); ok {
		pause = max(pause, after)
	}
	if pause > w.Wait {
		return fmt.Errorf("%w and asks to retry after %v, the limit is %v: try again later", why, pause.Round(time.Second), w.Wait)
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(pause):
		return nil
	}
}

// once sends a request once. The body of a response is limited to maxAnswer, except for
// manifests and blobs, whose readers limit them; these are the requests with an Accept header.
func (w *wire) once(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(req.Context())
	inner := w.inner
	if req.Method == http.MethodPut {
		inner = w.slow
	}
	resp, err := inner.RoundTrip(req.WithContext(ctx))
	if err != nil {
		cancel()
		return nil, err
	}
	b := &body{ReadCloser: resp.Body, host: req.URL.Host, cancel: cancel, wire: w, left: w.Stall, room: maxAnswer}
	if req.Header.Get("Accept") != "" && resp.StatusCode/100 == 2 {
		b.room = -1
	}
	resp.Body = b
	return resp, nil
}

// body is the body of a response. Read returns a *[GoneError] if it arrives too slowly.
type body struct {
	io.ReadCloser
	host    string
	cancel  context.CancelFunc
	wire    *wire
	left    time.Duration // time left for the rest of minProgress
	got     int64         // bytes of minProgress that have arrived
	room    int64         // bytes that are allowed; negative for no limit
	stalled atomic.Bool
}

func (b *body) Read(p []byte) (int, error) {
	// Only the time in Read counts, because the caller may be slow.
	begin := time.Now()
	t := time.AfterFunc(b.left, func() { b.stalled.Store(true); b.cancel() })
	n, err := b.ReadCloser.Read(p)
	t.Stop()
	b.left -= time.Since(begin)
	if b.got += int64(n); b.got >= minProgress {
		b.got, b.left = 0, b.wire.Stall
	}
	if b.stalled.Load() && err != io.EOF {
		return n, &GoneError{b.host, fmt.Errorf("less than %d bytes arrived in %v", minProgress, b.wire.Stall)}
	}
	if b.room >= 0 {
		if b.room -= int64(n); b.room < 0 {
			return 0, fmt.Errorf("%s: the response has more than %d bytes", b.host, maxAnswer)
		}
	}
	return n, err
}

func (b *body) Close() error {
	b.cancel()
	return b.ReadCloser.Close()
}

// broken reports whether err is a closed connection, which is worth a retry.
func broken(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// temporary reports whether a request with this status is worth a retry.
func temporary(status int) bool {
	return slices.Contains([]int{http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout}, status)
}

// retryAfter parses a Retry-After header: seconds or a date (RFC 9110, section 10.2.3).
func retryAfter(s string, now time.Time) (time.Duration, bool) {
	const limit = 365 * 24 * time.Hour
	if n, err := strconv.ParseUint(strings.TrimSpace(s), 10, 64); err == nil || errors.Is(err, strconv.ErrRange) {
		return time.Duration(min(n, uint64(limit/time.Second))) * time.Second, true
	}
	t, err := http.ParseTime(s)
	if err != nil {
		return 0, false
	}
	return min(max(0, t.Sub(now)), limit), true
}

// gone makes an error of a connection a *[GoneError]. Other errors are about the response.
func gone(host string, err error) error {
	var op *net.OpError
	var dns *net.DNSError
	var number syscall.Errno
	var timeout net.Error
	switch {
	case errors.As(err, &dns):
		err = fmt.Errorf("%s: %s", dns.Name, dns.Err)
	case errors.As(err, &timeout) && timeout.Timeout():
		err = errors.New("timed out")
	case errors.As(err, &number):
		err = number
	case broken(err):
		err = errors.New("it closed the connection")
	case errors.As(err, &op) && op.Op == "dial":
		err = op
	default:
		return err
	}
	return &GoneError{host, err}
}

// explain turns an error of an HTTP client into one sentence, without the URL, because the URL
// of a redirection may contain a key.
func explain(host string, err error) error {
	if g, ok := errors.AsType[*GoneError](err); ok {
		return g
	}
	if answer, ok := errors.AsType[*transport.Error](err); ok {
		if answer.Request != nil {
			host = answer.Request.URL.Host
		}
		words := ""
		if len(answer.Errors) > 0 {
			words = cmp.Or(answer.Errors[0].Message, string(answer.Errors[0].Code))
		}
		if len(words) > 200 {
			words = strings.ToValidUTF8(words[:200], "") + "…"
		}
		switch status := answer.StatusCode; {
		case status == http.StatusUnauthorized || status == http.StatusForbidden:
			if words != "" {
				words = fmt.Sprintf(" (%q)", words)
			}
			return fault.New(fault.Permission, "%s denies access with status %d%s: log in with docker login, podman login or skopeo login", host, status, words)
		case temporary(status):
			return fmt.Errorf("%s keeps responding with status %d, %s: try again later", host, status, http.StatusText(status))
		}
		if words != "" {
			words = fmt.Sprintf(" (%q)", words)
		}
		return fmt.Errorf("%s responds with status %d, %s%s", host, answer.StatusCode, http.StatusText(answer.StatusCode), words)
	}
	for u := new(url.Error); errors.As(err, &u); {
		err = u.Err
	}
	if strings.HasPrefix(err.Error(), host) {
		return err
	}
	return fmt.Errorf("%s: %w", host, err)
}
