package remote

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"imgtool/image/fault"
)

// span is a range of bytes. If end is -1, it is up to the end of the file.
type span struct{ off, end int64 }

// request requests a range of the file, and returns a response with status 200 or 206. With 206
// its range begins as requested, and with both the file is the same as at first.
func (f *File) request(ctx context.Context, want span) (*http.Response, error) {
	f.mu.Lock()
	at := f.at
	f.mu.Unlock()
	if at != nil && *at != *f.origin {
		resp, err := f.requestAt(ctx, at, want)
		if resp == nil || err == nil {
			return resp, err
		}
		// The URL of a redirect may be valid for a short time only.
	}
	resp, err := f.requestAt(ctx, f.origin, want)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	f.at = resp.Request.URL
	f.mu.Unlock()
	return resp, nil
}

// requestAt is request for one URL. If the status of the response is an error, it returns both.
func (f *File) requestAt(ctx context.Context, u *url.URL, want span) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "*/*")
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("User-Agent", "imgtool")
	for k, v := range f.opt.Header {
		req.Header[k] = v
	}
	if want.off > 0 || want.end >= 0 {
		last := ""
		if want.end >= 0 {
			last = fmt.Sprint(want.end - 1)
		}
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%s", want.off, last))
		if v := f.validator(); v != "" {
			req.Header.Set("If-Range", v)
		}
	}
	resp, err := f.client.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, clean(u.Host, err)
	}
	if err := f.check(resp, want); err != nil {
		resp.Body.Close()
		if resp.StatusCode/100 != 4 {
			resp = nil
		}
		return resp, err
	}
	return resp, nil
}

// check checks the status and the headers of a response.
func (f *File) check(resp *http.Response, want span) error {
	switch {
	case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable:
		return f.refused(resp, want)
	case resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusPartialContent:
		if f.opt.Status != nil {
			return f.opt.Status(resp)
		}
		return &StatusError{resp.Request.URL.Host, resp.StatusCode}
	}
	if err := f.checkEncoding(resp); err != nil {
		return err
	}
	if err := f.unchanged(resp); err != nil {
		return err
	}
	if resp.StatusCode == http.StatusPartialContent {
		_, _, err := contentRange(resp, want)
		return err
	}
	return nil
}

// rangeError says that a server refuses a range.
type rangeError struct{ want span }

func (e *rangeError) Error() string {
	return fmt.Sprintf("the server refuses bytes %d to %d with status 416, although the file has them", e.want.off, e.want.end-1)
}

// Kind returns the kind of the error.
func (e *rangeError) Kind() string { return fault.Corrupt }

// refused returns the error of a response with status 416, in which Content-Range has the size of
// the file: it changed, or the server is faulty.
func (f *File) refused(resp *http.Response, want span) error {
	size, err := strconv.ParseInt(strings.TrimPrefix(resp.Header.Get("Content-Range"), "bytes */"), 10, 64)
	switch {
	case f.size >= 0 && err != nil && want.off > 0:
		return &ChangedError{"size", fmt.Sprint(f.size, " bytes"), fmt.Sprintf("at most %d bytes", want.off)}
	case f.size >= 0 && err == nil && size != f.size:
		return &ChangedError{"size", fmt.Sprint(f.size, " bytes"), fmt.Sprint(size, " bytes")}
	}
	return &rangeError{want}
}

// encodings are the encodings that a server may compress files with, and the extensions of files
// that are compressed already: servers state the encoding of these, too.
var encodings = map[string][]string{"gzip": {"gz", "tgz"}, "zstd": {"zst"}, "bzip2": {"bz2"}, "xz": {"xz"}, "deflate": nil, "br": nil, "compress": {"Z"}}

// checkEncoding returns an error if the server compresses the file, so that its bytes are not
// those of the file. A file whose digest is known is compared with that.
func (f *File) checkEncoding(resp *http.Response) error {
	encoding := strings.TrimPrefix(strings.ToLower(strings.TrimSpace(resp.Header.Get("Content-Encoding"))), "x-")
	extensions, known := encodings[encoding]
	if !known || f.opt.SHA256 != "" {
		return nil
	}
	names := strings.Split(path.Base(f.origin.Path)+"."+path.Base(resp.Request.URL.Path), ".")
	for _, ext := range extensions {
		if slices.Contains(names, ext) {
			return nil
		}
	}
	return fault.New(fault.Input, "the server compresses it with %s on the way (Content-Encoding), although the request excludes that: turn this off for the file on the server", encoding)
}

