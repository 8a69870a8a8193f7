package oci_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"

	"imgtool/image/fault"
	"imgtool/image/oci"
)

type handler = func(w http.ResponseWriter, r *http.Request, next http.Handler)

// on applies a fault to requests of a method whose path contains part, the first times only if
// times is not 0.
func on(method, part string, times int, do handler) handler {
	var n atomic.Int64
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Method == method && strings.Contains(r.URL.Path, part) && (times == 0 || n.Add(1) <= int64(times)) {
			do(w, r, next)
			return
		}
		next.ServeHTTP(w, r)
	}
}

func status(code int, headers ...string) handler {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		io.Copy(io.Discard, r.Body)
		for i := 0; i < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(code)
	}
}

// changed serves what another body would be.
func changed(body func([]byte) []byte) handler {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		r.Header.Del("Range")
		rec := httptest.NewRecorder()
		next.ServeHTTP(rec, r)
		for k, v := range rec.Header() {
			if k != "Content-Length" {
				w.Header()[k] = v
			}
		}
		w.WriteHeader(rec.Code)
		w.Write(body(rec.Body.Bytes()))
	}
}

func flipped(b []byte) []byte {
	b[len(b)/2] ^= 1
	return b
}

// cut announces all and closes the connection after half of it.
func cut(w http.ResponseWriter, r *http.Request, next http.Handler) {
	r.Header.Del("Range")
	rec := httptest.NewRecorder()
	next.ServeHTTP(rec, r)
	w.Header().Set("Content-Length", fmt.Sprint(rec.Body.Len()))
	w.Write(rec.Body.Bytes()[:rec.Body.Len()/2])
	panic(http.ErrAbortHandler)
}

func endless(w http.ResponseWriter, r *http.Request, _ http.Handler) {
	for block := make([]byte, 1<<16); r.Context().Err() == nil; {
		if _, err := w.Write(block); err != nil {
			return
		}
	}
}

// sentence checks that an error is one sentence of a kind.
func sentence(t *testing.T, err error, kind, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) || strings.ContainsAny(err.Error(), "\n") || len(err.Error()) > 500 || strings.Contains(err.Error(), "http://") {
		t.Fatalf("%v\nwant ... %s", err, want)
	}
	got := fault.Kind(err)
	if got == "" {
		got = fault.Input
	}
	if got != kind {
		t.Errorf("%v: the kind is %s, not %s", err, got, kind)
	}
}

