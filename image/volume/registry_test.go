package volume_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"

	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/boardinfo"
	"imgtool/image/fault"
	"imgtool/image/oci"
	"imgtool/image/progress"
	"imgtool/image/remote"
	"imgtool/image/volume"
)

// inRegistry pushes an image of 24 MiB of noise to a registry on this machine. edit changes the
// responses with blobs.
func inRegistry(t *testing.T, name string, edit func([]byte) []byte) (ref string, content []byte) {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	content = saveNoise(t, path, 0)
	return pushed(t, path, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if edit == nil {
			next.ServeHTTP(w, r)
			return
		}
		rec := httptest.NewRecorder()
		next.ServeHTTP(rec, r)
		for k, v := range rec.Header() {
			w.Header()[k] = v
		}
		w.WriteHeader(rec.Code)
		w.Write(edit(rec.Body.Bytes()))
	}), content
}

// pushed pushes an image to a registry on this machine, whose blobs are served by blobs afterwards.
func pushed(t *testing.T, path string, blobs func(w http.ResponseWriter, r *http.Request, next http.Handler)) (ref string) {
	t.Helper()
	var changes atomic.Bool
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !changes.Load() || !strings.Contains(r.URL.Path, "/blobs/sha256") {
			inner.ServeHTTP(w, r)
			return
		}
		blobs(w, r, inner)
	}))
	t.Cleanup(server.Close)
	s, err := volume.Open(path, volume.Options{})
	must(t, err)
	defer s.Close()
	ref = "oci://" + strings.TrimPrefix(server.URL, "http://") + "/toy:1"
	_, err = oci.Push(t.Context(), ref, []*oci.File{{Path: path, Format: s.Format, Manifest: s.Manifest, Opened: s.Opened(), Size: s.Image.Size()}}, oci.PushOptions{Reporter: progress.Discard})
	must(t, err)
	changes.Store(true)
	return ref
}

// saveNoise saves an image of 24 MiB of noise, which is as large with every seed.
func saveNoise(t *testing.T, path string, seed byte) (content []byte) {
	t.Helper()
	content = make([]byte, 24<<20)
	rand.NewChaCha8([32]byte{seed}).Read(content)
	img, err := image.New(32<<20, image.Extent{Name: "noise", Content: bytes.NewReader(content)})
	must(t, err)
	m := &artifact.Manifest{Board: "toy", Medium: "sd", Inputs: []artifact.Input{}, Partitions: []artifact.Partition{}, Info: &boardinfo.Info{Arch: "arm64", Media: []boardinfo.Medium{{Name: "sd"}}}}
	must(t, artifact.Save(t.Context(), path, img, m, nil))
	return content
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Only the parts of an image that are read are fetched from a registry, and they are verified.
func TestRegistryImageIsReadInPart(t *testing.T) {
	for _, name := range []string{"x.img.zst", "x.img"} {
		ref, content := inRegistry(t, name, nil)
		var fetched atomic.Int64
		s, err := volume.Open(ref, volume.Options{Context: t.Context(), Count: func(n int64) { fetched.Add(n) }})
		must(t, err)
		defer s.Close()
		got := make([]byte, 1000)
		if _, err := s.Image.ReadAt(got, 17<<20); err != nil || !bytes.Equal(got, content[17<<20:][:1000]) {
			t.Errorf("%s: the content is wrong, %v", name, err)
		}
		if n := fetched.Load(); n == 0 || n > 10<<20 {
			t.Errorf("%s: %d of more than 24 MiB were fetched for 1000 bytes", name, n)
		}
	}
}

// A changed byte in the part that is read is found, also if the rest is right.
func TestChangedByteInRegistry(t *testing.T) {
	for _, name := range []string{"x.img.zst", "x.img"} {
		ref, _ := inRegistry(t, name, func(b []byte) []byte {
			if len(b) > 1<<20 {
				b[len(b)/2] ^= 1
			}
			return b
		})
		s, err := volume.Open(ref, volume.Options{Context: t.Context()})
		if err == nil {
			_, err = io.Copy(io.Discard, image.NewReader(t.Context(), io.NewSectionReader(s.Image, 0, s.Image.Size()), nil))
			s.Close()
		}
		if fault.Kind(err) != fault.Corrupt {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A registry that sends another image, which is right in itself, is found out before anything of
// it is used: its manifest is not the one that the digest covers.
func TestAnotherImageInRegistry(t *testing.T) {
	path := filepath.Join(t.TempDir(), "other.img.zst")
	saveNoise(t, path, 1)
	other, err := os.ReadFile(path)
	must(t, err)
	for _, whole := range []bool{false, true} {
		x := filepath.Join(t.TempDir(), "x.img.zst")
		saveNoise(t, x, 0)
		ref := pushed(t, x, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if whole {
				r.Header.Del("Range")
			}
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(other))
		})
		_, err = volume.Open(ref, volume.Options{Context: t.Context()})
		want := "the SHA-256 of its manifest is"
		if whole {
			want = "its SHA-256 is"
		}
		if fault.Kind(err) != fault.Corrupt || !strings.Contains(err.Error(), want) {
			t.Errorf("all at once %v: %v", whole, err)
		}
	}
}

// An image whose connection is closed again and again ends with an error of its registry.
func TestRegistryThatGoesAway(t *testing.T) {
	ref, _ := inRegistry(t, "x.img.zst", func(b []byte) []byte { panic(http.ErrAbortHandler) })
	ctx, cancel := context.WithTimeoutCause(t.Context(), 3*time.Minute, errors.New("it did not end"))
	defer cancel()
	hasty := remote.Network{Tries: 3, Pause: 10 * time.Millisecond}
	_, err := volume.Open(ref, volume.Options{Context: ctx, Registry: oci.Options{Network: hasty}})
	if fault.Kind(err) != fault.Gone {
		t.Error(err)
	}
}
