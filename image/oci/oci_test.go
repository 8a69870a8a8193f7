package oci_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
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
)

// patient waits for the servers of the tests as long as a busy machine needs, and hasty only
// a short time: for servers that never answer.
var (
	patient = remote.Network{Connect: time.Minute, Header: time.Minute, Stall: time.Minute, Tries: 3, Pause: 10 * time.Millisecond, Wait: 2 * time.Second, Commit: time.Minute}
	hasty   = remote.Network{Connect: time.Minute, Header: time.Second, Stall: time.Second, Tries: 3, Pause: 10 * time.Millisecond, Wait: 2 * time.Second, Commit: 2 * time.Second}
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// saved makes an image file of a board's medium, with 3 MiB of content.
func saved(t testing.TB, path, medium string) *oci.File {
	t.Helper()
	noise := make([]byte, 3<<20)
	rand.NewChaCha8([32]byte{byte(len(medium))}).Read(noise)
	img, err := image.New(16<<20, image.Extent{Name: "head", Content: bytes.NewReader(noise[:4096])}, image.Extent{Name: "noise", Off: 4 << 20, Content: bytes.NewReader(noise)})
	must(t, err)
	m := &artifact.Manifest{Board: "toy", Medium: medium, BuildID: "b1", Time: 1_767_225_600, Inputs: []artifact.Input{}, Partitions: []artifact.Partition{},
		Info: &boardinfo.Info{Arch: "arm64", Media: []boardinfo.Medium{{Name: "sd"}, {Name: "nvme"}}}}
	must(t, artifact.Save(t.Context(), path, img, m, nil))
	return opened(t, path)
}

// opened opens an image file to be pushed.
func opened(t testing.TB, path string) *oci.File {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	info, err := f.Stat()
	must(t, err)
	text, err := os.ReadFile(artifact.ManifestPath(path))
	must(t, err)
	m, err := artifact.ParseManifest(text)
	must(t, err)
	o, err := artifact.Open(io.NewSectionReader(f, 0, info.Size()), m)
	must(t, err)
	return &oci.File{Path: path, Format: o.Format, Manifest: o.Manifest, Opened: o, Size: o.Size()}
}

// server is a registry on this machine that counts and changes what happens.
type server struct {
	host string
	url  string

	mu     sync.Mutex
	log    []string // method and path of each request
	change func(w http.ResponseWriter, r *http.Request, next http.Handler)
}

func newServer(t testing.TB, opts ...registry.Option) *server {
	t.Helper()
	s := &server{}
	inner := registry.New(append(opts, registry.Logger(log.New(io.Discard, "", 0)))...)
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.log = append(s.log, r.Method+" "+r.URL.Path)
		change := s.change
		s.mu.Unlock()
		if change == nil {
			inner.ServeHTTP(w, r)
			return
		}
		change(w, r, inner)
	}))
	t.Cleanup(h.Close)
	s.url, s.host = h.URL, strings.TrimPrefix(h.URL, "http://")
	return s
}

// sent returns how many requests of a method have been sent whose path contains part.
func (s *server) sent(method, part string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.log {
		if strings.HasPrefix(l, method+" ") && strings.Contains(l, part) {
			n++
		}
	}
	return n
}

func (s *server) set(change func(http.ResponseWriter, *http.Request, http.Handler)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.change, s.log = change, nil
}

// put stores a manifest or an index, as any client does.
func (s *server) put(t testing.TB, path, text string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodPut, s.url+"/v2/"+path, strings.NewReader(text))
	must(t, err)
	req.Header.Set("Content-Type", regexp.MustCompile(`application/vnd.oci.image.[a-z]+.v1.json`).FindString(text))
	resp, err := http.DefaultClient.Do(req)
	must(t, err)
	resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		t.Fatal(path, resp.Status)
	}
}

// fetch gets a manifest or blob as any client does.
func (s *server) fetch(t testing.TB, path string) []byte { return fetch(t, s.url+"/v2/"+path) }

