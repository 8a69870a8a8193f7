package oci_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"imgtool/image"
	"imgtool/image/fault"
	"imgtool/image/oci"
)

// messages is a Reporter that keeps the messages. stop is called for the bytes that arrive.
type messages struct {
	mu   sync.Mutex
	text strings.Builder
	stop func(phase string, n int64)
}

func (m *messages) Infof(format string, args ...any) { m.add("info: "+format, args) }
func (m *messages) Warnf(format string, args ...any) { m.add("warning: "+format, args) }
func (m *messages) EndPhase()                        {}
func (m *messages) Phase(name string, _ int64) image.Progress {
	return func(n int64) {
		if m.stop != nil {
			m.stop(name, n)
		}
	}
}

func (m *messages) add(format string, args []any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	fmt.Fprintf(&m.text, format+"\n", args...)
}

func (m *messages) String() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.text.String()
}

// cutAfter sends the first bytes of a file, and nothing to later requests.
func cutAfter(n int) handler {
	var requests atomic.Int64
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if requests.Add(1) > 1 {
			panic(http.ErrAbortHandler)
		}
		r.Header.Del("Range")
		rec := httptest.NewRecorder()
		next.ServeHTTP(rec, r)
		w.Header().Set("Content-Length", fmt.Sprint(rec.Body.Len()))
		w.Write(rec.Body.Bytes()[:n])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
}

// counting counts the bytes of files that are sent.
func counting(n *atomic.Int64) handler {
	return on("GET", "/blobs/", 0, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		next.ServeHTTP(&countedWriter{w, n}, r)
	})
}

type countedWriter struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c *countedWriter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n.Add(int64(n))
	return n, err
}

// pushedLayer pushes an image, and returns its file, its size, and the path of its part.
func pushedLayer(t *testing.T, s *server, dir, got string) (data []byte, part string) {
	t.Helper()
	_, err := oci.Push(t.Context(), s.host+"/toy:1", []*oci.File{saved(t, filepath.Join(dir, "x.img.zst"), "sd")}, pushing())
	must(t, err)
	data, err = os.ReadFile(filepath.Join(dir, "x.img.zst"))
	must(t, err)
	return data, filepath.Join(got, "x.img.zst."+strings.TrimPrefix(digestOf(data), "sha256:")[:12]+".part")
}

var three = []string{"x.img.zst", "x.img.zst.bmap", "x.img.zst.manifest.json"}

// A pull that was interrupted, wherever, is continued by the next one, which fetches the rest.
func TestPullContinues(t *testing.T) {
	dir := t.TempDir()
	size := 0
	for _, at := range []func() int{
		func() int { return 0 }, func() int { return 1 }, func() int { return 64<<10 - 1 }, func() int { return 64 << 10 },
		func() int { return 64<<10 + 1 }, func() int { return size / 2 }, func() int { return size - 1 },
	} {
		s, got := newServer(t), t.TempDir()
		data, part := pushedLayer(t, s, dir, got)
		size = len(data)
		n := at()
		s.set(on("GET", "/blobs/"+digestOf(data), 0, cutAfter(n)))
		opt, m := pulling(got), &messages{}
		opt.Reporter = m
		_, err := oci.Pull(t.Context(), s.host+"/toy:1", opt)
		sentence(t, err, fault.Gone, "closed the connection")
		if n == 0 {
			if _, err := os.Lstat(part); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("after nothing, %s is left", part)
			}
			continue
		}
		kept, err := os.ReadFile(part)
		if must(t, err); !bytes.Equal(kept, data[:n]) {
			t.Fatalf("after %d bytes, the part has %d", n, len(kept))
		}
		if want := fmt.Sprintf("%s has %s of %s: the next pull continues it", part, image.FormatSize(int64(n)), image.FormatSize(int64(size))); !strings.Contains(m.String(), want) {
			t.Errorf("the message is %q, not %q", m, want)
		}
		var sent atomic.Int64
		s.set(counting(&sent))
		done, err := oci.Pull(t.Context(), s.host+"/toy:1", pulling(got))
		must(t, err)
		sameFiles(t, got, dir, three...)
		if done[0].Resumed != int64(n) {
			t.Errorf("resumed after %d bytes, not %d", done[0].Resumed, n)
		}
		// Besides: the first request, the end that is compared, and the files of parts.
		if most := int64(size-n) + 3*64<<10; sent.Load() > most {
			t.Errorf("after %d of %d bytes, %d were sent", n, size, sent.Load())
		}
	}
}

