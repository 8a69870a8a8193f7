package artifact_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"imgtool/image/artifact"
	"imgtool/image/fault"
	"imgtool/image/imagetest"
)

// checked opens an image and checks it.
func checked(t testing.TB, b []byte, sidecar *artifact.Manifest) error {
	o, err := artifact.Open(bytes.NewReader(b), sidecar)
	if err == nil && o.CheckSize() == 0 {
		return errors.New("there is nothing to check")
	}
	if err == nil {
		err = o.Check(t.Context(), nil, nil)
	}
	return err
}

func TestCheckFindsFlippedBits(t *testing.T) {
	imagetest.Long(t)
	path, m := save(t, "x.img.zst")
	b := imagetest.Read(t, path)
	if err := checked(t, b, nil); err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	var places []int
	for at := 0; at < 64; at++ {
		places = append(places, at)
	}
	for at := 64; at < 4000; at += 29 {
		places = append(places, at)
	}
	for at := len(b) - 300; at < len(b); at++ {
		places = append(places, at)
	}
	for range 60 {
		places = append(places, rng.IntN(len(b)))
	}
	for _, at := range places {
		damaged := bytes.Clone(b)
		damaged[at] ^= 1 << rng.IntN(8)
		// With a damaged manifest frame the file may look like a file of another program,
		// which has no sums.
		err := checked(t, damaged, m)
		if corrupt := new(artifact.CorruptError); !errors.As(err, &corrupt) {
			t.Errorf("byte %d of %d is %#x and was %#x: %v", at, len(b), damaged[at], b[at], err)
		}
	}
	for n := 0; n < len(b); n += len(b)/40 + 1 {
		if err := checked(t, b[:n], m); err == nil {
			t.Errorf("cut to %d bytes of %d: it is not found", n, len(b))
		}
	}
}

func TestCheckComparesRawImageWithManifest(t *testing.T) {
	path, m := save(t, "x.img")
	b := imagetest.Read(t, path)
	if err := checked(t, b, m); err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{0, 999, 1500, 3 << 20, 7<<20 + 5000, 20 << 20, 33 << 20, len(b) - 1} {
		damaged := bytes.Clone(b)
		damaged[at] ^= 0x10
		if corrupt := new(artifact.CorruptError); !errors.As(checked(t, damaged, m), &corrupt) {
			t.Errorf("byte %d: it is not found", at)
		}
	}
}

func open(t testing.TB, file string) *os.File {
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestZipArchives(t *testing.T) {
	imagetest.Long(t)
	imagetest.Need(t, "zip")
	path, _ := save(t, "x.img")
	want := imagetest.Read(t, path)
	dir := filepath.Dir(path)
	write := func(name, text string) { os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644) }
	write("README.txt", "read me")
	write("y.img", "another")
	zip := func(name string, args ...string) string {
		cmd := exec.Command("zip", append([]string{"-q", name}, args...)...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("zip %v: %v %s", args, err, out)
		}
		return filepath.Join(dir, name)
	}
	imagetest.Run(t, "xz", "-0", "-k", path)
	all := func(path string) ([]byte, []string, error) {
		f := open(t, path)
		info, _ := f.Stat()
		s, err := artifact.StreamFile(io.NewSectionReader(f, 0, info.Size()), nil, nil)
		if err != nil {
			return nil, nil, err
		}
		var got []byte
		for c, err := range s.Chunks() {
			if err != nil {
				return nil, nil, err
			}
			got = append(got, c.Data...)
		}
		return got, s.Others, nil
	}
	for _, path := range []string{zip("deflate.zip", "x.img"), zip("stored.zip", "-0", "x.img"), zip("zip64.zip", "-fz", "x.img"),
		zip("two.zip", "x.img", "README.txt"), zip("xz.zip", "x.img.xz")} {
		got, others, err := all(path)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v", path, len(got), err)
		}
		if two := strings.HasSuffix(path, "two.zip"); two != (len(others) == 1 && others[0] == "README.txt") {
			t.Errorf("%s: others are %q", path, others)
		}
	}
	for path, say := range map[string]string{zip("images.zip", "x.img", "y.img"): "x.img, y.img", zip("none.zip", "README.txt", "x.img.bmap"): "0 of them", zip("encrypted.zip", "-P", "x", "x.img"): "encrypted",
		zip("bzip2.zip", "-Z", "bzip2", "x.img"): "method 12"} {
		_, _, err := all(path)
		if err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("%s: %v", path, err)
		}
	}
	b := imagetest.Read(t, filepath.Join(dir, "deflate.zip"))
	b[len(b)/2] ^= 1
	os.WriteFile(filepath.Join(dir, "bad.zip"), b, 0o644)
	if _, _, err := all(filepath.Join(dir, "bad.zip")); fault.Kind(err) != fault.Corrupt {
		t.Errorf("a damaged archive: %v", err)
	}
}