func fetch(t testing.TB, url string) []byte {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, url, nil)
	must(t, err)
	req.Header.Set("Accept", "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json")
	resp, err := http.DefaultClient.Do(req)
	must(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		t.Fatal(url, resp.Status, err)
	}
	return b
}

func pushing(tags ...string) oci.PushOptions {
	return oci.PushOptions{Network: patient, Tags: tags, Reporter: progress.Discard}
}

func pulling(dir string) oci.PullOptions {
	return oci.PullOptions{Options: oci.Options{Network: patient}, Output: dir, Reporter: progress.Discard}
}

// sameFiles compares the files of a directory with others of the same names.
func sameFiles(t testing.TB, got, want string, names ...string) {
	t.Helper()
	var have []string
	entries, err := os.ReadDir(got)
	must(t, err)
	for _, e := range entries {
		have = append(have, e.Name())
	}
	slices.Sort(names)
	if !slices.Equal(have, names) {
		t.Fatalf("%s has %q, want %q", got, have, names)
	}
	for _, n := range names {
		a, errA := os.ReadFile(filepath.Join(got, n))
		b, errB := os.ReadFile(filepath.Join(want, n))
		if errA != nil || errB != nil || !bytes.Equal(a, b) {
			t.Errorf("%s differs from what was pushed: %v, %v", n, errA, errB)
		}
	}
}

// A push of the same files, in any order, gives the same digests, and uploads nothing.
func TestPushIsReproducible(t *testing.T) {
	dir := t.TempDir()
	s := newServer(t, registry.WithReferrersSupport(true))
	var digests []string
	for i, order := range [][]string{{"sd", "nvme"}, {"nvme", "sd"}} {
		var files []*oci.File
		for _, m := range order {
			files = append(files, saved(t, filepath.Join(dir, "x-"+m+".img.zst"), m))
		}
		s.set(nil)
		done, err := oci.Push(t.Context(), s.host+"/toy:1", files, pushing("latest"))
		must(t, err)
		digests = append(digests, done.Digest)
		puts := s.sent("PUT", "/blobs/")
		if i == 0 && puts == 0 || i == 1 && (puts > 0 || done.Uploaded > 0 || s.sent("POST", "") > 0) {
			t.Errorf("push %d: %d blobs and %d bytes were uploaded", i, puts, done.Uploaded)
		}
	}
	if digests[0] != digests[1] {
		t.Errorf("%q differ", digests)
	}
	for _, tag := range []string{"1", "latest"} {
		if got := digestOf(s.fetch(t, "toy/manifests/"+tag)); got != digests[0] {
			t.Errorf("%s is %s, not %s", tag, got, digests[0])
		}
	}
	got := t.TempDir()
	_, err := oci.Pull(t.Context(), s.host+"/toy@"+digests[0], pulling(got))
	must(t, err)
	sameFiles(t, got, dir, "x-sd.img.zst", "x-sd.img.zst.bmap", "x-sd.img.zst.manifest.json", "x-nvme.img.zst", "x-nvme.img.zst.bmap", "x-nvme.img.zst.manifest.json")
}

// Tags are set after everything else, so that a push that fails leaves them as they were.
func TestTagsAreSetLast(t *testing.T) {
	dir := t.TempDir()
	s := newServer(t)
	_, err := oci.Push(t.Context(), s.host+"/toy:1", []*oci.File{saved(t, filepath.Join(dir, "x.img.zst"), "sd")}, pushing())
	must(t, err)
	var puts []string
	for _, l := range s.log {
		if strings.HasPrefix(l, "PUT ") {
			puts = append(puts, l)
		}
	}
	if len(puts) < 5 || puts[len(puts)-1] != "PUT /v2/toy/manifests/1" || slices.Index(puts, "PUT /v2/toy/manifests/1") != len(puts)-1 {
		t.Errorf("%q", puts)
	}
}