// A registry with a fault ends a pull with one sentence, and nothing is written.
func TestPullFaults(t *testing.T) {
	dir := t.TempDir()
	file := saved(t, filepath.Join(dir, "x.img.zst"), "sd")
	blob, manifest := "/blobs/", "/manifests/1"
	for _, c := range []struct {
		name       string
		do         handler
		kind, want string
	}{
		{"a wrong layer", on("GET", blob, 0, changed(flipped)), fault.Corrupt, "its digest is sha256:"},
		{"a short layer", on("GET", blob, 0, changed(func(b []byte) []byte { return b[:len(b)/2] })), fault.Corrupt, "its digest is"},
		{"a long layer", on("GET", blob, 0, changed(func(b []byte) []byte { return append(b, 1) })), fault.Corrupt, "its size is"},
		{"an endless layer", on("GET", blob, 0, endless), fault.Corrupt, "its size is"},
		{"a layer that is cut again and again", on("GET", blob, 0, cut), fault.Gone, "closed the connection"},
		{"a layer that is missing", on("GET", blob, 0, status(404)), fault.Input, "has no blob sha256:"},
		{"no login", on("GET", manifest, 0, status(401)), fault.Permission, "denies access with status 401"},
		{"a refused login", on("GET", manifest, 0, status(403)), fault.Permission, "denies access with status 403: log in with docker login"},
		{"a refused layer", on("GET", blob, 0, status(403)), fault.Permission, "denies access with status 403"},
		{"busy for a day", on("GET", manifest, 0, status(429, "Retry-After", "86400")), fault.Input, "asks to retry after 24h0m0s, the limit is 2s"},
		{"busy for good", on("GET", blob, 0, status(429, "Retry-After", "0")), fault.Input, "keeps responding with status 429, Too Many Requests"},
		{"a server that fails", on("GET", manifest, 0, status(503)), fault.Input, "keeps responding with status 503, Service Unavailable"},
		{"a ping that fails", on("GET", "/v2/", 0, status(500)), fault.Input, "status 500"},
		{"an endless manifest", on("GET", manifest, 0, endless), fault.Input, "larger than the limit"},
		{"no tag", on("GET", manifest, 0, status(404)), fault.Input, "has no manifest 1"},
		{"a web page", on("GET", manifest, 0, changed(func([]byte) []byte { return []byte("<html>hello</html>") })), fault.Corrupt, "it is not a manifest: the server may not be a registry"},
		{"another document", on("GET", manifest, 0, changed(func([]byte) []byte { return []byte(`{"hello": 1}`) })), fault.Corrupt, "is neither a manifest nor an index: the server may not be a registry"},
		{"no layer", on("GET", manifest, 0, changed(edited(func(m map[string]any) { m["layers"] = []any{} }))), fault.Corrupt, "has 0 layers"},
		{"a wrong size of the layer", on("GET", manifest, 0, changed(edited(func(m map[string]any) { layerOf(m)["size"] = 100 }))), fault.Corrupt, "its size is more than 100 bytes, not 100"},
		{"a negative size of the layer", on("GET", manifest, 0, changed(edited(func(m map[string]any) { layerOf(m)["size"] = -1 }))), fault.Corrupt, "a layer of -1 bytes"},
		{"a path as title", on("GET", manifest, 0, changed(edited(func(m map[string]any) { titleOf(m, "../x.img") }))), fault.Corrupt, `"../x.img" is not the plain name of a file`},
		{"a directory in the title", on("GET", manifest, 0, changed(edited(func(m map[string]any) { titleOf(m, "etc/x.img") }))), fault.Corrupt, `"etc/x.img" is not the plain name of a file`},
		{"a title of Windows", on("GET", manifest, 0, changed(edited(func(m map[string]any) { titleOf(m, `a\x.img`) }))), fault.Corrupt, `is not the plain name of a file`},
		{"a title with a control character", on("GET", manifest, 0, changed(edited(func(m map[string]any) { titleOf(m, "x\x1b.img") }))), fault.Corrupt, `is not the plain name of a file`},
		{"a long title", on("GET", manifest, 0, changed(edited(func(m map[string]any) { titleOf(m, strings.Repeat("x", 300)) }))), fault.Corrupt, `it has 300 bytes, the limit is 200`},
		{"a title that is shown in another order", on("GET", manifest, 0, changed(edited(func(m map[string]any) { titleOf(m, "\u202egmi.img") }))), fault.Corrupt, `is not the plain name of a file`},
		{"a hidden title", on("GET", manifest, 0, changed(edited(func(m map[string]any) { titleOf(m, ".bashrc") }))), fault.Corrupt, `".bashrc" is not the plain name of a file`},
		{"an empty title", on("GET", manifest, 0, changed(edited(func(m map[string]any) { titleOf(m, "") }))), fault.Input, "has no file name"},
		{"another artifact", on("GET", manifest, 0, changed(edited(func(m map[string]any) {
			m["artifactType"] = "application/vnd.example"
			layerOf(m)["annotations"] = nil
		}))), fault.Input, `it is not a disk image, but "application/vnd.example" with a layer that has no file name`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			_, err := oci.Push(t.Context(), s.host+"/toy:1", []*oci.File{file}, pushing())
			must(t, err)
			s.set(c.do)
			got := t.TempDir()
			_, err = oci.Pull(t.Context(), s.host+"/toy:1", pulling(got))
			sentence(t, err, c.kind, c.want)
			if entries, _ := os.ReadDir(got); len(entries) > 0 {
				t.Errorf("%v was written", entries)
			}
		})
	}
}

