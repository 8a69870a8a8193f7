package compress_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"imgtool/image/compress"
	"imgtool/image/imagetest"
)

func TestDetectAndNewReader(t *testing.T) {
	data := bytes.Repeat([]byte("imgtool "), 100_000)
	file := filepath.Join(t.TempDir(), "x")
	os.WriteFile(file, data, 0o644)
	for format, command := range map[compress.Format]string{compress.Gzip: "gzip", compress.XZ: "xz", compress.Zstd: "zstd", compress.Bzip2: "bzip2", compress.LZ4: "lz4", compress.None: "cat"} {
		args := []string{"-c", file}
		if command == "cat" {
			args = args[1:]
		}
		packed := []byte(imagetest.Run(t, command, args...))
		if got := compress.Detect(packed[:compress.HeadSize]); got != format {
			t.Errorf("%s: detected as %v", command, got)
		}
		r, err := compress.NewReader(bytes.NewReader(packed), format)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(got, data) || r.Close() != nil {
			t.Errorf("%s: %d bytes, %v", command, len(got), err)
		}
	}
	for _, head := range []string{"", "B", "BZh9abcdefgh", "\x1f\x8b\x09", "PK\x03\x04abcdef"} {
		if got := compress.Detect([]byte(head)); got != compress.None {
			t.Errorf("%q is detected as %v", head, got)
		}
	}
}

func TestNewReaderBoundsMemory(t *testing.T) {
	imagetest.Long(t)
	for _, c := range []struct {
		format  compress.Format
		command string
		ok      bool
	}{
		{compress.Zstd, "head -c 1000000 /dev/zero | zstd -q --ultra -22 --long=27 -c", true},
		{compress.Zstd, "head -c 1000000 /dev/zero | zstd -q --ultra -22 --long=28 -c", false},
		{compress.XZ, "head -c 1000000 /dev/zero | xz --lzma2=dict=128MiB -c", true},
		{compress.XZ, "head -c 1000000 /dev/zero | xz --lzma2=dict=192MiB -c", false},
		{compress.XZ, "head -c 1000000 /dev/zero | xz -9e -c", true},
		{compress.XZ, "(head -c 1000 /dev/zero | xz -c; head -c 1000 /dev/zero | xz --lzma2=dict=192MiB -c)", false},
	} {
		packed := imagetest.Run(t, "sh", "-c", c.command)
		r, err := compress.NewReader(strings.NewReader(packed), c.format)
		if err == nil {
			_, err = io.Copy(io.Discard, r)
		}
		var memory *compress.MemoryError
		if c.ok && err != nil || !c.ok && (!errors.As(err, &memory) || !strings.Contains(err.Error(), "more than 128 MiB of memory")) {
			t.Errorf("%s: %v", c.command, err)
		}
	}
}

func TestScratchFilesShareBudget(t *testing.T) {
	dir := t.TempDir()
	b := &compress.Budget{Max: 1000}
	one, err := compress.NewScratch(dir, b)
	if err != nil {
		t.Fatal(err)
	}
	defer one.Close()
	two, err := compress.NewScratch(dir, b)
	if err != nil {
		t.Fatal(err)
	}
	defer two.Close()
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("a scratch file has the name %s", left[0].Name())
	}
	var large *compress.TooLargeError
	if _, err := one.Write(make([]byte, 600)); err != nil {
		t.Error(err)
	}
	if _, err := one.WriteAt(make([]byte, 600), 0); err != nil {
		t.Errorf("a range that is written twice counts twice: %v", err)
	}
	if _, err := two.WriteAt(make([]byte, 1), 399); err != nil {
		t.Error(err)
	}
	if _, err := two.Write([]byte("x")); !errors.As(err, &large) || large.Max != 1000 {
		t.Errorf("byte 1001: %v", err)
	}
	if _, err := compress.NewScratch(dir+"/not/there", nil); !errors.Is(err, os.ErrNotExist) || strings.Contains(err.Error(), "imgtool-") {
		t.Error(err)
	}
}

func TestLimit(t *testing.T) {
	for n, ok := range map[int]bool{0: true, 9: true, 10: true, 11: false, 5000: false} {
		got, err := io.ReadAll(compress.Limit(bytes.NewReader(make([]byte, n)), 10))
		if ok != (err == nil) || ok && len(got) != n {
			t.Errorf("%d bytes: %d, %v", n, len(got), err)
		}
	}
}

func FuzzNewReader(f *testing.F) {
	f.Add([]byte("\x28\xb5\x2f\xfd\x04\x00\x01\x00\x00\x99\xe9\xd8\x51"))
	f.Add([]byte("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Add([]byte("BZh9\x17\x72\x45\x38\x50\x90\x00\x00\x00\x00"))
	f.Add([]byte("\x04\x22\x4d\x18\x64\x40\xa7\x00\x00\x00\x00\x05\x5d\xcc\x02"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := compress.NewReader(bytes.NewReader(b), compress.Detect(b))
		if err != nil {
			return
		}
		io.CopyN(io.Discard, r, 16<<20)
		r.Close()
	})
}
