package foreign_test

import (
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/fault"
	"imgtool/image/foreign"
	"imgtool/image/imagetest"
)

func TestForeignNamesOtherFiles(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "x")
	data := make([]byte, 8<<20)
	rand.NewChaCha8([32]byte{5}).Read(data[:1<<20])
	os.WriteFile(file, data, 0o644)
	made := func(name string, command ...string) {
		imagetest.Need(t, command[0])
		cmd := exec.Command(command[0], command[1:]...)
		cmd.Dir = dir
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %v", command, err)
		}
		if len(out) > 0 {
			os.WriteFile(filepath.Join(dir, name), out, 0o644)
		}
	}
	made("tar", "tar", "cf", "-", "x")
	made("lzma", "xz", "--format=lzma", "-0", "-c", "x")
	made("zip", "zip", "-q", "zip.zip", "x")
	made("squashfs", "mksquashfs", "x", "squashfs", "-quiet", "-no-progress")
	for name, want := range map[string]string{"tar": "a tar archive", "lzma": "an .lzma file", "zip.zip": "a zip archive", "squashfs": "a squashfs file system"} {
		b := imagetest.Read(t, filepath.Join(dir, name))
		if err := foreign.Check(artifact.Gzip, b[:min(len(b), image.PieceSize)]); fault.Kind(err) != fault.Input || !strings.HasPrefix(err.Error(), "it is "+want+", compressed with gzip, not a disk image: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for text, want := range map[string]string{"<!DOCTYPE html><html>404": "a web page", "\n <HTML><head>": "a web page", "version https://git-lfs.github.com/spec/v1\n": "a pointer of Git LFS", "QFI\xfb\x00\x00\x00\x03": "a QCOW2 image", "not found\n": "text that begins with \"not found\""} {
		if err := foreign.Check(artifact.Raw, []byte(text)); fault.Kind(err) != fault.Input || !strings.HasPrefix(err.Error(), "it is "+want+", not a disk image: ") {
			t.Errorf("%q: %v", text, err)
		}
	}
	mbr := make([]byte, 512)
	copy(mbr, "MZ")
	mbr[510], mbr[511] = 0x55, 0xaa
	for _, b := range [][]byte{data, make([]byte, 4096), mbr} {
		if err := foreign.Check(artifact.Raw, b); err != nil {
			t.Errorf("%d bytes: %v", len(b), err)
		}
	}
}
