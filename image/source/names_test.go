package source_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"imgtool/image/imagetest"
	"imgtool/image/source"
)

const (
	refName = "org.opencontainers.image.ref.name"
	ctrName = "io.containerd.image.name"
)

// marked returns an image with a file "which" that identifies it.
func marked(t testing.TB, which string) v1.Image {
	return imageOf(t, "arm64", layerOf(t, "which="+which))
}

type noted struct {
	which string
	notes map[string]string
	os    string // of its platform; "" is none
}

// layoutWith returns a layout of images with annotations, and their digests.
func layoutWith(t testing.TB, all ...noted) (dir string, digests map[string]string) {
	t.Helper()
	dir, digests = filepath.Join(t.TempDir(), "l"), map[string]string{}
	l, err := layout.Write(dir, empty.Index)
	must(t, err)
	for _, n := range all {
		img := marked(t, n.which)
		opts := []layout.Option{layout.WithAnnotations(n.notes)}
		if n.os != "" {
			opts = append(opts, layout.WithPlatform(v1.Platform{OS: n.os, Architecture: "arm64"}))
		}
		must(t, l.AppendImage(img, opts...))
		d, err := img.Digest()
		must(t, err)
		digests[n.which] = d.String()
	}
	return dir, digests
}

// chosen returns which image a reference selects, or the error.
func chosen(t testing.TB, ref string) string {
	t.Helper()
	r, err := opener(t, source.Options{Arch: "arm64"}).Root(t.Context(), ref)
	if err != nil {
		return err.Error()
	}
	return contents(t, r.Tree.Lookup("which").Content)
}

func TestImageNamesAsInSkopeo(t *testing.T) {
	full, digests := layoutWith(t, noted{which: "1", notes: map[string]string{refName: "docker.io/library/foo:1"}},
		noted{which: "2", notes: map[string]string{refName: "localhost:5000/team/foo:2"}}, noted{which: "3", notes: map[string]string{refName: "bare"}})
	for name, want := range map[string]string{"docker.io/library/foo:1": "1", "localhost:5000/team/foo:2": "2", "bare": "3"} {
		// Compare with the manifest that skopeo selects.
		raw := imagetest.Run(t, "skopeo", "inspect", "--raw", "oci:"+full+":"+name)
		if d, _, err := v1.SHA256(strings.NewReader(raw)); err != nil || d.String() != digests[want] {
			t.Fatalf("skopeo reads %v for %s: %v", d, name, err)
		}
		if got := chosen(t, "oci:"+full+":"+name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	list := "oci:" + full + ":docker.io/library/foo:1, oci:" + full + ":localhost:5000/team/foo:2, oci:" + full + ":bare"
	for ref, want := range map[string]string{
		"oci:" + full + ":foo:1":             "1", // the same name in Docker's short form
		"oci:" + full + ":2":                 "2", // a tag that one image has
		"oci:" + full + "@" + digests["2"]:   "2",
		"oci:" + full + ":@" + digests["3"]:  "3",
		"oci:" + full + ":@1":                "2",
		"oci:" + full + ":@3":                "oci:" + full + ":@3: there is no image number 3: the 3 images begin with @0",
		full:                                 full + ": several images: choose one: " + list,
		"oci:" + full + ":foo:9":             "oci:" + full + ":foo:9: there is no image foo:9, only " + list,
		"oci:" + full + "x:foo:9":            "stat oci:" + full + "x:foo:9: no such file or directory",
		"oci:" + full + "@sha256:0123456789": "oci:" + full + "@sha256:0123456789: there is no image sha256:0123456789, only " + list,
	} {
		if got := chosen(t, ref); got != want {
			t.Errorf("%s\n%s\nwant %s", ref, got, want)
		}
	}

	// The references in the error message are valid.
	for _, ref := range strings.Split(list, ", ") {
		if got := chosen(t, ref); len(got) != 1 {
			t.Errorf("%s: %s", ref, got)
		}
	}
}

func TestImagesWithSameTag(t *testing.T) {
	d, digests := layoutWith(t, noted{which: "a", notes: map[string]string{refName: "latest", ctrName: "docker.io/library/a:latest"}},
		noted{which: "b", notes: map[string]string{refName: "latest", ctrName: "docker.io/library/b:latest"}})
	ambiguous := ": several images: choose one: oci:" + d + ":docker.io/library/a:latest, oci:" + d + ":docker.io/library/b:latest"
	for name, want := range map[string]string{":docker.io/library/b:latest": "b", ":a:latest": "a", ":b": "b", "@" + digests["b"]: "b", ":latest": "oci:" + d + ":latest" + ambiguous, "": "oci:" + d + ambiguous} {
		if got := chosen(t, "oci:"+d+name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	// An image with two names is not ambiguous.
	d, _ = layoutWith(t, noted{which: "a", notes: map[string]string{refName: "x:1"}}, noted{which: "a", notes: map[string]string{refName: "x:2"}})
	if got := chosen(t, d); got != "a" {
		t.Error(got)
	}
}

func TestFirstImageOfPlatformIsChosen(t *testing.T) {
	d, _ := layoutWith(t, noted{which: "w", os: "windows"}, noted{which: "1", os: "linux"}, noted{which: "2", os: "linux"}, noted{which: "none"})
	if got := chosen(t, d); got != "1" {
		t.Error(got)
	}
	d, _ = layoutWith(t, noted{which: "none"}, noted{which: "1", os: "linux", notes: map[string]string{refName: "x"}}, noted{which: "2", os: "linux", notes: map[string]string{refName: "x"}})
	if got := chosen(t, "oci:"+d+":x"); got != "1" {
		t.Error(got)
	}
}

// saved writes an archive of files by name, as docker save does.
func saved(t testing.TB, files map[string][]byte) string {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, data := range files {
		must(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(data))}))
		w.Write(data)
	}
	must(t, w.Close())
	path := filepath.Join(t.TempDir(), "saved.tar")
	must(t, os.WriteFile(path, b.Bytes(), 0o644))
	return path
}

func TestDockerSaveArchives(t *testing.T) {
	type entry struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	files, ids := map[string][]byte{}, map[string]string{}
	image := func(which string, tags ...string) (*entry, string) {
		img := marked(t, which)
		conf, err := img.RawConfigFile()
		must(t, err)
		id, err := img.ConfigName()
		must(t, err)
		layers, err := img.Layers()
		must(t, err)
		r, err := layers[0].Uncompressed()
		must(t, err)
		data, err := io.ReadAll(r)
		must(t, err)
		files["blobs/sha256/"+id.Hex], files[which+"/layer.tar"] = conf, data
		ids[which] = id.String()
		return &entry{"blobs/sha256/" + id.Hex, tags, []string{which + "/layer.tar"}}, id.String()
	}
	archive := func(list ...any) string {
		data, err := json.Marshal(list)
		must(t, err)
		files["manifest.json"] = data
		return saved(t, files)
	}
	one, oneID := image("1")
	two, twoID := image("2", "local/x:1", "local/x:two")
	three, _ := image("3", "local/x:1")
	for what, c := range map[string]struct{ path, name, want string }{
		"null tags":                   {archive(one), "", "1"},
		"a null image":                {archive(nil, one), "", "1"},
		"by digest":                   {archive(one, two), "@" + twoID, "2"},
		"by digest, without a tag":    {archive(one, two), "@" + oneID, "1"},
		"by number":                   {archive(one, two), ":@1", "2"},
		"one tag twice, the first is": {archive(two, three), ":local/x:1", "2"},
		"one tag twice, other order":  {archive(three, two), ":docker.io/local/x:1", "3"},
		"one image twice":             {archive(two, two), "", "2"},
	} {
		if got := chosen(t, "oci:"+c.path+c.name); got != c.want {
			t.Errorf("%s: %s", what, got)
		}
		if what == "null tags" || strings.HasPrefix(what, "one tag") {
			conf := imagetest.Run(t, "skopeo", "--override-arch=arm64", "inspect", "--raw", "--config", "docker-archive:"+c.path+c.name)
			if id, _, err := v1.SHA256(strings.NewReader(conf)); err != nil || id.String() != ids[c.want] {
				t.Errorf("%s: skopeo takes another: %v", what, err)
			}
		}
	}
	path := archive(one, two)
	if got, want := chosen(t, path), path+": several images: choose one: oci:"+path+"@"+oneID+", oci:"+path+":local/x:1"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}

	// Some versions of Docker write an empty index beside manifest.json.
	files["oci-layout"], files["index.json"] = []byte(`{"imageLayoutVersion":"1.0.0"}`), []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":null}`)
	if got := chosen(t, archive(one)); got != "1" {
		t.Error(got)
	}
}

