package hostfile_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"

	"imgtool/image/fault"
	"imgtool/image/hostfile"
	"imgtool/image/imagetest"
)

type badAt int64

func (b badAt) ReadAt(p []byte, off int64) (int, error) {
	if n := int64(b) - off; n < int64(len(p)) {
		return int(max(0, n)), &os.PathError{Op: "read", Path: "x", Err: syscall.EIO}
	}
	return len(p), nil
}

// A read error names the file and the offset of the first byte that could not be read.
// io.EOF is unchanged.
func TestReadErrorsNameFileAndOffset(t *testing.T) {
	_, err := hostfile.NewReaderAt("some.img", badAt(5000)).ReadAt(make([]byte, 4096), 4096)
	var failed *hostfile.ReadError
	if !errors.As(err, &failed) || failed.Off != 5000 || err.Error() != "some.img: reading at byte 5000: input/output error" || !errors.Is(err, syscall.EIO) {
		t.Errorf("%v", err)
	}
	r := hostfile.NewReader("standard input", io.MultiReader(strings.NewReader("12345"), iotest.ErrReader(syscall.EIO)))
	b, err := io.ReadAll(r)
	if !errors.As(err, &failed) || failed.Off != 5 || string(b) != "12345" {
		t.Errorf("%q, %v", b, err)
	}
	if b, err := io.ReadAll(hostfile.NewReader("x", strings.NewReader("12345"))); err != nil || len(b) != 5 {
		t.Errorf("%q, %v", b, err)
	}
	if n, err := hostfile.NewReaderAt("x", bytes.NewReader(make([]byte, 10))).ReadAt(make([]byte, 20), 0); n != 10 || err != io.EOF {
		t.Errorf("%d, %v", n, err)
	}
}

// CheckOutput makes no file.
func TestCheckOutput(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "new"):    "",
		file:                         "",
		dir:                          dir + " is not a regular file, but a directory",
		filepath.Join(dir, "a", "b"): "the directory " + filepath.Join(dir, "a") + " does not exist",
		filepath.Join(file, "b"):     "not a directory",
	} {
		err := hostfile.CheckOutput(path)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("%v was made", left)
	}
	// A file system that is read-only is so for root too.
	imagetest.NeedRoot(t)
	ro := filepath.Join(dir, "ro")
	if err := os.Mkdir(ro, 0o755); err != nil {
		t.Fatal(err)
	}
	imagetest.Run(t, "mount", "-t", "tmpfs", "-o", "ro", "tmpfs", ro)
	defer imagetest.Run(t, "umount", ro)
	err := hostfile.CheckOutput(filepath.Join(ro, "x"))
	if err == nil || !strings.Contains(err.Error(), "the directory "+ro+" is not writable") || fault.Kind(err) != fault.Write || !errors.Is(err, syscall.EROFS) {
		t.Errorf("%v", err)
	}
}
