package source_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	unpack "imgtool/image/compress"
	"imgtool/image/fault"
	web "imgtool/image/remote"
	"imgtool/image/source"
)

// patient waits for the servers of the tests as long as a busy machine needs, and hasty only
// a short time: for servers that never answer.
var (
	patient = web.Network{Connect: time.Minute, Header: time.Minute, Stall: time.Minute, Tries: 3, Pause: 10 * time.Millisecond, Wait: 2 * time.Second}
	hasty   = web.Network{Connect: time.Minute, Header: time.Second, Stall: time.Second, Tries: 3, Pause: 10 * time.Millisecond, Wait: 2 * time.Second}
)

// faulty serves an image of one layer. fault handles requests whose path contains part.
func faulty(t *testing.T, part string, fault func(w http.ResponseWriter, r *http.Request, next http.Handler)) (ref string) {
	t.Helper()
	var on atomic.Bool
	host := server(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if on.Load() && strings.Contains(r.URL.Path, part) && r.Method == http.MethodGet {
				fault(w, r, next)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	tag, err := name.ParseReference(host + "/x:1")
	must(t, err)
	must(t, remote.Write(tag, imageOf(t, "arm64", layerOf(t, "etc/hostname=x"))))
	on.Store(true)
	return "docker://" + host + "/x:1"
}

// opens opens a reference within minutes and measures the time.
func opens(t *testing.T, ref string, opt source.Options) (took time.Duration, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), 3*time.Minute, errors.New("it did not end"))
	defer cancel()
	begin := time.Now()
	opt.TempDir = t.TempDir()
	_, err = opener(t, opt).Root(ctx, ref)
	return time.Since(begin), err
}

// endless repeats a block without end, with a pause after each.
func endless(status int, block []byte, pause time.Duration) func(http.ResponseWriter, *http.Request, http.Handler) {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		w.WriteHeader(status)
		for r.Context().Err() == nil {
			if _, err := w.Write(block); err != nil {
				return
			}
			w.(http.Flusher).Flush()
			time.Sleep(pause)
		}
	}
}

func TestRegistryTimeouts(t *testing.T) {
	silent := func(w http.ResponseWriter, r *http.Request, _ http.Handler) { <-r.Context().Done() }
	half := func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		w.Header().Set("Content-Length", "100000")
		w.Write([]byte("{"))
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}
	cut := func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		w.Header().Set("Content-Length", "100000")
		w.Write([]byte("{"))
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	status := func(code int, after string) func(http.ResponseWriter, *http.Request, http.Handler) {
		return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			if after != "" {
				w.Header().Set("Retry-After", after)
			}
			w.WriteHeader(code)
		}
	}
	many := make([]byte, 64<<10)
	redirect := func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		http.Redirect(w, r, r.URL.Path+"x", http.StatusTemporaryRedirect)
	}
	const gone, corrupt, denied, other = "gone", "corrupt", "denied", "other"
	for _, c := range []struct {
		name, part string
		fault      func(http.ResponseWriter, *http.Request, http.Handler)
		kind, want string
	}{
		{"a silent ping", "/v2/", silent, gone, "does not answer: timed out"},
		{"a silent manifest", "/manifests/", silent, gone, "does not answer: timed out"},
		{"half a manifest", "/manifests/", half, gone, "less than 16384 bytes arrived in 1s"},
		{"a trickling manifest", "/manifests/", endless(200, []byte(" "), 50*time.Millisecond), gone, "less than 16384 bytes arrived in 1s"},
		{"an endless manifest", "/manifests/", endless(200, many, 0), other, "larger than the limit of 16777216 bytes"},
		{"an endless error", "/manifests/", endless(400, many, 0), other, "body exceeds 65536 byte limit"},
		{"an endless ping", "/v2/", endless(401, many, 0), other, ""},
		{"a cut manifest", "/manifests/", cut, gone, "it closed the connection 3 times, the last time after 1 bytes"},
		{"half a config or layer", "/blobs/", half, gone, "less than 16384 bytes arrived in 1s"},
		{"an endless config", "/blobs/", endless(200, many, 0), corrupt, "its size is at least"},
		{"a cut config", "/blobs/", cut, gone, "it closed the connection 3 times"},
		{"a server that fails", "/manifests/", status(503, ""), other, "keeps responding with status 503, Service Unavailable: try again later"},
		{"a server that wants a day", "/manifests/", status(429, "86400"), other, "asks to retry after 24h0m0s, the limit is 2s"},
		{"a server that wants an age", "/manifests/", status(429, "99999999999999999999999"), other, "the limit is 2s"},
		{"no login", "/manifests/", status(403, ""), denied, "denies access with status 403: log in with docker login"},
		{"not found", "/manifests/", status(404, ""), other, "404"},
		{"redirections", "/manifests/", redirect, other, "redirects more than 10 times"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n := patient
			if c.kind == gone {
				n = hasty
			}
			_, err := opens(t, faulty(t, c.part, c.fault), source.Options{Network: n})
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "it did not end") {
				t.Fatalf("%v\nwant ... %s", err, c.want)
			}
			var g *web.GoneError
			var bad *source.CorruptError
			is := map[string]bool{gone: errors.As(err, &g), corrupt: errors.As(err, &bad), denied: fault.Kind(err) == fault.Permission}
			is[other] = !is[gone] && !is[corrupt] && !is[denied]
			if !is[c.kind] {
				t.Errorf("%v: not %s", err, c.kind)
			}
		})
	}
}

