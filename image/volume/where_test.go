package volume_test

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"imgtool/image"
	"imgtool/image/gpt"
	"imgtool/image/imagetest"
	"imgtool/image/volume"
)

// The file and offset of a byte are found in file systems of the usual tools, by content that
// occurs once.
func TestWhereIs(t *testing.T) {
	dir := t.TempDir()
	random := rand.NewChaCha8([32]byte{})
	for _, name := range []string{"a", "etc/b", "z"} {
		data := make([]byte, 3*mib/2)
		random.Read(data)
		path := filepath.Join(dir, "root", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	root := filepath.Join(dir, "root")
	make := map[string]func(path string){
		"fat": func(path string) {
			imagetest.Run(t, "mkfs.fat", "-C", path, "16384")
			imagetest.Run(t, "mcopy", "-i", path, "-s", root+"/a", root+"/etc", root+"/z", "::")
		},
		"ext4":     func(path string) { imagetest.Run(t, "mke2fs", "-q", "-t", "ext4", "-d", root, path, "16M") },
		"squashfs": func(path string) { imagetest.Run(t, "mksquashfs", root, path, "-quiet", "-no-progress") },
	}
	want, err := os.ReadFile(filepath.Join(root, "etc/b"))
	if err != nil {
		t.Fatal(err)
	}
	for kind, write := range make {
		path := filepath.Join(dir, kind)
		write(path)
		fs, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		const start = mib
		img, err := image.New(start+int64(len(fs))+mib, image.Extent{Name: "fs", Off: start, Content: bytes.NewReader(fs)})
		if err != nil {
			t.Fatal(err)
		}
		parts := []gpt.Part{{Number: 1, Name: "first", Off: 0, Len: start}, {Number: 2, Name: "root", Off: start, Len: int64(len(fs))}}
		for _, at := range []int{0, 1, 4095, 4096, 70_001, 1_200_003, len(want) - 16} {
			off := bytes.Index(fs, want[at:at+16])
			if off < 0 {
				t.Fatalf("%s: byte %d is not in it", kind, at)
			}
			w := volume.WhereIs(t.Context(), img, parts, start+int64(off))
			if w.Partition != "root" || w.File != "etc/b" || w.Metadata || w.FileOff != int64(at) && (kind != "squashfs" || w.FileOff != -1) {
				t.Errorf("%s: byte %d: got %+v", kind, at, w)
			}
		}
		if w := volume.WhereIs(t.Context(), img, parts, start+1024+56); kind == "ext4" && (!w.Metadata || w.File != "") {
			t.Errorf("%s: the superblock: got %+v", kind, w)
		}
		if w := volume.WhereIs(t.Context(), img, parts, start+int64(len(fs))+1); w != (volume.Where{FileOff: -1}) {
			t.Errorf("%s: behind it: got %+v", kind, w)
		}
		if w := volume.WhereIs(t.Context(), img, parts, 5); w != (volume.Where{Partition: "first", FileOff: -1}) {
			t.Errorf("%s: in an empty partition: got %+v", kind, w)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if w := volume.WhereIs(ended, img, parts, start+int64(len(fs))/2); w.File != "" || w.Partition != "root" {
			t.Errorf("%s: without time: got %+v", kind, w)
		}
	}
}
