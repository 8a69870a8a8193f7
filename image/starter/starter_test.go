package starter_test

import (
	"bytes"
	"debug/elf"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cavaliergopher/cpio"
	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"

	"imgtool/boards"
	"imgtool/image/imagetest"
	"imgtool/image/source"
	"imgtool/image/starter"
)

// when is the time of all files, 2026-01-01 UTC.
const when = 1767225600

// newSystem returns the starter system of a Rock64. The test is skipped without apt.
func newSystem(t *testing.T) *starter.System {
	t.Helper()
	b, err := boards.Get("rock64")
	if err != nil {
		t.Fatal(err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	o := source.NewOpener(source.Options{Arch: "arm64", ModTime: when, CacheDir: filepath.Join(cache, "imgtool")})
	t.Cleanup(func() { o.Close() })
	s := starter.New(starter.Options{Board: b, Time: when, Packages: o.Packages})
	if _, err := o.Packages(t.Context(), b.Starter.Busybox); errors.As(err, new(*source.NoAptError)) {
		imagetest.Skip(t, "%v", err)
	}
	return s
}

// In the initrd each program has its loader and its libraries, and the same packages give
// the same bytes.
func TestInitrd(t *testing.T) {
	imagetest.Long(t)
	var twice [2][]byte
	for i := range twice {
		f, err := newSystem(t).File(t.Context(), "starter:initrd")
		if err != nil {
			t.Fatal(err)
		}
		if twice[i], err = io.ReadAll(io.NewSectionReader(f, 0, f.Size())); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(twice[0], twice[1]) {
		t.Error("it differs from one build to the next")
	}
	z, err := gzip.NewReader(bytes.NewReader(twice[0]))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for r := cpio.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"bin/systemd-repart", "bin/mkfs.vfat", "bin/mkfs.f2fs", "lib/libc.so.6"} {
		if files[name] == nil {
			t.Errorf("no file %s", name)
		}
	}
	for name, data := range files {
		f, err := elf.NewFile(bytes.NewReader(data))
		if err != nil || strings.HasSuffix(name, ".ko") {
			continue
		}
		libraries, err := f.ImportedLibraries()
		if err != nil {
			t.Fatal(err)
		}
		for _, lib := range libraries {
			if files["lib/"+lib] == nil {
				t.Errorf("%s has no %s", name, lib)
			}
		}
		for _, p := range f.Progs {
			if p.Type != elf.PT_INTERP {
				continue
			}
			if loader, err := io.ReadAll(p.Open()); err != nil || files[strings.Trim(string(loader), "/\x00")] == nil {
				t.Errorf("%s has no %s: %v", name, loader, err)
			}
		}
	}
	board, err := boards.Get("rock64")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range board.Repart() {
		if diff := cmp.Diff(d.Text, string(files[path.Join("etc/repart.d", d.Name)])); diff != "" {
			t.Errorf("%s: %s", d.Name, diff)
		}
	}
}

func TestMissingProgram(t *testing.T) {
	s := newSystem(t)
	s.Board.Starter.Programs = []boards.Program{{Package: "dosfstools|f2fs-tools", Path: "usr/sbin/mkfs.none", In: "rootfs"}}
	_, err := s.Root(t.Context(), "starter:rootfs")
	if err == nil || !strings.HasPrefix(err.Error(), "no /usr/sbin/mkfs.none in dosfstools ") || !strings.Contains(err.Error(), " or f2fs-tools ") {
		t.Error(err)
	}
}

func TestUnknownReferences(t *testing.T) {
	s := starter.New(starter.Options{})
	if _, err := s.Root(t.Context(), "starter:initrd"); err == nil {
		t.Error("starter:initrd was opened as a root file system")
	}
	if _, err := s.File(t.Context(), "starter:rootfs"); err == nil {
		t.Error("starter:rootfs was opened as a file")
	}
}