// A layer without the zeros at the end of a tar is complete if its digest matches.
func TestLayersWithoutTrailer(t *testing.T) {
	imagetest.NeedRoot(t)
	write := func(size int) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		must(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "etc/b", Mode: 0o644, Size: int64(size), ModTime: time.Unix(1, 0)}))
		w.Write(bytes.Repeat([]byte("y"), size))
		return b.Bytes()
	}
	for name, data := range map[string][]byte{
		"no end":               write(512),
		"a file not filled up": write(100)[:612],
		"an empty file":        write(0),
		"one zero block":       append(write(512), make([]byte, 512)...),
	} {
		layer := static.NewLayer(data, types.OCIUncompressedLayer)
		d := layoutOf(t, imageOf(t, "arm64", layerOf(t, "etc/", "etc/a=1"), layer), layout.WithAnnotations(map[string]string{refName: "x"}))
		bundle := filepath.Join(t.TempDir(), "u")
		imagetest.Run(t, "umoci", "unpack", "--image", d+":x", bundle)
		want, err := os.ReadFile(bundle + "/rootfs/etc/b")
		must(t, err)
		r, err := opener(t, source.Options{}).Root(t.Context(), d)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got := ""
		if c := r.Tree.Lookup("etc/b").Content; c != nil {
			got = contents(t, c)
		}
		if got != string(want) {
			t.Errorf("%s: %q, umoci has %q", name, got, want)
		}
	}
	// A layer without some of its data is an error even if the digest matches.
	layer := static.NewLayer(write(512)[:1000], types.OCIUncompressedLayer)
	if _, err := opener(t, source.Options{}).Root(t.Context(), layoutOf(t, imageOf(t, "arm64", layer))); !corrupt(err) || !strings.Contains(err.Error(), "cut short at byte 1000, at etc/b") {
		t.Error(err)
	}
	// A plain tar has no digest: without the zeros it may be cut short.
	path := filepath.Join(t.TempDir(), "x.tar")
	must(t, os.WriteFile(path, write(512), 0o644))
	if _, err := opener(t, source.Options{}).Root(t.Context(), path); !corrupt(err) {
		t.Error(err)
	}
}
