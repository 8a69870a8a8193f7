package provision_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"imgtool/image/imagetest"
	"imgtool/image/seed/provision"
)

func TestClientTimeouts(t *testing.T) {
	silent := func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	half := func(w http.ResponseWriter, r *http.Request) {
		w.Write([]byte(`{"status":`))
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}
	send := func(block []byte, pause time.Duration) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(block); err != nil {
					return
				}
				w.(http.Flusher).Flush()
				time.Sleep(pause)
			}
		}
	}
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		timeout time.Duration
		gone    bool
	}{
		"silent":    {silent, time.Second, true},
		"half":      {half, time.Second, true},
		"trickling": {send([]byte(" "), 50*time.Millisecond), time.Second, true},
		"endless":   {send(make([]byte, 1<<20), 0), time.Minute, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			took, err := health(t, c.handler, c.timeout)
			var gone *provision.GoneError
			if err == nil || errors.As(err, &gone) != c.gone {
				t.Error(err)
			}
			if took > 50*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}

func health(t *testing.T, h http.HandlerFunc, timeout time.Duration) (took time.Duration, err error) {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	c, err := provision.Dial(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	c.Timeout = timeout
	begin := time.Now()
	err = c.Health(t.Context())
	return time.Since(begin), err
}

func TestClientRetriesGET(t *testing.T) {
	imagetest.Long(t)
	for status, wait := range map[int]string{429: "1", 503: ""} {
		var n atomic.Int32
		took, err := health(t, func(w http.ResponseWriter, _ *http.Request) {
			if n.Add(1) < 3 {
				w.Header().Set("Retry-After", wait)
				w.WriteHeader(status)
				return
			}
			w.Write([]byte(`{"status":"ok"}`))
		}, time.Minute)
		if err != nil || n.Load() != 3 || took < 2*time.Second {
			t.Errorf("%d: asked %d times in %v: %v", status, n.Load(), took, err)
		}
	}
	var n atomic.Int32
	took, err := health(t, func(w http.ResponseWriter, _ *http.Request) {
		n.Add(1)
		w.Header().Set("Retry-After", "86400")
		w.WriteHeader(429)
	}, time.Second)
	if err == nil || n.Load() != 1 || took > time.Hour {
		t.Errorf("asked %d times in %v: %v", n.Load(), took, err)
	}
}
