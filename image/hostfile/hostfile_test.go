package hostfile_test

import (
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"imgtool/image/hostfile"
)

// Files of every kind are opened or refused without blocking.
func TestOtherKindsOfFilesAreRefused(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	l, err := net.Listen("unix", at("socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, err := range []error{
		os.WriteFile(at("file"), []byte("text"), 0o644), os.Mkdir(at("dir"), 0o755), syscall.Mkfifo(at("pipe"), 0o644),
		os.Symlink("loop", at("loop")), os.Symlink("file", at("link")), os.Symlink("pipe", at("to-pipe")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	opens := map[string]func(string) (*os.File, error){"Open": hostfile.Open, "OpenDisk": hostfile.OpenDisk, "OpenStream": hostfile.OpenStream,
		"DirFS": func(path string) (*os.File, error) {
			f, err := hostfile.DirFS("/").Open(strings.TrimPrefix(path, "/"))
			if err != nil {
				return nil, err
			}
			return f.(*os.File), nil
		}}
	for path, want := range map[string]string{
		at("file"): "", at("link"): "", at("dir"): "but a directory", at("pipe"): "but a pipe",
		at("to-pipe"): "but a pipe", at("socket"): "but a socket",
		at("loop"): "too many levels of symbolic links", "/dev/zero": "but a character device", at("none"): "no such file",
	} {
		for name, open := range opens {
			done := make(chan error, 1)
			go func() {
				f, err := open(path)
				if err == nil {
					f.Close()
				}
				done <- err
			}()
			select {
			case err := <-done:
				if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
					t.Errorf("%s of %s: %v, want %q", name, path, err, want)
				}
			case <-time.After(3 * time.Minute):
				t.Errorf("%s of %s waits", name, path)
			}
		}
	}
}

// An inherited pipe is read to its end under the name that a shell gives it.
func TestInheritedPipeIsRead(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	go func() {
		time.Sleep(100 * time.Millisecond)
		io.WriteString(w, "late")
		w.Close()
	}()
	name := filepath.Join("/dev/fd", strconv.Itoa(int(r.Fd())))
	if _, err := hostfile.ReadFile(name, 10); !errors.As(err, new(*hostfile.KindError)) {
		t.Errorf("as a file: %v", err)
	}
	if b, err := hostfile.ReadStream(name, 10); string(b) != "late" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
}

func TestReadFileHasALimit(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("12345"), 0o644); err != nil {
		t.Fatal(err)
	}
	if b, err := hostfile.ReadFile(file, 5); string(b) != "12345" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := hostfile.ReadFile(file, 4); err == nil || !strings.Contains(err.Error(), "more than 4 bytes") {
		t.Error(err)
	}
	if _, err := hostfile.DirFS("/").Open("../etc/passwd"); !errors.Is(err, fs.ErrInvalid) {
		t.Error(err)
	}
}
