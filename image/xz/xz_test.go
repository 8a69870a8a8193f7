package xz_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"imgtool/image/imagetest"
	"imgtool/image/xz"
)

func TestAStreamThatIsCutAnywhereIsSeen(t *testing.T) {
	data := bytes.Repeat([]byte("imgtool "), 20_000)
	file := filepath.Join(t.TempDir(), "x")
	os.WriteFile(file, data, 0o644)
	packed := []byte(imagetest.Run(t, "xz", "-0", "-T1", "--block-size=16KiB", "-c", file))
	for n := range len(packed) + 1 {
		r, err := xz.NewReader(bytes.NewReader(packed[:n]))
		var got []byte
		if err == nil {
			got, err = io.ReadAll(r)
		}
		if n == len(packed) && (err != nil || !bytes.Equal(got, data)) {
			t.Errorf("the whole stream: %v", err)
		}
		if n < len(packed) && err == nil {
			t.Errorf("cut to %d of %d bytes goes unseen", n, len(packed))
		}
	}
	twice, err := xz.NewReader(bytes.NewReader(append(append(bytes.Clone(packed), 0, 0, 0, 0), packed...)))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(twice); err != nil || len(got) != 2*len(data) {
		t.Errorf("two streams: %d bytes, %v", len(got), err)
	}
}
