package deploy_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"imgtool/flash/deploy"
	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/fault"
	"imgtool/image/gpt"
	"imgtool/image/imagetest"
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

// corruptions are files to change: the file of an image, or a file beside it.
var corruptions = []struct {
	image, beside string
	count         int                             // with SOAK=1
	prepare       func(t *testing.T, path string) // nil, or changes the image before
}{
	{"x.img.zst", "", 4000, attachDocuments},
	{"x.img.xz", "", 2000, nil},
	{"x.img.gz", "", 1500, nil},
	{"x.img", "", 1500, nil},
	{"x.img", ".manifest.json", 1000, nil},
}

func attachDocuments(t *testing.T, path string) {
	for name, text := range map[string]string{artifact.SBOM: "{}", artifact.Signature: "-----BEGIN SSH SIGNATURE-----", artifact.Provenance: strings.Repeat("{}", 3000)} {
		if err := artifact.Attach(t.Context(), path, name, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
}

// flashFile writes an image to a disk as imgtool flash does.
func flashFile(t *testing.T, path, disk string) error {
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

// A corrupt image is refused as such, and leaves the disk unchanged. A change that is no
// corruption of what is written, as in the header of a gzip file, gives the disk of the whole
// image.
func TestCorruptImagesAreNotWritten(t *testing.T) {
	for _, c := range corruptions {
		t.Run(c.image+c.beside, func(t *testing.T) {
			count := c.count / 80
			if os.Getenv("SOAK") != "" {
				count = c.count
			}
			r := imagetest.Random(t)
			path := corruptible(t, c.image)
			if c.prepare != nil {
				c.prepare(t, path)
			}
			whole, err := os.ReadFile(path + c.beside)
			if err != nil {
				t.Fatal(err)
			}
			disk := filepath.Join(t.TempDir(), "disk")
			old := bytes.Repeat([]byte{0xA5}, 12*mib)
			writeFile(t, disk, old)
			if err := flashFile(t, path, disk); err != nil {
				t.Fatal(err)
			}
			want := imagetest.Read(t, disk)
			writeFile(t, disk, old)
			for range count {
				b, how := imagetest.Corrupt(r, whole)
				if bytes.Equal(b, whole) {
					continue
				}
				writeFile(t, path+c.beside, b)
				err := flashFile(t, path, disk)
				got := imagetest.Read(t, disk)
				switch {
				case err == nil && !bytes.Equal(got, want):
					t.Errorf("%s: it is written", how)
				case err == nil && c.image == "x.img.zst":
					t.Errorf("%s: it is not found", how)
				case err != nil && !bytes.Equal(got, old):
					t.Errorf("%s: the disk was touched before this was found: %v", how, err)
				case err != nil && fault.Kind(err) != fault.Corrupt:
					t.Errorf("%s: the error has the kind %q: %v", how, fault.Kind(err), err)
				}
				if !bytes.Equal(got, old) {
					writeFile(t, disk, old)
				}
			}
		})
	}
}

func writeFile(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}
