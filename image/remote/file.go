package remote

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"strings"
	"sync"
	"sync/atomic"

	"imgtool/image/fault"
)

// Options are how a file is opened. The zero value is a file of unknown size and content, on
// any web server.
type Options struct {
	// Transport sends the requests, with the credentials for the server; nil means a
	// [Transport] with the user and password of the URL, or of ~/.netrc. A given one should be based on a
	// Transport, for its limits.
	Transport http.RoundTripper
	Network   Network // timeouts and retries

	Header http.Header                // is added to every request
	Status func(*http.Response) error // makes an error of a status other than 200 and 206; nil: a *[StatusError]
	Count  func(n int64)              // is called with the number of bytes that arrived; may be nil
	Size   int64                      // of the file in bytes, if it is known
	SHA256 string                     // of the file in hexadecimal, if it is known; compared by Stream

	// Sequential says that the file will be read from front to back, so the first request is
	// for all of it.
	Sequential bool
}

// File is a file on a server. Its methods may be called by several goroutines.
type File struct {
	ctx    context.Context
	opt    Options
	net    Network
	client *http.Client
	origin *url.URL
	name   string

	mu     sync.Mutex
	at     *url.URL // where redirects of the origin led; nil: ask the origin
	size   int64    // -1: unknown
	ranges bool
	etag   string
	date   string        // Last-Modified
	kind   string        // Content-Type
	links  []string      // Link
	whole  io.ReadCloser // the body of the first response, if it is of the whole file

	fetched atomic.Int64

	reading sync.Mutex // of ReadAt and its state:
	window  *stream    // the open response of ReadAt
	last    int64      // where ReadAt ended
	ahead   int64      // how much it reads ahead
	plan    []span
	cache   cache
}

// maxRedirects is the number of redirects that are followed.
const maxRedirects = 10

// IsURL reports whether a name is the URL of a file that [Open] reads.
func IsURL(name string) bool {
	scheme, _, ok := strings.Cut(name, "://")
	return ok && (strings.EqualFold(scheme, "http") || strings.EqualFold(scheme, "https"))
}

// Open opens a file. The context is that of all reads. At first, it requests the start of the
// file, which shows whether the server supports ranges. Errors do not contain the URL.
func Open(ctx context.Context, rawURL string, opt Options) (*File, error) {
	u, err := parse(rawURL)
	if err != nil {
		return nil, err
	}
	f := &File{ctx: ctx, opt: opt, net: opt.Network.withDefaults(), origin: u, name: nameOf(u), size: -1}
	f.client = &http.Client{Transport: opt.Transport, CheckRedirect: checkRedirect}
	if opt.Transport == nil {
		user, err := withLogin(u)
		if err != nil {
			return nil, err
		}
		f.client.Transport = &login{inner: NewTransport(f.net), scheme: u.Scheme, host: u.Host, user: user}
	}
	f.origin.User = nil
	if opt.Size > 0 {
		f.size = opt.Size
	}
	if err := f.open(ctx); err != nil {
		return nil, err
	}
	return f, nil
}

func parse(rawURL string) (*url.URL, error) {
	u, err := url.Parse(rawURL)
	if parseErr := (*url.Error)(nil); errors.As(err, &parseErr) {
		err = parseErr.Err // without the URL, which may contain a password
	}
	switch {
	case err != nil:
		return nil, fault.New(fault.Usage, "the URL is not valid: %w", err)
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fault.New(fault.Usage, "%s is not a URL of http or https", nameOf(u))
	case u.Host == "":
		return nil, fault.New(fault.Usage, "the URL has no host")
	}
	u.Fragment = ""
	return u, nil
}

// nameOf returns a URL without what may be secret: user, password and query.
func nameOf(u *url.URL) string {
	shown := *u
	shown.User, shown.RawQuery, shown.ForceQuery, shown.Fragment = nil, "", false, ""
	return shown.String()
}

// checkRedirect refuses redirects from https to http, to logins, and endless ones. The header Referer of
// the next request would contain the query of the URL before.
func checkRedirect(req *http.Request, via []*http.Request) error {
	req.Header.Del("Referer")
	last := via[len(via)-1].URL
	switch {
	case req.URL.Scheme != "http" && req.URL.Scheme != "https":
		return fault.New(fault.Input, "it redirects to a URL of %s, only http and https are supported", req.URL.Scheme)
	case last.Scheme == "https" && req.URL.Scheme == "http":
		return fault.New(fault.Refused, "it redirects from https to http, to %s: this is refused, as the connection would not be encrypted", req.URL.Host)
	case req.URL.User != nil:
		return fault.New(fault.Refused, "it redirects to a URL with a login, at %s: this is refused, as the login would be the server's choice", req.URL.Host)
	case len(via) >= maxRedirects:
		return fault.New(fault.Input, "it redirects more than %d times", maxRedirects)
	}
	return nil
}