// edited changes a manifest.
func edited(change func(map[string]any)) func([]byte) []byte {
	return func(b []byte) []byte {
		var m map[string]any
		json.Unmarshal(b, &m)
		change(m)
		b, _ = json.Marshal(m)
		return b
	}
}

func layerOf(m map[string]any) map[string]any { return m["layers"].([]any)[0].(map[string]any) }

func titleOf(m map[string]any, title string) {
	layerOf(m)["annotations"].(map[string]any)["org.opencontainers.image.title"] = title
}

// Temporary faults of a registry do not end a push or pull.
func TestTemporaryFaults(t *testing.T) {
	dir := t.TempDir()
	file := saved(t, filepath.Join(dir, "x.img.zst"), "sd")
	drop := func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		io.CopyN(io.Discard, r.Body, 100_000)
		panic(http.ErrAbortHandler)
	}
	for name, do := range map[string]handler{
		"uploads that are cut":        on("PUT", "/blobs/", 2, drop),
		"uploads that fail":           on("PUT", "/blobs/", 2, status(503)),
		"busy uploads":                on("PUT", "/blobs/", 1, status(429, "Retry-After", "1")),
		"forgotten uploads":           on("PUT", "/blobs/", 1, status(404)),
		"uploads that do not begin":   on("POST", "/blobs/", 2, status(502)),
		"manifests that fail":         on("PUT", "/manifests/", 2, status(500)),
		"busy checks":                 on("HEAD", "/blobs/", 2, status(429, "Retry-After", "0")),
		"downloads that are cut":      on("GET", "/blobs/", 2, cut),
		"manifests that are not sent": on("GET", "/manifests/", 2, status(503)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			s.set(do)
			_, err := oci.Push(t.Context(), s.host+"/toy:1", []*oci.File{file}, pushing())
			must(t, err)
			got := t.TempDir()
			_, err = oci.Pull(t.Context(), s.host+"/toy:1", pulling(got))
			must(t, err)
			sameFiles(t, got, dir, "x.img.zst", "x.img.zst.bmap", "x.img.zst.manifest.json")
		})
	}
}

// A registry with a fault ends a push with one sentence, and the tag is not set.
func TestPushFaults(t *testing.T) {
	file := saved(t, filepath.Join(t.TempDir(), "x.img.zst"), "sd")
	stuck := func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		select {
		case <-r.Context().Done():
		case <-time.After(10 * time.Second): // the server does not notice that a client has gone
			panic(http.ErrAbortHandler)
		}
	}
	for _, c := range []struct {
		name       string
		do         handler
		kind, want string
	}{
		{"no login", on("HEAD", "/blobs/", 0, status(401)), fault.Permission, "denies access with status 401"},
		{"not allowed to push", on("POST", "/blobs/", 0, status(403)), fault.Permission, "denies access with status 403: log in with docker login"},
		{"busy for a day", on("PUT", "/blobs/", 0, status(429, "Retry-After", "86400")), fault.Input, "asks to retry after 24h0m0s"},
		{"a full disk", on("PUT", "/blobs/", 0, status(507)), fault.Input, "507"},
		{"too large", on("PUT", "/blobs/", 0, status(413)), fault.Input, "status 413"},
		{"an upload that is not accepted", on("PUT", "/blobs/", 0, stuck), fault.Gone, "does not answer"},
		{"no location", on("POST", "/blobs/", 0, status(202)), fault.Input, "no valid Location"},
		{"a manifest that is refused", on("PUT", "/manifests/", 0, status(400)), fault.Input, "storing manifest"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			s.set(c.do)
			opt := pushing()
			if c.kind == fault.Gone {
				opt.Network = hasty
			}
			_, err := oci.Push(t.Context(), s.host+"/toy:1", []*oci.File{file}, opt)
			sentence(t, err, c.kind, c.want)
			s.set(nil)
			_, err = oci.Pull(t.Context(), s.host+"/toy:1", pulling(t.TempDir()))
			sentence(t, err, fault.Input, "has no manifest 1")
		})
	}
}

