package source_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/compression"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"imgtool/image/fault"
	"imgtool/image/imagetest"
	"imgtool/image/source"
	"imgtool/image/tree/hostfs"
)

// layerOf returns a layer with files: PATH/ (directory), PATH=DATA, PATH->TARGET (symbolic
// link), PATH==TARGET (hard link).
func layerOf(t testing.TB, lines ...string) v1.Layer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, l := range lines {
		h := &tar.Header{Mode: 0o644, ModTime: time.Unix(1, 0)}
		data := ""
		if path, target, ok := strings.Cut(l, "->"); ok {
			h.Typeflag, h.Name, h.Linkname = tar.TypeSymlink, path, target
		} else if path, target, ok := strings.Cut(l, "=="); ok {
			h.Typeflag, h.Name, h.Linkname = tar.TypeLink, path, target
		} else if path, d, ok := strings.Cut(l, "="); ok {
			h.Typeflag, h.Name, data = tar.TypeReg, path, d
			h.Size = int64(len(d))
		} else {
			h.Typeflag, h.Name, h.Mode = tar.TypeDir, l, 0o755
		}
		must(t, w.WriteHeader(h))
		w.Write([]byte(data))
	}
	must(t, w.Close())
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil }, tarball.WithMediaType(types.OCILayer))
	must(t, err)
	return l
}

func imageOf(t testing.TB, arch string, layers ...v1.Layer) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON), layers...)
	must(t, err)
	c, err := img.ConfigFile()
	must(t, err)
	c = c.DeepCopy()
	c.OS, c.Architecture = "linux", arch
	img, err = mutate.ConfigFile(img, c)
	must(t, err)
	return img
}

func layoutOf(t testing.TB, img v1.Image, opts ...layout.Option) string {
	t.Helper()
	d := t.TempDir() + "/layout"
	l, err := layout.Write(d, empty.Index)
	must(t, err)
	must(t, l.AppendImage(img, opts...))
	return d
}

func server(t testing.TB, wrap func(http.Handler) http.Handler) string {
	h := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	if wrap != nil {
		h = wrap(h)
	}
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return strings.Replace(strings.TrimPrefix(s.URL, "http://"), "127.0.0.1", "localhost", 1)
}