func TestTemporaryFailuresAreRetried(t *testing.T) {
	for what, fail := range map[string]func(http.ResponseWriter, int){
		"429": func(w http.ResponseWriter, _ int) { w.Header().Set("Retry-After", "1"); w.WriteHeader(429) },
		"503": func(w http.ResponseWriter, _ int) { w.WriteHeader(503) },
		"429 with a date": func(w http.ResponseWriter, _ int) {
			w.Header().Set("Retry-After", time.Now().Add(1900*time.Millisecond).UTC().Format(http.TimeFormat))
			w.WriteHeader(429)
		},
		"reset": func(w http.ResponseWriter, _ int) { panic(http.ErrAbortHandler) },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			var tries atomic.Int32
			took, err := opens(t, faulty(t, "/manifests/", func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if n := tries.Add(1); n < 3 {
					fail(w, int(n))
					return
				}
				next.ServeHTTP(w, r)
			}), source.Options{Network: patient})
			if err != nil || tries.Load() != 3 {
				t.Errorf("%d tries: %v", tries.Load(), err)
			}
			if what == "429" && took < 2*time.Second {
				t.Errorf("Retry-After of 1 s twice was obeyed in %v", took)
			}
		})
	}
}

func TestDownloadIsResumed(t *testing.T) {
	for _, ranges := range []bool{true, false} {
		var cuts atomic.Int32
		ref := faulty(t, "/blobs/", func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			rec := httptest.NewRecorder()
			plain := r.Clone(r.Context())
			plain.Header.Del("Range")
			next.ServeHTTP(rec, plain)
			b := rec.Body.Bytes()
			var from int
			if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); err == nil && ranges {
				w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(b)-1, len(b)))
				w.WriteHeader(http.StatusPartialContent)
				w.Write(b[from:])
				return
			}
			w.Header().Set("Content-Length", fmt.Sprint(len(b)))
			if cuts.Add(1)%2 == 1 {
				w.Write(b[:len(b)/2])
				w.(http.Flusher).Flush()
				panic(http.ErrAbortHandler)
			}
			w.Write(b)
		})
		if _, err := opens(t, ref, source.Options{Network: patient}); err != nil || cuts.Load() < 2 {
			t.Errorf("ranges %v, %d requests: %v", ranges, cuts.Load(), err)
		}
	}
}

func TestWaitForRegistryIsInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	stopped := errors.New("interrupted")
	n := patient
	n.Wait = time.Minute
	ref := faulty(t, "/manifests/", func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.Header().Set("Retry-After", "50")
		w.WriteHeader(429)
		time.AfterFunc(300*time.Millisecond, func() { cancel(stopped) })
	})
	begin := time.Now()
	_, err := opener(t, source.Options{Network: n}).Root(ctx, ref)
	if took := time.Since(begin); took > 45*time.Second || err == nil || !errors.Is(err, context.Canceled) && !errors.Is(err, stopped) {
		t.Errorf("%v after %v", err, took)
	}
}

func TestImageLimits(t *testing.T) {
	layers := make([]v1.Layer, 1001)
	one := layerOf(t, "etc/hostname=x")
	for i := range layers {
		layers[i] = one
	}
	d := layoutOf(t, imageOf(t, "arm64", layers...))
	if _, err := opener(t, source.Options{}).Root(t.Context(), d); err == nil || !strings.HasSuffix(err.Error(), "the image has 1001 layers, the limit is 1000") {
		t.Error(err)
	}

	// The announced size, and the real one.
	ref := faulty(t, "nothing", nil)
	if _, err := opens(t, ref, source.Options{Network: patient, Unpacked: &unpack.Budget{Max: 10}}); err == nil || !strings.Contains(err.Error(), "--max-unpacked allows 10") {
		t.Error(err)
	}
	if _, err := opens(t, ref, source.Options{Network: patient, Unpacked: &unpack.Budget{Max: 1000}}); !errors.As(err, new(*unpack.TooLargeError)) {
		t.Error(err)
	}
	if _, err := opens(t, ref, source.Options{Network: patient, Unpacked: &unpack.Budget{Max: 1 << 20}}); err != nil {
		t.Error(err)
	}
}