// An annotation that a terminal would not show as it is ends a push before anything is sent.
func TestAnnotationsArePrintable(t *testing.T) {
	file := saved(t, filepath.Join(t.TempDir(), "x.img.zst"), "sd")
	s := newServer(t)
	for key, value := range map[string]string{"a\x1b[31m": "b", "a\nb": "c", "a": "b\x1b[31m", "b": "\u202ec", "c": "\xff"} {
		opt := pushing()
		opt.Annotations = map[string]string{key: value}
		_, err := oci.Push(t.Context(), s.host+"/toy:1", []*oci.File{file}, opt)
		sentence(t, err, fault.Usage, "its key must be one line of printable characters")
	}
	opt := pushing()
	opt.Annotations = map[string]string{"org.opencontainers.image.licenses": "one\n\ttwo ü"}
	if n := s.sent("", ""); n > 0 {
		t.Errorf("%d requests", n)
	}
	_, err := oci.Push(t.Context(), s.host+"/toy:1", []*oci.File{file}, opt)
	must(t, err)
}

// A container image is not taken for a disk image, and the hint says what can be done with it.
func TestContainerImagesAreRefused(t *testing.T) {
	s := newServer(t)
	img, err := random.Image(1000, 1)
	must(t, err)
	ref, err := name.ParseReference(s.host + "/os:1")
	must(t, err)
	must(t, remote.Write(ref, img))
	index, err := random.Index(1000, 1, 2)
	must(t, err)
	list, err := name.ParseReference(s.host + "/os:list")
	must(t, err)
	must(t, remote.WriteIndex(list, mutate.IndexMediaType(index, "application/vnd.docker.distribution.manifest.list.v2+json")))
	for _, tag := range []string{"1", "list"} {
		_, err := oci.Find(t.Context(), "oci://"+s.host+"/os:"+tag, oci.Options{Network: patient})
		sentence(t, err, fault.Input, "it is a container image and not a disk image")
		if want := "imgtool build --rootfs docker://" + s.host + "/os:" + tag; !strings.Contains(fault.Hint(err), want) {
			t.Errorf("%s: the hint is %q, not ... %s", tag, fault.Hint(err), want)
		}
	}
}