// login adds a user and password to requests to one server. Package http would send them to
// subdomains as well, and to other ports.
type login struct {
	inner        http.RoundTripper
	scheme, host string
	user         *url.Userinfo
}

func (l *login) RoundTrip(req *http.Request) (*http.Response, error) {
	if l.user != nil && req.URL.Scheme == l.scheme && strings.EqualFold(req.URL.Host, l.host) {
		password, _ := l.user.Password()
		req = req.Clone(req.Context())
		req.SetBasicAuth(l.user.Username(), password)
	}
	return l.inner.RoundTrip(req)
}

// open sends the first request.
func (f *File) open(ctx context.Context) error {
	want := span{0, -1}
	if !f.opt.Sequential {
		want.end = minWindow
		if f.size > 0 {
			want.end = min(minWindow, f.size) // some registries refuse ranges that end after the file
		}
	}
	resp, err := f.request(ctx, want)
	if want.end >= 0 && errors.As(err, new(*rangeError)) {
		want.end = -1 // an empty file, or a server that refuses every range
		resp, err = f.request(ctx, want)
	}
	if err != nil {
		return err
	}
	if resp.StatusCode == http.StatusPartialContent && f.size < 0 && totalSize(resp) < 0 {
		// A file whose size is not known is read from front to back.
		resp.Body.Close()
		want = span{0, -1}
		if resp, err = f.request(ctx, want); err != nil {
			return err
		}
		if resp.StatusCode == http.StatusPartialContent {
			resp.Body.Close()
			return fault.New(fault.Corrupt, "the server responds with the range %.80q instead of the file", resp.Header.Get("Content-Range"))
		}
	}
	f.etag, f.date, f.kind = resp.Header.Get("ETag"), resp.Header.Get("Last-Modified"), resp.Header.Get("Content-Type")
	f.links = resp.Header.Values("Link")
	size := resp.ContentLength
	if resp.StatusCode == http.StatusPartialContent {
		f.ranges = true
		if _, size, err = contentRange(resp, want); err != nil {
			resp.Body.Close()
			return err
		}
	} else if strings.EqualFold(resp.Header.Get("Accept-Ranges"), "bytes") && f.opt.Sequential && size >= 0 {
		f.ranges = true
	}
	f.size = max(f.size, size)
	if resp.StatusCode == http.StatusOK {
		f.whole = &counted{resp.Body, f}
		return f.checkWhole()
	}
	head := make([]byte, min(minWindow, f.size))
	_, err = io.ReadFull(&counted{resp.Body, f}, head)
	resp.Body.Close()
	if err == nil {
		f.cache.add(0, head)
		return f.checkPage(head)
	} // else ReadAt requests it again
	return context.Cause(ctx)
}

// checkWhole is checkPage for a response of the whole file, which can be read once.
func (f *File) checkWhole() error {
	if !f.statesPage() {
		return nil
	}
	head := make([]byte, 64)
	n, err := io.ReadFull(f.whole, head)
	if page := f.checkPage(head[:n]); page != nil {
		f.whole.Close()
		f.whole = nil
		return page
	}
	rest := io.Reader(f.whole)
	if err != nil {
		rest = errorReader{err}
	}
	f.whole = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(head[:n]), rest), f.whole}
	return nil
}

// errorReader returns an error that occurred before.
type errorReader struct{ err error }

func (r errorReader) Read([]byte) (int, error) { return 0, r.err }

// PageError says that a server sent a web page and not a file.
type PageError struct{ Type string }

func (e *PageError) Error() string {
	return fmt.Sprintf("the server sent a web page (%s) and not the file: it may require a login, or the URL may be that of a page about the file", e.Type)
}

// Kind returns the kind of the error.
func (e *PageError) Kind() string { return fault.Input }

func (f *File) statesPage() bool {
	kind := f.ContentType()
	return kind == "text/html" || kind == "application/xhtml+xml"
}

