package seedstick_test

import (
	"crypto/sha256"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"imgtool/image"
	"imgtool/image/imagetest"
	"imgtool/image/seed/seedstick"
)

func TestStickIsReadableAndReproducible(t *testing.T) {
	const seed = "version = 1\n"
	img, err := seedstick.New([]byte(seed), 1700000000)
	if err != nil {
		t.Fatal(err)
	}
	again, err := seedstick.New([]byte(seed), 1700000000)
	if err != nil {
		t.Fatal(err)
	}
	other, err := seedstick.New([]byte(seed+"#"), 1700000000)
	if err != nil {
		t.Fatal(err)
	}
	sum := hashOf(t, img)
	if sum != hashOf(t, again) || sum == hashOf(t, other) {
		t.Error("the image must depend on the seed and the time alone")
	}
	file := filepath.Join(t.TempDir(), "stick")
	writeImage(t, file, img)
	if out := imagetest.Run(t, "sfdisk", "--verify", file); !strings.Contains(out, "No errors detected") {
		t.Error(out)
	}
	if out := imagetest.Run(t, "sfdisk", "--dump", file); !strings.Contains(out, "start=        2048, size=      131072, type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7") || !strings.Contains(out, `name="seed"`) {
		t.Error(out)
	}
	if got := imagetest.Run(t, "mtype", "-i", file+"@@1M", "::config.toml"); got != seed {
		t.Errorf("config.toml is %q", got)
	}
	if out := imagetest.Run(t, "mlabel", "-s", "-i", file+"@@1M"); !strings.Contains(out, "SEED") {
		t.Error(out)
	}
}

func writeImage(t *testing.T, file string, img *image.Image) {
	t.Helper()
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.Copy(f, io.NewSectionReader(img, 0, img.Size())); err != nil {
		t.Fatal(err)
	}
}

func hashOf(t *testing.T, img *image.Image) [sha256.Size]byte {
	t.Helper()
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(img, 0, img.Size())); err != nil {
		t.Fatal(err)
	}
	return [sha256.Size]byte(h.Sum(nil))
}
