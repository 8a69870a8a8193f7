package main

import (
	"os"
	"path/filepath"
	"testing"

	"imgtool/image/imagetest"
	"imgtool/image/volume"
)

// Of an earlier image on a web server only its root file system is fetched, and the new image is
// the same as from a file.
func TestBuildLikeImageOnWebServer(t *testing.T) {
	imagetest.Long(t)
	dir := t.TempDir()
	twoBuilds(t, dir, 12)
	imgtool(t, "build", "--board", "rock64", "--inputs", filepath.Join(dir, "in"), "--rootfs", filepath.Join(dir, "root"), "--like", filepath.Join(dir, "old.img.zst"), "-o", filepath.Join(dir, "want.img"))
	want := read(t, filepath.Join(dir, "want.img"))
	imgtool(t, "flash", "-y", "-i", filepath.Join(dir, "old.img.zst"), sparseFile(t, filepath.Join(dir, "old.img"), 4_000_000_000))
	old := openArtifact(t, filepath.Join(dir, "old.img.zst"))
	part, used := old.Manifest.Partitions[1], int64(0)
	l, err := volume.ParsePlace(filepath.Join(dir, "old.img.zst")+":rootfs-a").Open(t.Context(), volume.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Source.Close()
	fs, err := l.FileSystem()
	if err != nil {
		t.Fatal(err)
	}
	used = fs.Squashfs.BytesUsed
	pieces := old.Manifest.Pieces[:0:0]
	for _, p := range old.Manifest.Pieces {
		if p.Off < part.Off+used && p.Off+p.Len > part.Off {
			pieces = append(pieces, p)
		}
	}
	packed := int64(0)
	for _, s := range old.FileSpans(pieces) {
		packed += s.Len
	}
	url, sent := nginx(t, dir)
	for name, size := range map[string]int64{"old.img": used, "old.img.zst": packed} {
		out := filepath.Join(dir, "got.img")
		imgtool(t, "build", "--board", "rock64", "--inputs", filepath.Join(dir, "in"), "--rootfs", filepath.Join(dir, "root"), "--like", url+"/"+name, "-o", out)
		if got := read(t, out); string(got) != string(want) {
			t.Errorf("%s: the image is not the same as with a file", name)
		}
		os.Remove(out)
		n, responses := sent()
		t.Logf("%s: %d bytes of the root file system, %d bytes sent by nginx in %d responses", name, size, n, responses)
		// Of a raw image, up to 4 MiB are read ahead.
		if n > size*11/10+5<<20 {
			t.Errorf("%s: nginx sent %d bytes, want at most a tenth and 5 MiB more than %d", name, n, size)
		}
	}
}