func TestContainerImageSources(t *testing.T) {
	dir, tarPath := rootfs(t)
	o := opener(t, source.Options{})
	want, err := o.Root(t.Context(), dir)
	must(t, err)

	gz, err := tarball.LayerFromFile(tarPath, tarball.WithMediaType(types.OCILayer))
	must(t, err)
	img := imageOf(t, "arm64", gz, layerOf(t, "etc/extra=x"), layerOf(t, "etc/.wh.extra="))
	d := layoutOf(t, img, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": "v1"}))
	digest, err := img.Digest()
	must(t, err)
	config, err := img.ConfigName()
	must(t, err)
	oci, docker := "oci "+digest.String(), "docker "+config.String()
	refs := map[string]string{d: oci, "oci:" + d: oci, "oci:" + d + ":v1": oci}

	archive := t.TempDir() + "/oci.tar"
	imagetest.Run(t, "tar", "-cf", archive, "-C", d, ".")
	refs[archive], refs["oci:"+archive], refs[compress(t, "gzip", archive)] = oci, oci, oci

	host := server(t, nil)
	ref, err := name.ParseReference(host + "/team/rootfs:v1")
	must(t, err)
	must(t, remote.Write(ref, img))
	for _, r := range []string{"docker://" + ref.Name(), "oci://" + ref.Name(), ref.Name(), host + "/team/rootfs@" + digest.String()} {
		refs[r] = oci
	}

	saved := t.TempDir() + "/saved.tar"
	must(t, tarball.WriteToFile(saved, ref, img))
	refs[saved], refs["oci:"+saved+":v1"] = docker, docker

	// Compare with other tools.
	imagetest.Need(t, "skopeo")
	for _, form := range []string{"docker-archive", "oci-archive"} {
		path := t.TempDir() + "/" + form
		imagetest.Run(t, "skopeo", "copy", "--quiet", "--insecure-policy", "--override-arch=arm64", "oci:"+d+":v1", form+":"+path+":local/x:v1")
		refs[path] = docker
		if form == "oci-archive" {
			refs[path] = oci
		}
	}
	for _, format := range []string{"gzip", "zstd"} {
		path := t.TempDir()
		imagetest.Run(t, "skopeo", "copy", "--quiet", "--insecure-policy", "--override-arch=arm64", "--dest-compress", "--dest-compress-format="+format, "oci:"+d+":v1", "oci:"+path+":v2")
		refs[path] = "" // a separate manifest
	}
	plain, err := tarball.LayerFromFile(tarPath, tarball.WithCompression(compression.None), tarball.WithMediaType(types.OCIUncompressedLayer))
	must(t, err)
	refs[layoutOf(t, imageOf(t, "arm64", plain))] = ""
	old, err := mutate.AppendLayers(empty.Image, gz) // Docker's media types
	must(t, err)
	refs[layoutOf(t, old)] = ""
	zst, err := tarball.LayerFromFile(tarPath, tarball.WithCompression(compression.ZStd), tarball.WithMediaType(types.OCILayerZStd))
	must(t, err)
	refs[layoutOf(t, imageOf(t, "arm64", zst))] = ""

	for r, origin := range refs {
		got, err := o.Root(t.Context(), r)
		if err != nil {
			t.Errorf("%s: %v", r, err)
			continue
		}
		if got.Digest != want.Digest {
			t.Errorf("%s: %s", r, cmp.Diff(dump(t, want.Tree), dump(t, got.Tree)))
		}
		if origin != "" && got.Origin != origin || !strings.Contains(got.Origin, " sha256:") {
			t.Errorf("%s: origin %s, want %s", r, got.Origin, origin)
		}
	}
}

func TestLayersEqualUmoci(t *testing.T) {
	imagetest.NeedRoot(t)
	imagetest.Need(t, "umoci")
	img := imageOf(t, "arm64",
		layerOf(t, "usr/", "usr/bin/", "bin->usr/bin", "usr/bin/a=1", "a=1", "b==a", "c==a", "w=1", "v==w", "d/", "d/x=1", "d/y/", "d/y/z=1", "f=1", "g/", "g/h=1", "o/", "o/p=1", "o/q/", "o/q/r=1"),
		layerOf(t, "a=2", ".wh.w=", "d/", "d/.wh.x=", "f/", "f/x=2", "g=2", "o/", "o/.wh..wh..opq=", "o/new=2"),
		layerOf(t, "usr/bin/c=3", "e==c", "d/", "d/.wh.y=", "d/y=3"))
	d := layoutOf(t, img, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": "x"}))
	bundle := t.TempDir() + "/bundle"
	imagetest.Run(t, "umoci", "unpack", "--image", d+":x", bundle)
	want, err := hostfs.Read(bundle+"/rootfs", true, 0)
	must(t, err)
	o := opener(t, source.Options{})
	got, err := o.Root(t.Context(), d)
	must(t, err)
	if d := cmp.Diff(dump(t, want), dump(t, got.Tree)); d != "" {
		t.Error(d)
	}
}

func TestPlatformIsChosen(t *testing.T) {
	add := func(idx v1.ImageIndex, arch, variant, os string, note string) v1.ImageIndex {
		d := v1.Descriptor{Platform: &v1.Platform{OS: os, Architecture: arch, Variant: variant}}
		if note != "" {
			d.Annotations = map[string]string{"vnd.docker.reference.type": note}
		}
		return mutate.AppendManifests(idx, mutate.IndexAddendum{Add: imageOf(t, arch, layerOf(t, "arch="+arch+variant+os)), Descriptor: d})
	}
	idx := add(empty.Index, "amd64", "", "linux", "")
	idx = add(idx, "arm64", "v8", "linux", "")
	idx = add(idx, "arm64", "", "windows", "")
	idx = add(idx, "unknown", "", "unknown", "attestation-manifest")
	idx = add(idx, "arm", "v6", "linux", "")
	idx = add(idx, "arm", "v7", "linux", "")
	nested := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: idx})

	d := t.TempDir()
	_, err := layout.Write(d+"/flat", idx)
	must(t, err)
	_, err = layout.Write(d+"/nested", nested)
	must(t, err)
	_, err = layout.Write(d+"/none", empty.Index)
	must(t, err)
	host := server(t, nil)
	ref, err := name.ParseReference(host + "/multi:latest")
	must(t, err)
	must(t, remote.WriteIndex(ref, idx))
	for _, r := range []string{d + "/flat", d + "/nested", ref.Name(), "docker://" + host + "/multi"} {
		for arch, want := range map[string]string{"arm64": "arm64v8linux", "amd64": "amd64linux", "arm": "armv7linux"} {
			o := opener(t, source.Options{Arch: arch})
			root, err := o.Root(t.Context(), r)
			if err != nil {
				t.Errorf("%s for %s: %v", r, arch, err)
				continue
			}
			if got := contents(t, root.Tree.Lookup("arch").Content); got != want {
				t.Errorf("%s for %s: %s", r, arch, got)
			}
		}
		o := opener(t, source.Options{Arch: "riscv64"})
		_, err := o.Root(t.Context(), r)
		if want := ": no image for linux/riscv64, only for linux/amd64, linux/arm64/v8, windows/arm64, linux/arm/v6, linux/arm/v7"; err == nil || err.Error() != r+want {
			t.Errorf("%v\nwant %s%s", err, r, want)
		}
	}
	o := opener(t, source.Options{})
	if _, err := o.Root(t.Context(), d+"/none"); err == nil || !strings.HasSuffix(err.Error(), "no images in the index") {
		t.Error(err)
	}
	lone := layoutOf(t, imageOf(t, "amd64", layerOf(t, "a=1")))
	var warned string
	o = opener(t, source.Options{Arch: "arm64", Warn: func(s string) { warned = s }})
	if _, err := o.Root(t.Context(), lone); err != nil || warned != lone+": the image says it is for amd64, the board is arm64: it is used anyway" {
		t.Errorf("%v, warned %q", err, warned)
	}
}

