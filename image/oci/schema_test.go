package oci_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"imgtool/image/artifact"
	"imgtool/image/imagetest"
	"imgtool/image/oci"
)

func digestOf(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

// schemas compiles the JSON schemas of the OCI image specification.
func schemas(t testing.TB) func(name string, doc []byte) {
	t.Helper()
	out, err := exec.Command(imagetest.Need(t, "go"), "mod", "download", "-json", "github.com/opencontainers/image-spec@v1.1.1").Output()
	if err != nil {
		imagetest.Skip(t, "the OCI image specification cannot be downloaded: %v", err)
	}
	var about struct{ Dir string }
	must(t, json.Unmarshal(out, &about))
	c := jsonschema.NewCompiler()
	c.UseLoader(files(filepath.Join(about.Dir, "schema")))
	return func(name string, doc []byte) {
		t.Helper()
		s, err := c.Compile("https://opencontainers.org/schema/image/" + name)
		must(t, err)
		value, err := jsonschema.UnmarshalJSON(bytes.NewReader(doc))
		must(t, err)
		if err := s.Validate(value); err != nil {
			t.Errorf("%s: %v\n%s", name, err, doc)
		}
	}
}

// files loads schemas, which name each other by URLs, from a directory.
type files string

func (dir files) Load(url string) (any, error) {
	b, err := os.ReadFile(filepath.Join(string(dir), path.Base(url)))
	if err != nil {
		return nil, err
	}
	return jsonschema.UnmarshalJSON(bytes.NewReader(b))
}

// Everything that is stored is valid by the schemas of the specification, as a plain HTTP client
// sees it.
func TestManifestsAreValid(t *testing.T) {
	valid := schemas(t)
	dir := t.TempDir()
	var images []*oci.File
	for _, m := range []string{"sd", "nvme"} {
		name := filepath.Join(dir, "x-"+m+".img.zst")
		f := saved(t, name, m)
		must(t, os.WriteFile(artifact.SBOMPath(name), []byte("{}"), 0o644))
		images = append(images, f)
	}
	for _, api := range []bool{true, false} {
		s := newServer(t, registry.WithReferrersSupport(api))
		opt := pushing()
		opt.Annotations = map[string]string{"org.opencontainers.image.revision": "abc"}
		_, err := oci.Push(t.Context(), s.host+"/toy:1", images, opt)
		must(t, err)
		index := s.fetch(t, "toy/manifests/1")
		valid("image-index-schema.json", index)
		top := object(t, index)
		if top["artifactType"] != oci.ArtifactType || top["annotations"].(map[string]any)["org.opencontainers.image.revision"] != "abc" {
			t.Errorf("%s", index)
		}
		n := 0
		for _, d := range top["manifests"].([]any) {
			n += checkImage(t, s, valid, d.(map[string]any), api)
		}
		if n != 6 {
			t.Errorf("%d files belong to the images, not 6", n)
		}
	}
}

// checkImage checks the manifest of an image that an entry of an index names, and returns the
// number of files that belong to it.
func checkImage(t *testing.T, s *server, valid func(string, []byte), entry map[string]any, api bool) int {
	t.Helper()
	digest := entry["digest"].(string)
	raw := s.fetch(t, "toy/manifests/"+digest)
	if digestOf(raw) != digest || entry["platform"].(map[string]any)["architecture"] != "arm64" {
		t.Errorf("%v: %s", entry, raw)
	}
	valid("image-manifest-schema.json", raw)
	m := object(t, raw)
	config := s.fetch(t, "toy/blobs/"+m["config"].(map[string]any)["digest"].(string))
	valid("config-schema.json", config)
	if c := object(t, config); c["os"] != "linux" || c["architecture"] != "arm64" || c["created"] != "2026-01-01T00:00:00Z" {
		t.Errorf("%s", config)
	}
	layer := m["layers"].([]any)[0].(map[string]any)
	if layer["mediaType"] != "application/vnd.imgtool.image.layer.v1.raw+zstd" || digestOf(s.fetch(t, "toy/blobs/"+layer["digest"].(string))) != layer["digest"] {
		t.Errorf("%v", layer)
	}
	list := "toy/referrers/" + digest
	if !api {
		list = "toy/manifests/" + strings.Replace(digest, ":", "-", 1)
	}
	index := s.fetch(t, list)
	valid("image-index-schema.json", index)
	parts := object(t, index)["manifests"].([]any)
	for _, p := range parts {
		raw := s.fetch(t, "toy/manifests/"+p.(map[string]any)["digest"].(string))
		valid("image-manifest-schema.json", raw)
		part := object(t, raw)
		if part["subject"].(map[string]any)["digest"] != digest {
			t.Errorf("%s", raw)
		}
		blob := s.fetch(t, "toy/blobs/"+part["layers"].([]any)[0].(map[string]any)["digest"].(string))
		if part["artifactType"] == "application/vnd.imgtool.manifest.v1+json" {
			if want := layer["annotations"].(map[string]any)["vnd.imgtool.manifest.sha256"]; "sha256:"+want.(string) != digestOf(blob) {
				t.Errorf("the layer names the manifest %s, and it is %s", want, digestOf(blob))
			}
		}
	}
	return len(parts)
}
