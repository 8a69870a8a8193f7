package remote_test

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"imgtool/image/fault"
	"imgtool/image/remote"
)

// A server that refuses every range is read like one without ranges.
func TestServerRefusesRanges(t *testing.T) {
	for _, size := range []string{"", fmt.Sprint("bytes */", len(content))} {
		s := serve(t, func(w http.ResponseWriter, r *http.Request) bool {
			if r.Header.Get("Range") == "" {
				return false
			}
			w.Header().Set("Content-Range", size)
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return true
		})
		f, err := open(t, s.URL, remote.Options{})
		must(t, err)
		got, err := readAll(t.Context(), f)
		if err != nil || f.Ranges() || !bytes.Equal(got, content) {
			t.Errorf("%q: %d bytes, ranges %v: %v", size, len(got), f.Ranges(), err)
		}
	}
}

// A later refusal says whether the file changed.
func TestServerRefusesRangesLater(t *testing.T) {
	for size, want := range map[string]string{
		"bytes */5":                          "its size was 3158073 bytes and is 5 bytes",
		fmt.Sprint("bytes */", len(content)): "the server refuses bytes 2097152 to 2162687 with status 416, although the file has them",
	} {
		s := serve(t, func(w http.ResponseWriter, r *http.Request) bool {
			if strings.HasPrefix(r.Header.Get("Range"), "bytes=0-") {
				return false
			}
			w.Header().Set("Content-Range", size)
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return true
		})
		f, err := open(t, s.URL, remote.Options{})
		must(t, err)
		if _, err := f.ReadAt(make([]byte, 10), 2<<20); fault.Kind(err) != fault.Corrupt || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", size, err)
		}
	}
}

// Connections that are closed do not end a transfer while each of them brings data.
func TestManyShortConnections(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) bool {
		http.ServeContent(&short{w, 300 << 10}, r, "", started, bytes.NewReader(content))
		return true
	})
	f, err := open(t, s.URL, remote.Options{})
	must(t, err)
	r, err := f.Stream(t.Context(), 0)
	must(t, err)
	defer r.Close()
	var got bytes.Buffer
	if _, err := got.ReadFrom(r); err != nil || !bytes.Equal(got.Bytes(), content) {
		t.Errorf("%d bytes: %v", got.Len(), err)
	}
}

// The login in the target of a redirect is not sent.
func TestRedirectWithLoginIsRefused(t *testing.T) {
	target := serve(t, func(_ http.ResponseWriter, r *http.Request) bool {
		t.Errorf("a request with the header %q", r.Header.Get("Authorization"))
		return false
	})
	s := serve(t, func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Location", strings.Replace(target.URL, "://", "://user:SECRET@", 1))
		w.WriteHeader(http.StatusFound)
		return true
	})
	_, err := open(t, s.URL, remote.Options{})
	if fault.Kind(err) != fault.Refused || !strings.Contains(err.Error(), "redirects to a URL with a login") || strings.Contains(err.Error(), "SECRET") {
		t.Error(err)
	}
}