// checkPage returns an error if the content is a web page by the type of the response and by
// its start: some servers state a wrong type.
func (f *File) checkPage(head []byte) error {
	if f.statesPage() && bytes.HasPrefix(bytes.TrimLeft(head, "\xef\xbb\xbf \t\r\n"), []byte("<")) {
		return &PageError{f.ContentType()}
	}
	return nil
}

// Name returns a URL without user, password and query, which may be secret.
func Name(rawURL string) string {
	u, err := url.Parse(rawURL)
	if err != nil {
		return "the URL" // a user or password may be what is not valid in it
	}
	return nameOf(u)
}

// Base returns the name of the file in its directory.
func (f *File) Base() string { return path.Base(f.origin.Path) }

// Name returns the URL without user, password and query.
func (f *File) Name() string { return f.name }

// Size returns the size of the file in bytes, or -1 if the server does not tell.
func (f *File) Size() int64 { return f.size }

// Ranges reports whether the file can be read at any offset. If not, only Stream reads it.
func (f *File) Ranges() bool { return f.ranges && f.size >= 0 }

// Fetched returns how many bytes of content have arrived.
func (f *File) Fetched() int64 { return f.fetched.Load() }

// ContentType returns the media type that the server states, or "".
func (f *File) ContentType() string {
	kind, _, _ := strings.Cut(f.kind, ";")
	return strings.ToLower(strings.TrimSpace(kind))
}

// Close closes connections to the server.
func (f *File) Close() error {
	f.reading.Lock()
	f.closeWindow()
	f.reading.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.whole != nil {
		f.whole.Close()
		f.whole = nil
	}
	f.client.CloseIdleConnections()
	return nil
}

// counted counts the bytes of a body.
type counted struct {
	io.ReadCloser
	f *File
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.f.fetched.Add(int64(n))
	if c.f.opt.Count != nil {
		c.f.opt.Count(int64(n))
	}
	return n, err
}

// Beside returns the content of the file whose URL is that of f with a suffix at the end of
// the path. The error is a *[StatusError] if the server has no such file.
func (f *File) Beside(ctx context.Context, suffix string, limit int64) ([]byte, error) {
	u := *f.origin
	u.Path += suffix
	if u.RawPath != "" {
		u.RawPath += (&url.URL{Path: suffix}).EscapedPath()
	}
	return f.read(ctx, &u, limit)
}

// InDirectory returns the content of a file in the directory of f, as Beside does.
func (f *File) InDirectory(ctx context.Context, name string, limit int64) ([]byte, error) {
	u := *f.origin
	i := strings.LastIndexByte(u.EscapedPath(), '/')
	dir, err := url.PathUnescape(u.EscapedPath()[:i+1])
	if err != nil {
		return nil, err
	}
	u.Path, u.RawPath = dir+name, u.EscapedPath()[:i+1]+url.PathEscape(name)
	return f.read(ctx, &u, limit)
}

func (f *File) read(ctx context.Context, u *url.URL, limit int64) ([]byte, error) {
	other := &File{ctx: ctx, opt: Options{Transport: f.opt.Transport, Count: f.opt.Count, Sequential: true}, net: f.net, client: f.client, origin: u, name: nameOf(u), size: -1}
	b, err := other.all(ctx, limit)
	if errors.As(err, new(*PageError)) {
		err = &StatusError{u.Host, http.StatusNotFound} // some servers have a page for whatever does not exist
	}
	f.fetched.Add(other.Fetched())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", other.name, err)
	}
	return b, nil
}

func (f *File) all(ctx context.Context, limit int64) ([]byte, error) {
	if err := f.open(ctx); err != nil {
		return nil, err
	}
	r, err := f.stream(ctx, 0)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fault.New(fault.Input, "it has more than %d bytes", limit)
	}
	return b, err
}

// Stream returns the file from an offset on. After the connection was closed it goes on where
// it ended. If the SHA-256 of the file is known, reading all of it ends in an error if it is
// another.
func (f *File) Stream(ctx context.Context, off int64) (io.ReadCloser, error) {
	s, err := f.stream(ctx, off)
	if err != nil {
		return nil, err
	}
	if off == 0 && f.opt.SHA256 != "" {
		return newHashed(s, f.opt.SHA256), nil
	}
	return s, nil
}

// ValidSHA256 reports whether s is a SHA-256 in hexadecimal.
func ValidSHA256(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 32
}
