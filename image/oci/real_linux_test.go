package oci_test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"imgtool/image/imagetest"
	"imgtool/image/oci"
)

// distribution starts Debian's docker-registry, and returns its host and port.
func distribution(t *testing.T) string {
	t.Helper()
	program := imagetest.Need(t, "docker-registry")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	host := l.Addr().String()
	l.Close()
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yml")
	must(t, os.WriteFile(config, []byte(fmt.Sprintf("version: 0.1\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: %q}\nlog: {level: error}\n", dir, host)), 0o644))
	cmd := exec.Command(program, "serve", config)
	must(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for range 4000 {
		resp, err := http.Get("http://" + host + "/v2/")
		if err == nil {
			resp.Body.Close()
			return host
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("docker-registry did not start")
	return ""
}

// A registry and a client that we did not write store, show and copy images, and what comes back
// is what was pushed.
func TestDistributionAndSkopeo(t *testing.T) {
	imagetest.Need(t, "skopeo")
	valid := schemas(t)
	host := distribution(t)
	dir := t.TempDir()
	var files []*oci.File
	var names []string
	for name, medium := range map[string]string{"x-sd.img": "sd", "x-nvme.img.zst": "nvme"} {
		files = append(files, saved(t, filepath.Join(dir, name), medium))
		names = append(names, name, name+".bmap", name+".manifest.json", name+".spdx.json")
		must(t, os.WriteFile(filepath.Join(dir, name+".spdx.json"), []byte("{}"), 0o644))
	}
	done, err := oci.Push(t.Context(), host+"/toy:1", files, pushing())
	must(t, err)
	again, err := oci.Push(t.Context(), host+"/toy:2", files, pushing("latest"))
	must(t, err)
	if again.Uploaded != 0 || again.Digest != done.Digest {
		t.Errorf("a second push uploads %d bytes and has the digest %s, not %s", again.Uploaded, again.Digest, done.Digest)
	}
	s := &server{url: "http://" + host}
	n := 0
	for _, d := range object(t, s.fetch(t, "toy/manifests/latest"))["manifests"].([]any) {
		if layer := object(t, s.fetch(t, "toy/manifests/"+d.(map[string]any)["digest"].(string)))["layers"].([]any)[0].(map[string]any); strings.HasSuffix(layer["mediaType"].(string), "+zstd") {
			n += checkImage(t, s, valid, d.(map[string]any), false)
		}
	}
	if n != 3 {
		t.Errorf("%d files belong to x-nvme.img.zst, not 3", n)
	}

	inspect := imagetest.Run(t, "skopeo", "inspect", "--tls-verify=false", "--override-arch", "arm64", "docker://"+host+"/toy:1")
	for _, want := range []string{`"Created": "2026-01-01T00:00:00Z"`, `"Architecture": "arm64"`, `"Os": "linux"`} {
		if !strings.Contains(inspect, want) {
			t.Errorf("skopeo inspect does not show %s:\n%s", want, inspect)
		}
	}
	got := t.TempDir()
	half, err := os.ReadFile(filepath.Join(dir, "x-sd.img"))
	must(t, err)
	part := filepath.Join(got, "x-sd.img."+strings.TrimPrefix(digestOf(half), "sha256:")[:12]+".part")
	must(t, os.WriteFile(part, half[:len(half)/2], 0o644))
	first, err := oci.Pull(t.Context(), host+"/toy@"+done.Digest, pulling(got))
	must(t, err)
	sameFiles(t, got, dir, names...)
	if n := first[0].Resumed + first[1].Resumed; n != int64(len(half)/2) {
		t.Errorf("resumed after %d bytes, not %d", n, len(half)/2)
	}

	// Copied with skopeo to a layout and back, the files and the digests of the images are the same.
	layout := filepath.Join(t.TempDir(), "layout")
	imagetest.Run(t, "skopeo", "copy", "-q", "--all", "--src-tls-verify=false", "docker://"+host+"/toy:1", "oci:"+layout+":1")
	imagetest.Run(t, "skopeo", "copy", "-q", "--all", "--dest-tls-verify=false", "oci:"+layout+":1", "docker://"+host+"/copy:1")
	copied := t.TempDir()
	pulled, err := oci.Pull(t.Context(), host+"/copy:1", pulling(copied))
	must(t, err)
	sameFiles(t, copied, dir, "x-sd.img", "x-nvme.img.zst")
	for i, p := range pulled {
		if p.Digest != done.Images[i].Digest {
			t.Errorf("%s: the copy has the digest %s, not %s", p.Medium, p.Digest, done.Images[i].Digest)
		}
	}
}