// validator returns what the header If-Range can have: a strong ETag, or else the time.
func (f *File) validator() string {
	if f.etag != "" && !strings.HasPrefix(f.etag, "W/") {
		return f.etag
	}
	return f.date
}

// unchanged compares a response with the first one.
func (f *File) unchanged(resp *http.Response) error {
	for _, v := range []struct{ what, was, is string }{
		{"ETag", strings.TrimPrefix(f.etag, "W/"), strings.TrimPrefix(resp.Header.Get("ETag"), "W/")},
		{"Last-Modified", f.date, resp.Header.Get("Last-Modified")},
	} {
		// The content of a file whose digest is known is compared with that.
		if f.opt.SHA256 == "" && v.was != "" && v.is != "" && v.was != v.is {
			return &ChangedError{v.what, v.was, v.is}
		}
	}
	size := resp.ContentLength
	if resp.StatusCode == http.StatusPartialContent {
		size = totalSize(resp)
	}
	if f.opt.Size > 0 && size >= 0 && size != f.opt.Size {
		return fault.New(fault.Corrupt, "it has %d bytes on the server, and should have %d", size, f.opt.Size)
	}
	if f.size >= 0 && size >= 0 && size != f.size {
		return &ChangedError{"size", fmt.Sprint(f.size, " bytes"), fmt.Sprint(size, " bytes")}
	}
	return nil
}

// rangeHeader matches the header Content-Range.
var rangeHeader = regexp.MustCompile(`^bytes ([0-9]+)-([0-9]+)/([0-9]+|\*)$`)

// totalSize returns the size of the file in the header Content-Range, or -1.
func totalSize(resp *http.Response) int64 {
	if m := rangeHeader.FindStringSubmatch(resp.Header.Get("Content-Range")); m != nil {
		if size, err := strconv.ParseInt(m[3], 10, 64); err == nil {
			return size
		}
	}
	return -1
}

// contentRange returns the end of the range in a response, and the size of the file or -1.
func contentRange(resp *http.Response, want span) (end, size int64, err error) {
	text := resp.Header.Get("Content-Range")
	var off, last int64
	valid := rangeHeader.FindStringSubmatch(text)
	if valid != nil {
		var err1, err2 error
		off, err1 = strconv.ParseInt(valid[1], 10, 64)
		last, err2 = strconv.ParseInt(valid[2], 10, 64)
		size = totalSize(resp)
		if err1 != nil || err2 != nil || size < 0 && valid[3] != "*" || max(last, size) > maxSize {
			valid = nil
		}
	}
	if valid == nil || last < off {
		return 0, 0, fault.New(fault.Corrupt, "the server responds with the range %.80q, which is not valid", text)
	}
	if off != want.off || want.end >= 0 && last >= want.end || size >= 0 && last >= size || resp.ContentLength >= 0 && resp.ContentLength != last-off+1 {
		return 0, 0, fault.New(fault.Corrupt, "the server responds with another range than bytes %d to %d, as requested: %.80q, with %d bytes", want.off, want.end-1, text, resp.ContentLength)
	}
	return last + 1, size, nil
}

// maxSize is the size of the largest file, in bytes. Offsets in it can be added.
const maxSize = 1 << 62

// stream reads a range of a file, and resumes after the connection was closed.
type stream struct {
	f    *File
	ctx  context.Context
	body io.ReadCloser
	off  int64 // of the next byte
	end  int64 // of the range; -1: unknown
	to   int64 // end of the open response; -1: unknown
	cuts int
	mark int64 // offset at the last cut
	err  error

	random bool // the server must send ranges
}

