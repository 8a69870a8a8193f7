package remote_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"imgtool/image"
	"imgtool/image/fault"
	"imgtool/image/remote"
)

// patient waits for the servers of the tests as long as a busy machine needs, and hasty only
// a short time: for servers that never answer.
var (
	patient = remote.Network{Connect: time.Minute, Header: time.Minute, Stall: time.Minute, Tries: 3, Pause: 10 * time.Millisecond, Wait: 2 * time.Second}
	hasty   = remote.Network{Connect: time.Minute, Header: time.Second, Stall: time.Second, Tries: 3, Pause: 10 * time.Millisecond, Wait: 2 * time.Second}
)

var started = time.Unix(1700000000, 0)

// content is what the servers of the tests serve.
var content = func() []byte {
	b := make([]byte, 3<<20+12345)
	rand.NewChaCha8([32]byte{}).Read(b)
	return b
}()

// serve serves content with ranges, unless before handles a request.
func serve(t *testing.T, before func(w http.ResponseWriter, r *http.Request) (done bool)) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"one"`)
		if before != nil && before(w, r) {
			return
		}
		http.ServeContent(w, r, "", started, bytes.NewReader(content))
	}))
	t.Cleanup(s.Close)
	return s
}

func open(t *testing.T, url string, opt remote.Options) (*remote.File, error) {
	t.Helper()
	if opt.Network == (remote.Network{}) {
		opt.Network = patient
	}
	f, err := remote.Open(t.Context(), url, opt)
	if f != nil {
		t.Cleanup(func() { f.Close() })
	}
	return f, err
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// readAll reads a file from front to back.
func readAll(ctx context.Context, f *remote.File) ([]byte, error) {
	r, err := f.Stream(ctx, 0)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

func TestReadAtAnyOffset(t *testing.T) {
	var requests atomic.Int32
	f, err := open(t, serve(t, func(http.ResponseWriter, *http.Request) bool { requests.Add(1); return false }).URL+"/x.img", remote.Options{})
	must(t, err)
	if !f.Ranges() || f.Size() != int64(len(content)) {
		t.Fatalf("ranges %v, %d bytes", f.Ranges(), f.Size())
	}
	for range 200 {
		off := rand.N(f.Size() + 10)
		b := make([]byte, rand.N(200000))
		n, err := f.ReadAt(b, off)
		want := content[min(off, f.Size()):min(off+int64(len(b)), f.Size())]
		if !bytes.Equal(b[:n], want) || (err == io.EOF) != (n < len(b)) || err != nil && err != io.EOF {
			t.Fatalf("%d bytes at %d: %d, %v", len(b), off, n, err)
		}
	}
	var wait sync.WaitGroup
	for range 4 {
		wait.Go(func() {
			for range 20 {
				off := rand.N(f.Size() - 50000)
				b := make([]byte, 50000)
				if _, err := f.ReadAt(b, off); err != nil || !bytes.Equal(b, content[off:][:len(b)]) {
					t.Errorf("at %d: %v", off, err)
				}
			}
		})
	}
	wait.Wait()

	// Small reads in order take few requests.
	f, err = open(t, f.Name(), remote.Options{})
	must(t, err)
	requests.Store(0)
	got, err := io.ReadAll(io.NewSectionReader(f, 0, f.Size()))
	if err != nil || !bytes.Equal(got, content) || requests.Load() > 10 {
		t.Errorf("%d bytes in %d requests: %v", len(got), requests.Load(), err)
	}
}

func TestPlanFetchesNothingElse(t *testing.T) {
	var requests atomic.Int32
	f, err := open(t, serve(t, func(http.ResponseWriter, *http.Request) bool { requests.Add(1); return false }).URL, remote.Options{})
	must(t, err)
	// Three neighbours, with a small gap after the second, and a part far away.
	plan := []image.Span{{Off: 2 << 20, Len: 300}, {Off: 1 << 20, Len: 100000}, {Off: 1<<20 + 100000, Len: 100000}, {Off: 1<<20 + 205000, Len: 100000}}
	f.Plan(plan)
	before, asked := f.Fetched(), requests.Load()
	for _, s := range plan {
		b := make([]byte, s.Len)
		if _, err := f.ReadAt(b, s.Off); err != nil || !bytes.Equal(b, content[s.Off:s.End()]) {
			t.Errorf("%v: %v", s, err)
		}
	}
	if got, n := f.Fetched()-before, requests.Load()-asked; got != 305300 || n != 2 {
		t.Errorf("%d bytes in %d requests, want 305300 in 2", got, n)
	}
}

// short is a ResponseWriter that closes the connection after so many bytes of the body.
type short struct {
	http.ResponseWriter
	left int
}

func (s *short) Write(p []byte) (int, error) {
	n := min(len(p), s.left)
	s.ResponseWriter.Write(p[:n])
	if s.left -= n; s.left == 0 {
		s.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	return n, nil
}

func TestResumesAfterCutConnections(t *testing.T) {
	for _, ranges := range []bool{true, false} {
		for _, length := range []bool{true, false} {
			t.Run(fmt.Sprintf("ranges %v, length %v", ranges, length), func(t *testing.T) {
				var cuts atomic.Int32
				s := serve(t, func(w http.ResponseWriter, r *http.Request) bool {
					if !ranges {
						r.Header.Del("Range")
					}
					n := cuts.Add(1)
					switch {
					case !ranges && n >= 3:
						return false
					case !length && !ranges:
						w.Write(content[:1<<20])
						w.(http.Flusher).Flush()
						panic(http.ErrAbortHandler)
					}
					http.ServeContent(&short{w, 1<<20 + 100}, r, "", started, bytes.NewReader(content))
					return true
				})
				for _, sequential := range []bool{true, false} {
					cuts.Store(0)
					f, err := open(t, s.URL, remote.Options{Sequential: sequential})
					must(t, err)
					got, err := readAll(t.Context(), f)
					if err != nil || !bytes.Equal(got, content) || cuts.Load() < 3 {
						t.Errorf("%d bytes, %d requests: %v", len(got), cuts.Load(), err)
					}
				}
				if !ranges {
					return
				}
				f, err := open(t, s.URL, remote.Options{})
				must(t, err)
				f.Plan([]image.Span{{Len: f.Size()}})
				got := make([]byte, f.Size())
				if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, content) {
					t.Error(err)
				}
			})
		}
	}
}

// Each fault ends with one sentence and its kind, within a limited time.
func TestFaults(t *testing.T) {
	status := func(code int, after string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if after != "" {
				w.Header().Set("Retry-After", after)
			}
			w.WriteHeader(code)
			return true
		}
	}
	then := func(f func(w http.ResponseWriter, r *http.Request)) func(http.ResponseWriter, *http.Request) bool {
		var n atomic.Int32
		return func(w http.ResponseWriter, r *http.Request) bool {
			if n.Add(1) == 1 {
				return false
			}
			f(w, r)
			return true
		}
	}
	partial := func(text string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", text)
			w.Header().Set("Content-Length", "1000")
			w.WriteHeader(http.StatusPartialContent)
			w.Write(content[:1000])
		}
	}
	for _, c := range []struct {
		name   string
		before func(http.ResponseWriter, *http.Request) bool
		kind   string
		want   string
	}{
		{"401", status(401, ""), fault.Permission, "denies access with status 401, Unauthorized"},
		{"403", status(403, ""), fault.Permission, "denies access with status 403"},
		{"404", status(404, ""), fault.Input, "has no such file (status 404, Not Found)"},
		{"500", status(500, ""), fault.Input, "keeps responding with status 500"},
		{"429 for long", status(429, "86400"), fault.Input, "asks to retry after 24h0m0s, the limit is 2s: try again later"},
		{"503 until a date", status(503, time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)), fault.Input, "the limit is 2s"},
		{"silent", func(w http.ResponseWriter, r *http.Request) bool { <-r.Context().Done(); return true }, fault.Gone, "does not answer: timed out"},
		{"a loop of redirects", func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, r.URL.Path+"x", http.StatusFound)
			return true
		}, fault.Input, "redirects more than 10 times"},
		{"a redirect to a file", func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Location", "file:///etc/passwd")
			w.WriteHeader(http.StatusFound)
			return true
		}, fault.Input, "redirects to a URL of file"},
		{"another range", then(partial("bytes 5-1004/3158073")), fault.Corrupt, "responds with another range than bytes"},
		{"no range", then(partial("")), fault.Corrupt, "which is not valid"},
		{"a negative size", func(w http.ResponseWriter, r *http.Request) bool { partial("bytes 0-999/-5")(w, r); return true },
			fault.Corrupt, "which is not valid"},
		{"a size that is too large", func(w http.ResponseWriter, r *http.Request) bool {
			partial("bytes 0-999/9223372036854775807")(w, r)
			return true
		}, fault.Corrupt, "which is not valid"},
		{"ranges of an unknown size", func(w http.ResponseWriter, r *http.Request) bool { partial("bytes 0-999/*")(w, r); return true },
			fault.Corrupt, "instead of the file"},
		{"silent later", then(func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }), fault.Gone, "does not answer: timed out"},
		{"another size", then(partial("bytes 0-999/5")), fault.Corrupt, "its size was 3158073 bytes and is 5 bytes"},
		{"another ETag", then(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("ETag", `"two"`)
			http.ServeContent(w, r, "", started, bytes.NewReader(content))
		}), fault.Corrupt, `it changed on the server while it was read: its ETag was "one" and is "two": start again`},
		{"another date", then(func(w http.ResponseWriter, r *http.Request) {
			http.ServeContent(w, r, "", started.Add(time.Hour), bytes.NewReader(content))
		}), fault.Corrupt, "its Last-Modified was"},
		{"gone later", then(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(404) }), fault.Input, "has no such file"},
		{"it shrank", then(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(416) }), fault.Corrupt, "its size was 3158073 bytes and is at most"},
		{"ranges no more", then(func(w http.ResponseWriter, r *http.Request) { w.Write(content) }), "", "does not send ranges of the file"},
		{"half a response, then silence", then(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.Header.Get("Range"), "bytes=3000000-") {
				w.Header().Set("Content-Range", fmt.Sprintf("bytes 3000000-3065535/%d", len(content)))
				w.WriteHeader(http.StatusPartialContent)
				w.Write(content[:100])
			}
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}), fault.Gone, ""},
		{"cut each time", then(func(w http.ResponseWriter, r *http.Request) {
			http.ServeContent(&short{w, 100}, r, "", started, bytes.NewReader(content))
		}), fault.Gone, "it closed the connection 3 times"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			opt := remote.Options{}
			if c.kind == fault.Gone {
				opt.Network = hasty
			}
			f, err := open(t, serve(t, c.before).URL+"/x.img", opt)
			if err == nil {
				_, err = f.ReadAt(make([]byte, 60000), 3000000)
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") || fault.Kind(err) != c.kind {
				t.Errorf("kind %q: %v\nwant %q: ... %s", fault.Kind(err), err, c.kind, c.want)
			}
		})
	}
}

func TestRetryAfterIsObeyed(t *testing.T) {
	for name, after := range map[string]func() string{
		"seconds": func() string { return "1" },
		"a date":  func() string { return time.Now().Add(1900 * time.Millisecond).UTC().Format(http.TimeFormat) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var n atomic.Int32
			begin := time.Now()
			f, err := open(t, serve(t, func(w http.ResponseWriter, r *http.Request) bool {
				if n.Add(1) == 1 {
					w.Header().Set("Retry-After", after())
					w.WriteHeader([]int{429, 503}[len(name)%2])
					return true
				}
				return false
			}).URL, remote.Options{})
			if err != nil || f.Size() != int64(len(content)) || time.Since(begin) < 900*time.Millisecond {
				t.Errorf("after %v: %v", time.Since(begin), err)
			}
		})
	}
}

func TestServerWithoutRanges(t *testing.T) {
	f, err := open(t, serve(t, func(w http.ResponseWriter, r *http.Request) bool { r.Header.Del("Range"); return false }).URL, remote.Options{})
	must(t, err)
	if f.Ranges() {
		t.Error("ranges")
	}
	got, err := readAll(t.Context(), f)
	if err != nil || !bytes.Equal(got, content) || f.Fetched() != int64(len(content)) {
		t.Errorf("%d bytes, %d fetched: %v", len(got), f.Fetched(), err)
	}
}

// A server may send ranges without the size of the file: it is read from front to back.
func TestUnknownSize(t *testing.T) {
	f, err := open(t, serve(t, func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Range") != "" {
			w.Header().Set("Content-Range", "bytes 0-999/*")
			w.WriteHeader(http.StatusPartialContent)
			w.Write(content[:1000])
			return true
		}
		return false
	}).URL, remote.Options{})
	must(t, err)
	if got, err := readAll(t.Context(), f); f.Ranges() || err != nil || !bytes.Equal(got, content) {
		t.Errorf("ranges %v, %d bytes: %v", f.Ranges(), len(got), err)
	}
}

// A request that is not answered is sent again: the server may be restarted.
func TestResumesAfterSilence(t *testing.T) {
	var n atomic.Int32
	brief := patient
	brief.Header = 3 * time.Second
	f, err := open(t, serve(t, func(w http.ResponseWriter, r *http.Request) bool {
		if n.Add(1) != 2 {
			return false
		}
		<-r.Context().Done()
		return true
	}).URL+"/x.img", remote.Options{Network: brief})
	must(t, err)
	got := make([]byte, 60000)
	if _, err := f.ReadAt(got, 3000000); err != nil || !bytes.Equal(got, content[3000000:3060000]) || n.Load() != 3 {
		t.Errorf("%d requests: %v", n.Load(), err)
	}
}

// A server that compresses a file on the way would give other bytes than those of the file. Some
// state the encoding of files that are compressed.
func TestContentEncoding(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Encoding", r.URL.Query().Get("e"))
		return false
	}).URL
	for name, ok := range map[string]bool{
		"x.img?e=gzip": false, "x.img.zst?e=x-gzip": false, "x.img?e=br": false, "x.img.gz?e=zstd": false,
		"x.img.gz?e=x-gzip": true, "x.img.gz.manifest.json?e=gzip": true, "x.img.zst?e=zstd": true, "x.img?e=identity": true, "x.img?e=aws-chunked": true,
	} {
		_, err := open(t, url+"/"+name, remote.Options{})
		if (err == nil) != ok || err != nil && (fault.Kind(err) != fault.Input || !strings.Contains(err.Error(), "Content-Encoding")) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A size that is known from elsewhere is compared with that of the file.
func TestKnownSize(t *testing.T) {
	url := serve(t, nil).URL
	size := int64(len(content))
	for _, wrong := range []int64{size - 1, size + 1, 100, 1<<63 - 1} {
		for _, sequential := range []bool{false, true} {
			_, err := open(t, url, remote.Options{Size: wrong, Sequential: sequential})
			if want := fmt.Sprintf("it has %d bytes on the server, and should have %d", size, wrong); err == nil || err.Error() != want || fault.Kind(err) != fault.Corrupt {
				t.Errorf("%v, want %s", err, want)
			}
		}
	}
	_, err := open(t, url, remote.Options{Size: size})
	must(t, err)
}

func TestDigest(t *testing.T) {
	sum := sha256.Sum256(content)
	url := serve(t, nil).URL
	f, err := open(t, url, remote.Options{SHA256: hex.EncodeToString(sum[:]), Size: int64(len(content))})
	must(t, err)
	if got, err := readAll(t.Context(), f); err != nil || !bytes.Equal(got, content) {
		t.Error(err)
	}
	f, err = open(t, url, remote.Options{SHA256: strings.Repeat("0", 64)})
	must(t, err)
	if _, err := readAll(t.Context(), f); fault.Kind(err) != fault.Corrupt || !strings.Contains(err.Error(), hex.EncodeToString(sum[:])) {
		t.Error(err)
	}
	if _, err := open(t, url, remote.Options{Size: 5}); fault.Kind(err) != fault.Corrupt {
		t.Error(err)
	}
}

// A login is sent to the server in the URL, and to no other, not even another port of it. The
// query of the URL is sent to no other either.
func TestRedirectsGetNoLogin(t *testing.T) {
	var other, own sync.Map
	note := func(to *sync.Map, r *http.Request) {
		if a := r.Header.Get("Authorization"); a != "" {
			to.Store(a, true)
		}
		if ref := r.Header.Get("Referer"); ref != "" {
			to.Store("Referer "+ref, true)
		}
	}
	target := serve(t, func(w http.ResponseWriter, r *http.Request) bool { note(&other, r); return false })
	var hops atomic.Int32
	s := serve(t, func(w http.ResponseWriter, r *http.Request) bool {
		note(&own, r)
		hops.Add(1)
		http.Redirect(w, r, target.URL+"/there", http.StatusFound)
		return true
	})
	f, err := open(t, strings.Replace(s.URL, "http://", "http://user:SECRET@", 1)+"/x.img?token=SECRET", remote.Options{})
	must(t, err)
	got, err := readAll(t.Context(), f)
	if err != nil || !bytes.Equal(got, content) {
		t.Error(err)
	}
	if strings.Contains(f.Name(), "SECRET") {
		t.Errorf("its name is %s", f.Name())
	}
	n := 0
	own.Range(func(any, any) bool { n++; return true })
	if n != 1 {
		t.Error("the server did not get the login")
	}
	other.Range(func(a, _ any) bool { t.Errorf("the other server got %s", a); return true })
	if hops.Load() != 1 {
		t.Errorf("the redirect was followed %d times", hops.Load())
	}
}

// Where a redirect led is asked from then on; if it is valid no more, the origin is asked again.
func TestRedirectExpires(t *testing.T) {
	var key atomic.Int32
	target := serve(t, func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Query().Get("key") != fmt.Sprint(key.Load()) {
			w.WriteHeader(403)
			return true
		}
		return false
	})
	s := serve(t, func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, fmt.Sprintf("%s/?key=%d", target.URL, key.Load()), http.StatusFound)
		return true
	})
	f, err := open(t, s.URL, remote.Options{})
	must(t, err)
	key.Add(1)
	b := make([]byte, 1000)
	if _, err := f.ReadAt(b, 1<<20); err != nil || !bytes.Equal(b, content[1<<20:][:1000]) {
		t.Error(err)
	}
}

func TestRedirectToPlainHTTPIsRefused(t *testing.T) {
	plain := serve(t, nil)
	s := httptest.NewTLSServer(http.RedirectHandler(plain.URL, http.StatusFound))
	defer s.Close()
	_, err := open(t, s.URL, remote.Options{Transport: s.Client().Transport})
	if fault.Kind(err) != fault.Refused || !strings.Contains(err.Error(), "redirects from https to http") {
		t.Error(err)
	}
	// A certificate that is not trusted.
	if _, err := open(t, s.URL, remote.Options{}); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Error(err)
	}
}

func TestFilesBeside(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) bool {
		switch r.URL.EscapedPath() + "?" + r.URL.RawQuery {
		case "/a%20b/x%2Fy.img.sig?k=v":
			io.WriteString(w, "signature")
		case "/a%20b/SHA256SUMS?k=v":
			io.WriteString(w, "sums")
		case "/a%20b/x%2Fy.img.page?k=v":
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			io.WriteString(w, "<!doctype html>")
		case "/a%20b/x%2Fy.img.endless?k=v":
			for r.Context().Err() == nil {
				w.Write(make([]byte, 4096))
			}
		case "/a%20b/x%2Fy.img?k=v":
			return false
		default:
			http.NotFound(w, r)
		}
		return true
	})
	f, err := open(t, s.URL+"/a%20b/x%2Fy.img?k=v", remote.Options{})
	must(t, err)
	if b, err := f.Beside(t.Context(), ".sig", 100); err != nil || string(b) != "signature" {
		t.Errorf("%q, %v", b, err)
	}
	if b, err := f.InDirectory(t.Context(), "SHA256SUMS", 100); err != nil || string(b) != "sums" {
		t.Errorf("%q, %v", b, err)
	}
	for _, suffix := range []string{".page", ".none"} {
		missing := new(remote.StatusError)
		if _, err := f.Beside(t.Context(), suffix, 100); !errors.As(err, &missing) || !missing.Missing() {
			t.Error(err)
		}
	}
	if _, err := f.Beside(t.Context(), ".endless", 1<<20); err == nil || !strings.Contains(err.Error(), "more than 1048576 bytes") {
		t.Error(err)
	}
}

func TestInvalidURLs(t *testing.T) {
	for _, url := range []string{"http://", "ftp://host/x", "https://user:SECRET@host:port/x", "http://us er:SECRET@host/"} {
		_, err := open(t, url, remote.Options{})
		if fault.Kind(err) != fault.Usage || strings.Contains(fmt.Sprint(err), "SECRET") {
			t.Errorf("%s: %v", url, err)
		}
	}
}

func TestEndOfContext(t *testing.T) {
	var asked atomic.Int32
	f, err := open(t, serve(t, func(w http.ResponseWriter, r *http.Request) bool {
		if asked.Add(1) == 1 {
			return false
		}
		// The rest does not come.
		w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", len(content)-1, len(content)))
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		w.WriteHeader(http.StatusPartialContent)
		w.Write(content[:1000])
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		return true
	}).URL, remote.Options{})
	must(t, err)
	ctx, cancel := context.WithCancelCause(t.Context())
	stopped := errors.New("interrupted")
	r, err := f.Stream(ctx, 0)
	must(t, err)
	cancel(stopped)
	if _, err := io.ReadAll(r); !errors.Is(err, stopped) {
		t.Error(err)
	}
}