func TestTagIsChosen(t *testing.T) {
	d := t.TempDir()
	l, err := layout.Write(d, empty.Index)
	must(t, err)
	for _, tag := range []string{"a", "b"} {
		must(t, l.AppendImage(imageOf(t, "arm64", layerOf(t, "tag="+tag)), layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": tag})))
	}
	o := opener(t, source.Options{Dir: filepath.Dir(d)})
	base := filepath.Base(d)
	r, err := o.Root(t.Context(), "oci:"+base+":b")
	must(t, err)
	if got := contents(t, r.Tree.Lookup("tag").Content); got != "b" {
		t.Error(got)
	}
	for ref, want := range map[string]string{
		base:                 base + ": several images: choose one: oci:" + base + ":a, oci:" + base + ":b",
		"oci:" + base + ":c": "oci:" + base + ":c: there is no image c, only oci:" + base + ":a, oci:" + base + ":b",
	} {
		if _, err := o.Root(t.Context(), ref); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
	saved := t.TempDir() + "/two.tar"
	one, err := name.NewTag("local/x:one")
	must(t, err)
	two, err := name.NewTag("local/x:two")
	must(t, err)
	must(t, tarball.MultiWriteToFile(saved, map[name.Tag]v1.Image{one: imageOf(t, "arm64", layerOf(t, "tag=1")), two: imageOf(t, "arm64", layerOf(t, "tag=2"))}))
	if _, err := o.Root(t.Context(), saved); err == nil || !strings.Contains(err.Error(), ": several images: choose one: oci:"+saved+":local/x:one, oci:"+saved+":local/x:two") {
		t.Error(err)
	}
	if r, err := o.Root(t.Context(), "oci:"+saved+":two"); err != nil || contents(t, r.Tree.Lookup("tag").Content) != "2" {
		t.Error(r, err)
	}
}

// blob returns the path of a blob in a layout.
func blob(d string, h v1.Hash) string { return filepath.Join(d, "blobs", h.Algorithm, h.Hex) }

func TestEveryDigestIsVerified(t *testing.T) {
	noise := strings.Repeat("layer two\n", 3000)
	gz := layerOf(t, "b="+noise)
	plainData := layerOf(t, "c="+noise)
	plain, err := tarball.LayerFromOpener(plainData.Uncompressed, tarball.WithCompression(compression.None), tarball.WithMediaType(types.OCIUncompressedLayer))
	must(t, err)
	img := imageOf(t, "arm64", layerOf(t, "a=1"), gz, plain)
	m, err := img.Manifest()
	must(t, err)
	digest, err := img.Digest()
	must(t, err)
	parts := map[string]v1.Hash{"manifest": digest, "config": m.Config.Digest, "layer 1": m.Layers[0].Digest, "layer 2": m.Layers[1].Digest, "layer 3": m.Layers[2].Digest}
	o := opener(t, source.Options{})

	damages := map[string]func(data []byte) []byte{
		"flipped":  func(data []byte) []byte { data = bytes.Clone(data); data[len(data)/2] ^= 4; return data },
		"header":   func(data []byte) []byte { data = bytes.Clone(data); data[0] ^= 1; return data },
		"shorter":  func(data []byte) []byte { return data[:len(data)-3] },
		"longer":   func(data []byte) []byte { return append(bytes.Clone(data), ' ') },
		"replaced": func([]byte) []byte { return []byte("{}") },
	}
	check := func(what string, ref, part string, h v1.Hash, err error) {
		t.Helper()
		if !corrupt(err) || !strings.HasPrefix(err.Error(), ref+": "+part+": ") {
			t.Errorf("%s %s: %v", part, what, err)
			return
		}
		if what != "longer" && (!strings.Contains(err.Error(), h.String()) || strings.Count(strings.TrimPrefix(err.Error(), ref), "sha256:") != 2) {
			t.Errorf("%s %s: %v: not both digests", part, what, err)
		}
	}
	for part, h := range parts {
		for what, damage := range damages {
			d := layoutOf(t, img)
			data, err := os.ReadFile(blob(d, h))
			must(t, err)
			must(t, os.Remove(blob(d, h))) // it is read-only
			write(t, blob(d, h), string(damage(data)))
			_, err = o.Root(t.Context(), d)
			check(what, d, part, h, err)

			archive := t.TempDir() + "/x.tar"
			imagetest.Run(t, "tar", "-cf", archive, "-C", d, ".")
			_, err = o.Root(t.Context(), archive)
			check(what, archive, part, h, err)
		}
		d := layoutOf(t, img)
		must(t, os.Remove(blob(d, h)))
		_, err := o.Root(t.Context(), d)
		if want := fmt.Sprintf("%s: %s: %s is missing", d, part, h); !corrupt(err) || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}

	// A registry that sends other content.
	for part, h := range parts {
		for what, damage := range damages {
			host := server(t, func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.Method != "GET" || !strings.HasSuffix(r.URL.Path, h.String()) {
						next.ServeHTTP(w, r)
						return
					}
					rec := httptest.NewRecorder()
					next.ServeHTTP(rec, r)
					w.Header().Set("Content-Type", rec.Header().Get("Content-Type"))
					w.Write(damage(rec.Body.Bytes()))
				})
			})
			ref := host + "/x@" + digest.String()
			tag, err := name.ParseReference(host + "/x:1")
			must(t, err)
			must(t, remote.Write(tag, img))
			_, err = o.Root(t.Context(), ref)
			check(what, ref, part, h, err)
		}
	}

	// The right bytes, but other diff IDs in the config.
	c, err := img.ConfigFile()
	must(t, err)
	for i := range m.Layers {
		wrong := c.DeepCopy()
		wrong.RootFS.DiffIDs[i] = digest
		d := layoutOf(t, imageWith(t, img, wrong))
		_, err = o.Root(t.Context(), d)
		if !corrupt(err) || !strings.HasPrefix(err.Error(), fmt.Sprintf("%s: layer %d: its diff id is %s, not %s", d, i+1, c.RootFS.DiffIDs[i], digest)) {
			t.Error(err)
		}
	}
	fewer := c.DeepCopy()
	fewer.RootFS.DiffIDs = fewer.RootFS.DiffIDs[:2]
	d := layoutOf(t, imageWith(t, img, fewer))
	if _, err = o.Root(t.Context(), d); !corrupt(err) || !strings.HasSuffix(err.Error(), "3 layers in the manifest, 2 in the config") {
		t.Error(err)
	}
}