func (f *File) stream(ctx context.Context, off int64) (*stream, error) {
	s := &stream{f: f, ctx: ctx, off: off, end: f.size, mark: off}
	f.mu.Lock()
	whole := f.whole
	if off == 0 {
		f.whole = nil
	}
	f.mu.Unlock()
	if off == 0 && whole != nil {
		s.body, s.to = whole, f.size
		return s, nil
	}
	return s, s.connect()
}

// connect requests the rest of the range.
func (s *stream) connect() error {
	f := s.f
	want := span{s.off, s.end}
	if want.end == f.size && want.off == 0 && !f.ranges || !f.ranges && want.end < 0 {
		want.end = -1
	}
	if f.size >= 0 && s.off >= f.size {
		s.body, s.to = http.NoBody, s.off
		return nil
	}
	resp, err := f.request(s.ctx, want)
	if err != nil {
		return err
	}
	s.body = &counted{resp.Body, f}
	if resp.StatusCode == http.StatusPartialContent {
		s.to, _, err = contentRange(resp, want)
		return err
	}
	// The server sends the file from the start.
	if s.random && s.off > 0 {
		return errRanges
	}
	if s.to = resp.ContentLength; f.opt.Size > 0 || s.to < 0 {
		s.to = f.size
	}
	if s.off > 0 {
		_, err = io.CopyN(io.Discard, s.body, s.off)
	}
	return err
}

func (s *stream) Read(p []byte) (int, error) {
	for {
		if s.err == nil {
			s.err = context.Cause(s.ctx) // bytes may have been received already
		}
		if s.err != nil {
			return 0, s.err
		}
		if s.end >= 0 && s.off >= s.end {
			return 0, io.EOF
		}
		if s.end >= 0 {
			p = p[:min(int64(len(p)), s.end-s.off)]
		}
		n, err := s.body.Read(p)
		s.off += int64(n)
		switch {
		case err == nil, n > 0 && (err == io.EOF || s.end >= 0 && s.off == s.end):
			return n, nil
		case err == io.EOF && (s.end < 0 || s.off >= s.end):
			s.end = s.off
			return n, io.EOF
		case err == io.EOF && s.to >= 0 && s.off >= s.to && s.off-s.mark >= minWindow: // less than was requested
			s.mark = s.off
			err = s.connect()
		default:
			err = s.resume(err)
		}
		s.err = err
		if n > 0 {
			return n, nil
		}
	}
}

// resume connects again after the connection was closed.
func (s *stream) resume(err error) error {
	for pause := s.f.net.Pause; ; pause *= 2 {
		s.Close()
		if s.ctx.Err() != nil {
			return context.Cause(s.ctx)
		}
		// Without ranges, each try reads all from the start.
		if s.f.ranges && s.off-s.mark >= minWindow {
			s.cuts = 0
		}
		s.mark = s.off
		stalled, slow := errors.AsType[*GoneError](err)
		if slow && !s.f.ranges {
			return stalled // it would be read from the start, as slowly
		}
		if s.cuts++; s.cuts >= s.f.net.Tries {
			if slow {
				return stalled
			}
			return &GoneError{s.f.origin.Host, fmt.Errorf("it closed the connection %d times, the last time after %d bytes", s.cuts, s.off)}
		}
		if err := sleep(s.ctx, pause); err != nil {
			return err
		}
		again := s.connect()
		if again == nil {
			return nil
		}
		if fault.Kind(again) != "" && !errors.As(again, new(*GoneError)) {
			return again
		}
		err = again
	}
}

func (s *stream) Close() error {
	if s.body == nil {
		return nil
	}
	return s.body.Close()
}

// hashed compares a stream with a SHA-256 at its end.
type hashed struct {
	*stream
	hash hash.Hash
	want string
}

func newHashed(s *stream, want string) io.ReadCloser {
	return &hashed{s, sha256.New(), strings.ToLower(want)}
}

func (h *hashed) Read(p []byte) (int, error) {
	n, err := h.stream.Read(p)
	h.hash.Write(p[:n])
	if err == io.EOF {
		if got := hex.EncodeToString(h.hash.Sum(nil)); got != h.want {
			return n, fault.New(fault.Corrupt, "its SHA-256 is %s, it should be %s", got, h.want)
		}
	}
	return n, err
}