// Attachments of an image file are stored too, and what is not there is not.
func TestAttachmentsArePushed(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x.img.zst")
	saved(t, path, "sd")
	must(t, artifact.Attach(t.Context(), path, artifact.SBOM, []byte(`{"spdxVersion":"SPDX-2.3"}`)))
	must(t, artifact.Attach(t.Context(), path, artifact.Signature, []byte("signed")))
	for _, beside := range []string{artifact.SBOMPath(path), artifact.SignaturePath(path)} {
		os.Remove(beside)
	}
	for _, referrers := range []bool{true, false} {
		s := newServer(t, registry.WithReferrersSupport(referrers))
		done, err := oci.Push(t.Context(), s.host+"/toy:1", []*oci.File{opened(t, path)}, pushing())
		must(t, err)
		if got := fmt.Sprint(done.Images[0].Parts); got != "[manifest block map signature sbom]" {
			t.Error(got)
		}
		got := t.TempDir()
		_, err = oci.Pull(t.Context(), s.host+"/toy:1", pulling(got))
		must(t, err)
		for name, want := range map[string]string{"x.img.zst.spdx.json": `{"spdxVersion":"SPDX-2.3"}`, "x.img.zst.manifest.json.sig": "signed"} {
			if b, err := os.ReadFile(filepath.Join(got, name)); string(b) != want {
				t.Errorf("%s: %q, %v", name, b, err)
			}
		}
		fallback := s.sent("PUT", "/manifests/sha256-")
		if referrers != (fallback == 0) {
			t.Errorf("referrers API %v: the fallback tag was set %d times", referrers, fallback)
		}
	}
}

// An image that was pushed, signed again and pushed again has the signatures of both.
func TestSignaturesAreJoined(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x.img")
	saved(t, path, "sd")
	s := newServer(t, registry.WithReferrersSupport(true))
	for _, text := range []string{"one\n", "two\n"} {
		must(t, os.WriteFile(artifact.SignaturePath(path), []byte("ssh "+text), 0o666))
		must(t, os.WriteFile(artifact.MinisigPath(path), []byte("mini "+text), 0o666))
		_, err := oci.Push(t.Context(), s.host+"/toy:1", []*oci.File{opened(t, path)}, pushing())
		must(t, err)
	}
	got := t.TempDir()
	_, err := oci.Pull(t.Context(), s.host+"/toy:1", pulling(got))
	must(t, err)
	for suffix, want := range map[string]string{".manifest.json.sig": "ssh one\nssh two\n", ".manifest.json.minisig": "mini one\nmini two\n"} {
		if b, err := os.ReadFile(filepath.Join(got, "x.img"+suffix)); string(b) != want {
			t.Errorf("%s: %q, %v", suffix, b, err)
		}
	}
}

// object decodes a manifest.
func object(t testing.TB, raw []byte) (m map[string]any) {
	t.Helper()
	must(t, json.Unmarshal(raw, &m))
	return m
}

// A digest in the reference is compared with what the registry sends, and those in an index too.
func TestDigestsPin(t *testing.T) {
	dir := t.TempDir()
	files := []*oci.File{saved(t, filepath.Join(dir, "a.img.zst"), "sd"), saved(t, filepath.Join(dir, "b.img.zst"), "nvme")}
	s := newServer(t)
	done, err := oci.Push(t.Context(), s.host+"/toy:1", files, pushing())
	must(t, err)
	longer := changed(func(b []byte) []byte { return append(b, '\n') })
	for _, c := range []struct{ ref, fault, want string }{
		{"/toy@" + done.Digest, "none", ""},
		{"/toy:1@" + done.Digest, "none", ""},
		{"/toy@" + done.Digest, done.Digest, "manifest: its digest is sha256:"},
		{"/toy:1", done.Images[0].Digest, "manifest: its size is at least"},
		{"/toy:1", done.Images[1].Digest, "manifest: its size is at least"},
	} {
		s.set(on("GET", c.fault, 0, longer))
		_, err := oci.Find(t.Context(), "oci://"+s.host+c.ref, oci.Options{Network: patient})
		if c.want == "" {
			must(t, err)
			continue
		}
		sentence(t, err, fault.Corrupt, c.want)
	}
}