// imageWith returns img with another config and a matching manifest.
func imageWith(t testing.TB, img v1.Image, c *v1.ConfigFile) v1.Image {
	t.Helper()
	raw, err := json.Marshal(c)
	must(t, err)
	m, err := img.Manifest()
	must(t, err)
	m = m.DeepCopy()
	h, n, err := v1.SHA256(bytes.NewReader(raw))
	must(t, err)
	m.Config.Digest, m.Config.Size = h, n
	mraw, err := json.Marshal(m)
	must(t, err)
	return edited{img, raw, mraw}
}

type edited struct {
	v1.Image
	config, manifest []byte
}

func (e edited) RawConfigFile() ([]byte, error) { return e.config, nil }
func (e edited) RawManifest() ([]byte, error)   { return e.manifest, nil }
func (e edited) Manifest() (*v1.Manifest, error) {
	return v1.ParseManifest(bytes.NewReader(e.manifest))
}
func (e edited) Digest() (v1.Hash, error) {
	h, _, err := v1.SHA256(bytes.NewReader(e.manifest))
	return h, err
}
func (e edited) ConfigName() (v1.Hash, error) {
	h, _, err := v1.SHA256(bytes.NewReader(e.config))
	return h, err
}
func (e edited) Size() (int64, error) { return int64(len(e.manifest)), nil }
func (e edited) ConfigFile() (*v1.ConfigFile, error) {
	return v1.ParseConfigFile(bytes.NewReader(e.config))
}