// An image file that another program pushed as an artifact is fetched, by its title. The manifest
// is as oras makes it, with the type of a container's layer.
func TestArtifactsOfOthers(t *testing.T) {
	dir := t.TempDir()
	saved(t, filepath.Join(dir, "x.img.zst"), "sd")
	data, err := os.ReadFile(filepath.Join(dir, "x.img.zst"))
	must(t, err)
	s := newServer(t)
	layer := static.NewLayer(data, "application/vnd.oci.image.layer.v1.tar")
	repo, err := name.NewRepository(s.host + "/toy")
	must(t, err)
	must(t, remote.WriteLayer(repo, layer))
	must(t, remote.WriteLayer(repo, static.NewLayer([]byte("{}"), "application/vnd.oci.empty.v1+json")))
	text := fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":"application/vnd.unknown.artifact.v1",`+
		`"config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":"%s","size":2,"data":"e30="},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar",`+
		`"digest":"%s","size":%d,"annotations":{"org.opencontainers.image.title":"x.img.zst"}}]}`, digestOf([]byte("{}")), digestOf(data), len(data))
	s.put(t, "toy/manifests/1", text)
	got := t.TempDir()
	_, err = oci.Pull(t.Context(), s.host+"/toy:1", pulling(got))
	must(t, err)
	sameFiles(t, got, dir, "x.img.zst")

	// The only entry of an index, and of an index in it.
	index := func(manifests ...string) string {
		return fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[%s]}`, strings.Join(manifests, ","))
	}
	entry := func(kind, text string) string {
		return fmt.Sprintf(`{"mediaType":"application/vnd.oci.image.%s.v1+json","digest":"%s","size":%d,"artifactType":"application/vnd.unknown.artifact.v1"}`, kind, digestOf([]byte(text)), len(text))
	}
	inner := index(entry("manifest", text))
	s.put(t, "toy/manifests/inner", inner)
	s.put(t, "toy/manifests/outer", index(entry("index", inner)))
	for _, tag := range []string{"inner", "outer"} {
		images, err := oci.Find(t.Context(), "oci://"+s.host+"/toy:"+tag, oci.Options{Network: hasty})
		if must(t, err); images[0].Digest.String() != digestOf([]byte(text)) {
			t.Errorf("%s is %s", tag, images[0].Digest)
		}
	}
	s.put(t, "toy/manifests/two", index(entry("manifest", text), entry("manifest", text)))
	s.put(t, "toy/manifests/none", index())
	for tag, want := range map[string]string{"two": "it is an index of 2 artifacts of other programs: name one by its digest, such as sha256:", "none": "it is an index without images"} {
		_, err := oci.Find(t.Context(), "oci://"+s.host+"/toy:"+tag, oci.Options{Network: hasty})
		sentence(t, err, fault.Input, want)
	}
}

// A name without a registry is not looked for at Docker Hub.
func TestReferencesNameARegistry(t *testing.T) {
	for _, ref := range []string{"oci://toy", "oci://toy:1", "oci://a/toy:1", "oci://localhost:5000"} {
		_, err := oci.Find(t.Context(), ref, oci.Options{Network: hasty})
		sentence(t, err, fault.Usage, "does not name a registry: write HOST/REPOSITORY:TAG, and for Docker Hub docker.io/"+ref[6:])
	}
}

// The program that keeps the user's logins may be missing, and what a service for tokens sends may
// have several lines.
func TestFaultsOfLogins(t *testing.T) {
	s := newServer(t)
	dir := t.TempDir()
	t.Setenv("DOCKER_CONFIG", dir)
	must(t, os.WriteFile(filepath.Join(dir, "config.json"), []byte(`{"credsStore":"of-a-stranger"}`), 0o600))
	_, err := oci.Find(t.Context(), "oci://"+s.host+"/toy:1", oci.Options{Network: hasty})
	sentence(t, err, fault.Input, "the program docker-credential-of-a-stranger, which is not installed")

	must(t, os.Remove(filepath.Join(dir, "config.json")))
	s.set(func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		if r.URL.Path == "/token" {
			io.WriteString(w, "{\n\"a\": 1\n}\n")
			return
		}
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token"`, s.url))
		w.WriteHeader(http.StatusUnauthorized)
	})
	_, err = oci.Find(t.Context(), "oci://"+s.host+"/toy:1", oci.Options{Network: hasty})
	if err == nil || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), "getting a token from") {
		t.Error(err)
	}
}

// withLogin writes the configuration of docker login.
func withLogin(t *testing.T, host, user, password string) {
	t.Helper()
	dir := t.TempDir()
	auth := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	must(t, os.WriteFile(filepath.Join(dir, "config.json"), []byte(fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, host, auth)), 0o600))
	t.Setenv("DOCKER_CONFIG", dir)
}