// tokenCase records the secrets that a registry and its token service received.
type tokenCase struct {
	mu     sync.Mutex
	logins map[string][]string // the Authorization headers of each host
}

func (c *tokenCase) note(who string, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a := r.Header.Get("Authorization"); a != "" {
		c.logins[who] = append(c.logins[who], a)
	}
}

func TestTokenServiceOnLoopback(t *testing.T) {
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte("user:SECRET"))
	for _, tt := range []struct {
		name        string
		localhost   bool   // the realm's host is written so
		login       string // for which there is one: registry, realm, or none
		wantLogin   bool   // the service wants one
		ok, leaking bool
	}{
		{"anonymous", false, "", false, true, false},
		{"anonymous, by name", true, "", false, true, false},
		{"the registry's login is not for the service", false, "registry", false, true, false},
		{"the registry's login is not for the service by name", true, "registry", false, true, false},
		{"nor where the service wants one", false, "registry", true, false, false},
		{"the service's own login", false, "realm", true, true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := &tokenCase{logins: map[string][]string{}}
			service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				c.note("service", r)
				if tt.wantLogin && r.Header.Get("Authorization") != basic {
					w.WriteHeader(http.StatusUnauthorized)
					return
				}
				json.NewEncoder(w).Encode(map[string]string{"token": "TOKEN"})
			}))
			defer service.Close()
			realm := strings.TrimPrefix(service.URL, "http://")
			if tt.localhost {
				realm = strings.Replace(realm, "127.0.0.1", "localhost", 1)
			}
			var on atomic.Bool
			host := server(t, func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if on.Load() {
						c.note("registry", r)
						if r.Header.Get("Authorization") != "Bearer TOKEN" {
							w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="x"`, realm))
							w.WriteHeader(http.StatusUnauthorized)
							return
						}
					}
					next.ServeHTTP(w, r)
				})
			})
			tag, err := name.ParseReference(host + "/x:1")
			must(t, err)
			must(t, remote.Write(tag, imageOf(t, "arm64", layerOf(t, "etc/hostname=x"))))
			on.Store(true)

			loginFor := map[string]string{"registry": host, "realm": realm, "": "elsewhere.example"}[tt.login]
			dir := t.TempDir()
			write(t, dir+"/config.json", fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, loginFor, strings.TrimPrefix(basic, "Basic ")))
			t.Setenv("DOCKER_CONFIG", dir)
			_, err = opens(t, "docker://"+host+"/x:1", source.Options{Network: patient})
			if (err == nil) != tt.ok || err != nil && fault.Kind(err) != fault.Permission {
				t.Error(err)
			}
			if leaked := len(c.logins["service"]) > 0; leaked != tt.leaking {
				t.Errorf("the service received %q", c.logins["service"])
			}
			for _, a := range c.logins["registry"] {
				if a != "Bearer TOKEN" && a != "Bearer " {
					t.Errorf("the registry received %q", a)
				}
			}
		})
	}
}

func TestRedirectionGetsNoLogin(t *testing.T) {
	var seen sync.Map
	var target http.Handler
	cdn := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if a := r.Header.Get("Authorization"); a != "" {
			seen.Store(r.URL.Path, a)
		}
		target.ServeHTTP(w, r)
	}))
	defer cdn.Close()
	var on atomic.Bool
	var asked atomic.Int32
	host := server(t, func(next http.Handler) http.Handler {
		target = next
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if on.Load() {
				if _, password, ok := r.BasicAuth(); !ok || password != "SECRET" {
					w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
					w.WriteHeader(http.StatusUnauthorized)
					return
				}
				asked.Add(1)
				if strings.Contains(r.URL.Path, "/blobs/") {
					http.Redirect(w, r, cdn.URL+r.URL.Path, http.StatusTemporaryRedirect)
					return
				}
			}
			next.ServeHTTP(w, r)
		})
	})
	tag, err := name.ParseReference(host + "/x:1")
	must(t, err)
	must(t, remote.Write(tag, imageOf(t, "arm64", layerOf(t, "etc/hostname=x"))))
	on.Store(true)
	dir := t.TempDir()
	write(t, dir+"/config.json", fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, host, base64.StdEncoding.EncodeToString([]byte("user:SECRET"))))
	t.Setenv("DOCKER_CONFIG", dir)
	if _, err := opens(t, "docker://"+host+"/x:1", source.Options{Network: patient}); err != nil {
		t.Error(err)
	}
	if asked.Load() == 0 {
		t.Error("the registry was not asked with the login")
	}
	seen.Range(func(path, a any) bool { t.Errorf("%s was requested with %s", path, a); return true })
}
