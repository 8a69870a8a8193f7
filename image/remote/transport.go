// Package remote reads files from web servers and registries.
//
// A [Transport] limits the time and the size of responses, and retries temporary failures. A
// [File] is read at any offset with Range requests, or from front to back; both resume after
// the connection was closed, and notice if the file changed.
package remote

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"imgtool/image/fault"
)

// Network has the timeouts and retries for servers. Zero fields mean the defaults.
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

// Transport limits the time and the size of responses and retries temporary failures. It uses
// the proxies of the environment.
type Transport struct {
	Network
	inner http.RoundTripper
	slow  http.RoundTripper // for uploads, which a server stores before it responds
	plain atomic.Pointer[error]
	cert  atomic.Pointer[tls.CertificateVerificationError]
}

// NewTransport returns a transport. Zero fields of n mean the defaults.
func NewTransport(n Network) *Transport {
	n = n.withDefaults()
	inner := &http.Transport{
		Proxy:                  proxyOf,
		OnProxyConnectResponse: checkConnect,
		DialContext:            (&net.Dialer{Timeout: n.Connect}).DialContext,
		TLSHandshakeTimeout:    n.Connect,
		ResponseHeaderTimeout:  n.Header,
		MaxResponseHeaderBytes: maxHeader,
		IdleConnTimeout:        90 * time.Second,
		ForceAttemptHTTP2:      true,
		DisableCompression:     true, // offsets and digests are of what was sent
	}
	slow := inner.Clone()
	slow.ResponseHeaderTimeout = n.Commit
	return &Transport{Network: n, inner: inner, slow: slow}
}

// PlainError returns the error of the last request without TLS, or nil.
func (t *Transport) PlainError() error {
	if err := t.plain.Load(); err != nil {
		return *err
	}
	return nil
}

// CertificateError returns the error of the last certificate that is not valid, or nil.
func (t *Transport) CertificateError() error {
	if err := t.cert.Load(); err != nil {
		return err
	}
	return nil
}

// RoundTrip sends a request. The body of a response is limited to 1 MiB, unless its status is
// 2xx and the request has an Accept header: those are of files, whose readers limit them.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.roundTrip(req)
	if req.URL.Scheme == "http" {
		t.plain.Store(&err)
	}
	if bad, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		t.cert.Store(bad)
	}
	return resp, err
}

func (t *Transport) roundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	repeatable := req.Body == nil || req.GetBody != nil
	for try, pause := 1, t.Pause; ; try, pause = try+1, 2*pause {
		// A request that was sent before, here or by the caller, has no body left.
		if req.GetBody != nil {
			body, err := req.GetBody()
			if err != nil {
				return nil, err
			}
			req.Body = body
		}
		resp, err := t.once(req)
		last := try >= t.Tries || !repeatable
		switch {
		case ctx.Err() != nil:
			if err == nil {
				resp.Body.Close()
			}
			return nil, context.Cause(ctx)
		case err != nil && (last || !broken(err)):
			return nil, gone(peer(req, err), err)
		case err == nil && (last || !temporary(resp.StatusCode)):
			return resp, nil
		}
		if err == nil {
			resp.Body.Close()
			err = t.Await(ctx, pause, resp)
		} else {
			err = sleep(ctx, pause)
		}
		if err != nil {
			return nil, err
		}
	}
}

// Await waits before a request is sent again whose response is temporary: for pause, or for
// longer if the response says so.
func (t *Transport) Await(ctx context.Context, pause time.Duration, resp *http.Response) error {
	if after, ok := retryAfter(resp.Header.Get("Retry-After"), time.Now()); ok {
		pause = max(pause, after)
	}
	if pause > t.Wait {
		return &BusyError{resp.Request.URL.Host, resp.StatusCode, pause.Round(time.Second), t.Wait}
	}
	return sleep(ctx, pause)
}

// BusyError says that a server asks to wait longer than is allowed.
type BusyError struct {
	Host        string
	Status      int
	Wait, Limit time.Duration
}

func (e *BusyError) Error() string {
	return fmt.Sprintf("%s responds with status %d and asks to retry after %v, the limit is %v: try again later", e.Host, e.Status, e.Wait, e.Limit)
}

// Kind returns the kind of the error: the server responds.
func (e *BusyError) Kind() string { return fault.Input }

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

func (t *Transport) once(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(req.Context())
	inner := t.inner
	if req.Method == http.MethodPut {
		inner = t.slow
	}
	resp, err := inner.RoundTrip(req.WithContext(ctx))
	if err == nil {
		if err = checkProxy(resp); err != nil {
			resp.Body.Close()
		}
	}
	if err != nil {
		cancel()
		return nil, err
	}
	b := &body{ReadCloser: resp.Body, host: req.URL.Host, cancel: cancel, stall: t.Stall, left: t.Stall, room: maxAnswer}
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
	stall   time.Duration
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
		b.got, b.left = 0, b.stall
	}
	if b.stalled.Load() && err != io.EOF {
		return n, &GoneError{b.host, fmt.Errorf("less than %d bytes arrived in %v", minProgress, b.stall)}
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

// broken reports whether err is a closed connection or a busy proxy, which is worth a retry.
func broken(err error) bool {
	if p, ok := errors.AsType[*ProxyError](err); ok {
		return temporary(p.Status)
	}
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
	if p, ok := errors.AsType[*ProxyError](err); ok {
		return p
	}
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
	case fault.Kind(err) == "" && strings.Contains(host, " proxy "):
		return fmt.Errorf("%s: %w", host, err)
	default:
		return err
	}
	return &GoneError{host, err}
}