// The login of the user is used with Basic authentication and for tokens, whose scope is that of
// the operation.
func TestLogins(t *testing.T) {
	file := saved(t, filepath.Join(t.TempDir(), "x.img.zst"), "sd")
	for _, scheme := range []string{"Basic", "Bearer"} {
		s := newServer(t)
		var scopes atomic.Value
		s.set(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			user, password, _ := r.BasicAuth()
			known := user == "u" && password == "p"
			switch {
			case r.URL.Path == "/token" && known:
				scopes.Store(r.URL.Query().Get("scope"))
				fmt.Fprint(w, `{"token": "T-`+r.URL.Query().Get("scope")+`"}`)
			case r.URL.Path == "/token":
				w.WriteHeader(401)
			case scheme == "Basic" && !known:
				w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
				w.WriteHeader(401)
			case scheme == "Bearer" && !allowed(r):
				w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="test"`, s.url))
				w.WriteHeader(401)
			default:
				next.ServeHTTP(w, r)
			}
		})
		t.Setenv("DOCKER_CONFIG", t.TempDir())
		_, err := oci.Push(t.Context(), s.host+"/toy:1", []*oci.File{file}, pushing())
		sentence(t, withoutURL(err), fault.Permission, "denies access with status 401: log in with docker login, podman login or skopeo login")
		withLogin(t, s.host, "u", "wrong")
		_, err = oci.Push(t.Context(), s.host+"/toy:1", []*oci.File{file}, pushing())
		sentence(t, withoutURL(err), fault.Permission, "denies access with status 401")
		withLogin(t, s.host, "u", "p")
		_, err = oci.Push(t.Context(), s.host+"/toy:1", []*oci.File{file}, pushing())
		must(t, err)
		if got := scopes.Load(); scheme == "Bearer" && got != "repository:toy:push,pull" {
			t.Errorf("the scope of a push is %v", got)
		}
		_, err = oci.Pull(t.Context(), s.host+"/toy:1", pulling(t.TempDir()))
		must(t, err)
		if got := scopes.Load(); scheme == "Bearer" && got != "repository:toy:pull" {
			t.Errorf("the scope of a pull is %v", got)
		}
	}
}

// allowed reports whether a request has a token that allows it.
func allowed(r *http.Request) bool {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer T-repository:toy:")
	return ok && (token == "push,pull" || token == "pull" && (r.Method == "GET" || r.Method == "HEAD"))
}

// withoutURL removes the realm from an error, which names it.
func withoutURL(err error) error {
	if err == nil {
		return nil
	}
	return fault.New(fault.Kind(err), "%s", strings.ReplaceAll(err.Error(), "http://", ""))
}

// Storage that a registry redirects to gets no login.
func TestStorageGetsNoLogin(t *testing.T) {
	dir := t.TempDir()
	file := saved(t, filepath.Join(dir, "x.img.zst"), "sd")
	s := newServer(t)
	var seen, asked atomic.Int64
	storage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.Header.Get("Authorization") != "" {
			seen.Add(1)
		}
		w.Write(fetch(t, s.url+r.URL.Path))
	}))
	defer storage.Close()
	_, err := oci.Push(t.Context(), s.host+"/toy:1", []*oci.File{file}, pushing())
	must(t, err)
	withLogin(t, s.host, "u", "p")
	s.set(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		user, _, ok := r.BasicAuth()
		switch {
		case !ok && r.Header.Get("Accept-Encoding") == "gzip": // fetch, for the storage
			next.ServeHTTP(w, r)
		case user != "u":
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(401)
		case strings.Contains(r.URL.Path, "/blobs/"):
			http.Redirect(w, r, storage.URL+r.URL.Path, http.StatusTemporaryRedirect)
		default:
			next.ServeHTTP(w, r)
		}
	})
	got := t.TempDir()
	_, err = oci.Pull(t.Context(), s.host+"/toy:1", pulling(got))
	must(t, err)
	sameFiles(t, got, dir, "x.img.zst", "x.img.zst.bmap", "x.img.zst.manifest.json")
	if seen.Load() > 0 || asked.Load() == 0 {
		t.Errorf("%d of %d requests to the storage had a login", seen.Load(), asked.Load())
	}
}

// A certificate that is not valid is the error, also if plain HTTP is tried next.
func TestInvalidCertificate(t *testing.T) {
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	defer s.Close()
	_, err := oci.Find(t.Context(), "oci://"+s.Listener.Addr().String()+"/toy:1", oci.Options{Network: hasty})
	sentence(t, err, fault.Input, "certificate")
}
