package build_test

import (
	"bytes"
	"debug/elf"
	"io"
	"path"
	"strings"
	"testing"

	"github.com/cavaliergopher/cpio"
	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"

	"imgtool/boards"
	"imgtool/image/build"
)

// Every program finds its loader and its libraries, and the same packages give the same
// bytes.
func TestTheInitrdOfTheStarterIsWhole(t *testing.T) {
	var twice [2][]byte
	for i := range twice {
		r, err := buildBoard(t, "rock64", "", nil)
		if err != nil {
			t.Fatal(err)
		}
		e := find(t, r.Images[0].Image, "boot-a/initrd")
		if twice[i], err = io.ReadAll(io.NewSectionReader(e, 0, e.Size())); err != nil {
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
			t.Errorf("there is no %s", name)
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

func TestAProgramThatNoPackageHasIsSaid(t *testing.T) {
	_, err := buildBoard(t, "rock64", "", func(o *build.Options) {
		o.Board.Starter.Programs = []boards.Program{{Package: "dosfstools|f2fs-tools", Path: "usr/sbin/mkfs.none", In: "rootfs"}}
	})
	if err == nil || !strings.HasPrefix(err.Error(), "rootfs: there is no /usr/sbin/mkfs.none in dosfstools ") || !strings.Contains(err.Error(), " or f2fs-tools ") {
		t.Error(err)
	}
}