// A partial file that does not match the start of the image is not used, and pull says why.
func TestPullStartsOver(t *testing.T) {
	dir := t.TempDir()
	write := func(change func([]byte) []byte) func(*testing.T, string, []byte) {
		return func(t *testing.T, part string, data []byte) {
			must(t, os.WriteFile(part, change(bytes.Clone(data)), 0o644))
		}
	}
	half := func(b []byte) []byte { return b[:len(b)/2] }
	for _, c := range []struct {
		name string
		make func(t *testing.T, part string, data []byte)
		do   handler
		want string
		left bool // the part is not ours, and stays
	}{
		{name: "another first byte", make: write(func(b []byte) []byte { b[0] ^= 1; return half(b) }), want: "cannot be continued: with the rest, its digest is sha256:"},
		{name: "another last byte", make: write(func(b []byte) []byte { b = half(b); b[len(b)-1] ^= 1; return b }), want: "its last bytes are not those of the image: starting over"},
		{name: "zeros at the end", make: write(func(b []byte) []byte { b = half(b); clear(b[len(b)-1<<20:]); return b }), want: "its last bytes are not those of the image: starting over"},
		{name: "complete, with another byte", make: write(func(b []byte) []byte { b[len(b)/2] ^= 1; return b }), want: "cannot be continued: with the rest, its digest is sha256:"},
		{name: "larger", make: write(func(b []byte) []byte { return append(b, 0) }), want: "bytes, the image has "},
		{name: "a server without ranges", make: write(half), want: "the registry does not send ranges: starting over", do: on("GET", "/blobs/", 0, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			r.Header.Del("Range")
			next.ServeHTTP(w, r)
		})},
		{name: "a directory", make: func(t *testing.T, part string, _ []byte) { must(t, os.Mkdir(part, 0o755)) }, want: "is a directory: fetching all of the image into another file", left: true},
		{name: "a pipe", make: func(t *testing.T, part string, _ []byte) { must(t, syscall.Mkfifo(part, 0o644)) }, want: "it is not a regular file: fetching all", left: true},
		{name: "a link", make: func(t *testing.T, part string, data []byte) {
			must(t, os.WriteFile(part+".target", half(data), 0o644))
			must(t, os.Symlink(part+".target", part))
		}, want: "fetching all of the image into another file", left: true},
		{name: "a file with two names", make: func(t *testing.T, part string, data []byte) {
			must(t, os.WriteFile(part+".other", half(data), 0o644))
			must(t, os.Link(part+".other", part))
		}, want: "it has other names: fetching all", left: true},
		{name: "a file that others may write", make: func(t *testing.T, part string, data []byte) {
			must(t, os.WriteFile(part, half(data), 0o644))
			must(t, os.Chmod(part, 0o666))
		}, want: "other users may write it: fetching all", left: true},
		{name: "a file that another process has locked", make: func(t *testing.T, part string, data []byte) {
			must(t, os.WriteFile(part, half(data), 0o644))
			f, err := os.Open(part)
			must(t, err)
			t.Cleanup(func() { f.Close() })
			must(t, syscall.Flock(int(f.Fd()), syscall.LOCK_EX))
		}, want: "another process is writing it: fetching all", left: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, got := newServer(t), t.TempDir()
			data, part := pushedLayer(t, s, dir, got)
			c.make(t, part, data)
			before, _ := os.Lstat(part)
			s.set(c.do)
			opt, m := pulling(got), &messages{}
			opt.Reporter = m
			done, err := oci.Pull(t.Context(), s.host+"/toy:1", opt)
			must(t, err)
			if !strings.Contains(m.String(), "warning: ") || !strings.Contains(m.String(), c.want) || done[0].Resumed != 0 {
				t.Errorf("%q, want ... %s; resumed after %d bytes", m, c.want, done[0].Resumed)
			}
			if after, err := os.Lstat(part); c.left && (err != nil || !os.SameFile(before, after) || before.Size() != after.Size()) {
				t.Errorf("what was there was changed: %v", err)
			}
			for _, f := range []string{part, part + ".other", part + ".target"} {
				if c.left {
					os.Remove(f)
				}
			}
			sameFiles(t, got, dir, three...)
		})
	}
}

// A part that is complete needs no download.
func TestCompletePartIsUsed(t *testing.T) {
	dir := t.TempDir()
	s, got := newServer(t), t.TempDir()
	data, part := pushedLayer(t, s, dir, got)
	must(t, os.WriteFile(part, data, 0o644))
	s.set(nil)
	_, err := oci.Pull(t.Context(), s.host+"/toy:1", pulling(got))
	must(t, err)
	sameFiles(t, got, dir, three...)
	if n := s.sent("GET", "/blobs/"+digestOf(data)); n > 0 {
		t.Errorf("%d requests for the file", n)
	}
}

// A pull that is interrupted while it continues keeps what it has.
func TestInterruptedAgain(t *testing.T) {
	dir := t.TempDir()
	s, got := newServer(t), t.TempDir()
	data, part := pushedLayer(t, s, dir, got)
	have := int64(0)
	for _, limit := range []int64{500_000, 1_000_000} {
		ctx, cancel := context.WithCancelCause(t.Context())
		opt, n := pulling(got), int64(0)
		opt.Reporter = &messages{stop: func(phase string, k int64) {
			if n += k; phase == "downloading" && n > limit {
				cancel(errors.New("stopped"))
			}
		}}
		if _, err := oci.Pull(ctx, s.host+"/toy:1", opt); err == nil || !strings.HasSuffix(err.Error(), "stopped") {
			t.Fatal(err)
		}
		kept, err := os.ReadFile(part)
		if must(t, err); int64(len(kept)) <= have || !bytes.HasPrefix(data, kept) {
			t.Fatalf("the part has %d bytes, after %d", len(kept), have)
		}
		have = int64(len(kept))
	}
	done, err := oci.Pull(t.Context(), s.host+"/toy:1", pulling(got))
	must(t, err)
	if done[0].Resumed != have {
		t.Errorf("resumed after %d bytes, not %d", done[0].Resumed, have)
	}
	sameFiles(t, got, dir, three...)
}

// Pulls of the same image into the same directory at the same time all succeed.
func TestConcurrentPulls(t *testing.T) {
	dir := t.TempDir()
	s, got := newServer(t), t.TempDir()
	data, part := pushedLayer(t, s, dir, got)
	must(t, os.WriteFile(part, data[:len(data)/3], 0o644))
	errs := make(chan error)
	for range 8 {
		go func() {
			_, err := oci.Pull(t.Context(), s.host+"/toy:1", pulling(got))
			errs <- err
		}()
	}
	for range 8 {
		must(t, <-errs)
	}
	sameFiles(t, got, dir, three...)
}
