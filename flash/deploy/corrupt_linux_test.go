package deploy_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"imgtool/flash/deploy"
	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/gpt"
	"imgtool/image/volume"
)

// corruptible saves an image with one partition in a form, and returns its path and manifest.
func corruptible(t *testing.T, name string) string {
	t.Helper()
	table := gpt.Table{GUID: "11111111-1111-1111-1111-111111111111", Size: 12 * mib, FirstUsable: gpt.HeadSize, Parts: []gpt.Part{
		{Number: 1, Name: "root", Type: "0FC63DAF-8483-4772-8E79-3D69D8477DE4", GUID: "22222222-2222-2222-2222-222222222222", Off: mib, Len: 10 * mib}}}
	extents, err := table.Extents()
	if err != nil {
		t.Fatal(err)
	}
	content := make([]byte, 9*mib)
	rand.NewChaCha8([32]byte{9}).Read(content[:40_000])
	rand.NewChaCha8([32]byte{8}).Read(content[5*mib:][:30_000])
	img, err := image.New(table.Size, append(extents, image.Extent{Name: "root", Off: mib, Content: bytes.NewReader(content)})...)
	if err != nil {
		t.Fatal(err)
	}
	m := &artifact.Manifest{Board: "test", BuildID: "0123", Floor: 12 * mib, Inputs: []artifact.Input{},
		Partitions: []artifact.Partition{{Number: 1, Name: "root", Type: "linux", GUID: table.Parts[0].GUID, Off: mib, Len: 10 * mib}}}
	path := filepath.Join(t.TempDir(), name)
	if err := artifact.Save(t.Context(), path, img, m, nil); err != nil {
		t.Fatal(err)
	}
	return path
}

// corrupted changes a file as storage, networks and programs do, and says how.
func corrupted(r *rand.Rand, whole []byte) ([]byte, string) {
	b := bytes.Clone(whole)
	at, other, n := r.IntN(len(b)), r.IntN(len(b)), 1+r.IntN(5000)
	switch r.IntN(6) {
	case 0:
		b[at] ^= 1 << r.IntN(8)
		return b, fmt.Sprintf("a bit of byte %d", at)
	case 1:
		b[at], b[other] = b[other], b[at]
		return b, fmt.Sprintf("bytes %d and %d swapped", at, other)
	case 2:
		clear(b[at:min(len(b), at+n)])
		return b, fmt.Sprintf("%d bytes of zeros at %d", n, at)
	case 3:
		return b[:at], fmt.Sprintf("cut at %d", at)
	case 4:
		return slices.Delete(b, at, min(len(b), at+n)), fmt.Sprintf("%d bytes missing at %d", n, at)
	}
	copy(b[at:], b[other:min(len(b), other+n)])
	return b, fmt.Sprintf("%d bytes from %d copied to %d", n, other, at)
}

// A corrupt image leaves the disk unchanged. A change that is no corruption, as in the header
// of a gzip file, gives the disk of the whole image.
func TestCorruptImagesAreNotWritten(t *testing.T) {
	count := 40
	if os.Getenv("SOAK") != "" {
		count = 1500
	}
	old := bytes.Repeat([]byte{0xA5}, 12*mib)
	disk := filepath.Join(t.TempDir(), "disk")
	flashed := func(path string) error {
		s, err := volume.Open(path, volume.Options{})
		if err != nil {
			return err
		}
		defer s.Close()
		d, err := deploy.New(s, deploy.Options{Monitor: &monitor{}, Verify: "full", Delta: "no", Status: func(error) int { return 1 },
			Begin: func() func() { return func() {} }, Done: func(deploy.Receipt) {}})
		if err != nil {
			return err
		}
		defer d.Close()
		return d.Run(t.Context(), []string{disk}, nil)
	}
	for _, name := range []string{"x.img.zst", "x.img.xz", "x.img.gz"} {
		path := corruptible(t, name)
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var want []byte
		r := rand.New(rand.NewPCG(23, 2))
		for i := range count {
			b, how := corrupted(r, whole)
			if i == 0 {
				b, how = whole, "unchanged"
			}
			for p, b := range map[string][]byte{path: b, disk: old} {
				if err := os.WriteFile(p, b, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			err := flashed(path)
			got, readErr := os.ReadFile(disk)
			if readErr != nil {
				t.Fatal(readErr)
			}
			switch {
			case i == 0 && err != nil:
				t.Fatalf("%s: %v", name, err)
			case i == 0:
				want = got
			case err == nil && !bytes.Equal(got, want):
				t.Errorf("%s, %s: it is written", name, how)
			case err != nil && !bytes.Equal(got, old):
				t.Errorf("%s, %s: the disk was touched before this was found: %v", name, how, err)
			case err == nil && name == "x.img.zst" && !bytes.Equal(b, whole):
				t.Errorf("%s, %s: it is not found", name, how)
			}
		}
	}
}