func TestDockerArchiveIsVerified(t *testing.T) {
	ref, err := name.NewTag("local/x:one")
	must(t, err)
	img := imageOf(t, "arm64", layerOf(t, "a=1"), layerOf(t, "b="+strings.Repeat("x", 9000)))
	d := t.TempDir()
	must(t, tarball.WriteToFile(d+"/good.tar", ref, img))
	x := d + "/x"
	must(t, os.Mkdir(x, 0o755))
	imagetest.Run(t, "tar", "-xf", d+"/good.tar", "-C", x)
	layers, err := filepath.Glob(x + "/*.tar.gz")
	must(t, err)
	configs, err := filepath.Glob(x + "/sha256:*")
	must(t, err)
	if len(layers) != 2 || len(configs) != 1 {
		t.Fatal(layers, configs)
	}
	o := opener(t, source.Options{})
	for _, path := range append(layers, configs...) {
		data, err := os.ReadFile(path)
		must(t, err)
		for _, bad := range []string{string(data[:len(data)/2]) + "?" + string(data[len(data)/2+1:]), string(data[:len(data)-9]), string(data) + " ", ""} {
			write(t, path, bad)
			imagetest.Run(t, "tar", "-cf", d+"/bad.tar", "-C", x, ".")
			if _, err := o.Root(t.Context(), d+"/bad.tar"); !corrupt(err) {
				t.Errorf("%s: %v", filepath.Base(path), err)
			}
		}
		must(t, os.Remove(path))
		imagetest.Run(t, "tar", "-cf", d+"/bad.tar", "-C", x, ".")
		if _, err := o.Root(t.Context(), d+"/bad.tar"); !corrupt(err) || !strings.HasSuffix(err.Error(), " is missing") {
			t.Errorf("%s: %v", filepath.Base(path), err)
		}
		write(t, path, string(data))
	}
	imagetest.Run(t, "tar", "-cf", d+"/bad.tar", "-C", x, ".")
	_, err = o.Root(t.Context(), d+"/bad.tar")
	must(t, err)
}

func TestRegistryErrors(t *testing.T) {
	host := server(t, nil)
	noise := make([]byte, 3<<20) // more than is read at once
	rand.NewChaCha8([32]byte{}).Read(noise)
	img := imageOf(t, "arm64", layerOf(t, "a="+hex.EncodeToString(noise)))
	ref, err := name.ParseReference(host + "/x:1")
	must(t, err)
	must(t, remote.Write(ref, img))
	o := opener(t, source.Options{})
	_, err = o.Root(t.Context(), host+"/x:2")
	if err == nil || corrupt(err) || !strings.HasPrefix(err.Error(), host+"/x:2: ") || !strings.Contains(err.Error(), "/x has no manifest 2 (status 404)") {
		t.Error(err)
	}
	artifact := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), "application/vnd.oci.empty.v1+json")
	artifact, err = mutate.Append(artifact, mutate.Addendum{Layer: layerOf(t, "a=1"), MediaType: "application/vnd.example.disk"})
	must(t, err)
	if _, err = o.Root(t.Context(), layoutOf(t, artifact)); err == nil || !strings.HasSuffix(err.Error(), "not a root file system, but application/vnd.example.disk") {
		t.Error(err)
	}
	// A closed connection is not corruption.
	layers, err := img.Layers()
	must(t, err)
	h, err := layers[0].Digest()
	must(t, err)
	broken := server(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == "GET" && strings.HasSuffix(r.URL.Path, h.String()) {
				rec := httptest.NewRecorder()
				r.Header.Del("Range")
				next.ServeHTTP(rec, r)
				w.Header().Set("Content-Length", fmt.Sprint(rec.Body.Len()))
				w.Write(rec.Body.Bytes()[:rec.Body.Len()*2/3])
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	ref, err = name.ParseReference(broken + "/x:1")
	must(t, err)
	must(t, remote.Write(ref, img))
	o = opener(t, source.Options{Network: hasty})
	if _, err := o.Root(t.Context(), ref.Name()); corrupt(err) || fault.Kind(err) != fault.Gone {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := o.Root(ctx, ref.Name()); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
