package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/registry"
)

// newRegistry starts a registry on this machine. Faults are:
//
//	no-referrers  it has no referrers API
//	login         it wants the user "u" with the password "p"
//	no-ranges     it ignores Range headers
//	PART=STATUS   it responds so to requests for PART, such as blobs=500
//	wrong, cut    the content of blobs is changed, or ends after half of it
//	endless       the content of blobs does not end
//	html          every path is a web page
func newRegistry(faults ...string) (host string, close func()) {
	has := func(f string) bool { return slices.Contains(faults, f) }
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)), registry.WithReferrersSupport(!has("no-referrers")))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		fetches := r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/sha256:")
		switch {
		case has("html"):
			fmt.Fprint(w, "<html>welcome</html>")
			return
		case has("login") && (user != "u" || password != "p"):
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		case fetches && (has("wrong") || has("cut") || has("endless")):
			if strings.HasPrefix(r.Header.Get("Range"), "bytes=") {
				r.Header.Del("Range")
			}
			serveFault(inner, w, r, has)
			return
		}
		for _, f := range faults {
			part, status, ok := strings.Cut(f, "=")
			if code := 0; ok && strings.Contains(r.URL.Path, "/"+part+"/") {
				fmt.Sscan(status, &code)
				w.WriteHeader(code)
				return
			}
		}
		if has("no-ranges") {
			r.Header.Del("Range")
		}
		inner.ServeHTTP(w, r)
	}))
	return strings.TrimPrefix(s.URL, "http://"), s.Close
}

// serveFault serves a blob with a fault.
func serveFault(inner http.Handler, w http.ResponseWriter, r *http.Request, has func(string) bool) {
	rec := httptest.NewRecorder()
	inner.ServeHTTP(rec, r)
	body := rec.Body.Bytes()
	switch {
	case has("endless"):
		for r.Context().Err() == nil {
			if _, err := w.Write(append(body, make([]byte, 1<<16)...)); err != nil {
				return
			}
		}
	case has("cut"):
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		w.Write(body[:len(body)/2])
		panic(http.ErrAbortHandler)
	case len(body) > 0:
		body[len(body)/2] ^= 1
		w.Write(body)
	}
}
