package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"imgtool/cmd/imgtool/exit"
	"imgtool/image/imagetest"
)

// ended runs a program and returns its exit status and output.
func ended(t *testing.T, cmd *exec.Cmd) (int, string) {
	t.Helper()
	out, err := cmd.CombinedOutput()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

// A full disk and a disk that is not writable are reported, and no incomplete image is
// left.
func TestOutputThatCannotBeWritten(t *testing.T) {
	imagetest.Long(t)
	imagetest.NeedRoot(t)
	dir := t.TempDir()
	if err := makeInputs(filepath.Join(dir, "in")); err != nil {
		t.Fatal(err)
	}
	full := filepath.Join(dir, "full")
	os.Mkdir(full, 0o755)
	imagetest.Run(t, "mount", "-t", "tmpfs", "-o", "size=2M", "tmpfs", full)
	defer exec.Command("umount", full).Run()
	for _, name := range []string{"x.img", "x.img.zst", "x.img.gz", "x.img.xz"} {
		cmd := tool(t, "build", "--board", filepath.Join(dir, "in", "tiny.toml"), "--inputs", filepath.Join(dir, "in"), "-o", filepath.Join(full, name))
		if status, out := ended(t, cmd); status != exit.Write || !strings.Contains(out, "no space left on device") {
			t.Errorf("%s: exit status %d: %s", name, status, out)
		}
		if left, _ := os.ReadDir(full); len(left) != 0 {
			t.Errorf("%s: %v is left", name, left)
		}
	}
	// The same holds for scratch files.
	cmd := tool(t, "build", "--board", filepath.Join(dir, "in", "tiny.toml"), "--inputs", filepath.Join(dir, "in"), "-o", filepath.Join(dir, "x.img.zst"))
	os.WriteFile(filepath.Join(full, "ballast"), make([]byte, 2<<20), 0o644)
	cmd.Env = append(os.Environ(), "TMPDIR="+full)
	if status, out := ended(t, cmd); status != exit.Write || !strings.Contains(out, "no space left on device") {
		t.Errorf("a full TMPDIR: exit status %d: %s", status, out)
	}

	program, err := exec.LookPath("imgtool")
	if err != nil {
		t.Fatal(err)
	}
	open, err := os.MkdirTemp("", "nobody-*")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(open)
	os.Chmod(open, 0o755)
	imagetest.Run(t, "cp", program, filepath.Join(open, "imgtool"))
	imagetest.Run(t, "cp", "-r", filepath.Join(dir, "in"), filepath.Join(open, "in"))
	imagetest.Run(t, "chmod", "-R", "a+rX", open)
	loop := imagetest.Loop(t, sparseFile(t, filepath.Join(dir, "disk"), 64<<20))
	imagetest.Run(t, filepath.Join(open, "imgtool"), "build", "--board", filepath.Join(open, "in", "tiny.toml"), "--inputs", filepath.Join(open, "in"), "-o", filepath.Join(open, "t.img"))
	for want, args := range map[string][]string{
		"permission denied":     {"build", "--board", "in/tiny.toml", "--inputs", "in", "-o", "y.img"},
		"\nimgtool: run: sudo ": {"flash", "--yes", "--image", "t.img", loop},
	} {
		cmd := exec.Command(filepath.Join(open, "imgtool"), args...)
		cmd.Dir = open
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		if status, out := ended(t, cmd); status != exit.Permission || !strings.Contains(out, want) {
			t.Errorf("%s as nobody: exit status %d: %s", args[0], status, out)
		}
	}
}

// An image is never written to the disk that stores it, however it is reached from there.
func TestAnImageIsNotWrittenOverItself(t *testing.T) {
	imagetest.NeedRoot(t)
	dir := t.TempDir()
	in, img := filepath.Join(dir, "in"), filepath.Join(dir, "t.img")
	if err := makeInputs(in); err != nil {
		t.Fatal(err)
	}
	imgtool(t, "build", "--board", filepath.Join(in, "tiny.toml"), "--inputs", in, "-o", img)
	imagetest.Run(t, "truncate", "-s", "64M", img)
	os.Remove(img + ".manifest.json")
	link := filepath.Join(dir, "link")
	os.Symlink(img, link)
	hard := filepath.Join(dir, "hard")
	os.Link(img, hard)
	dev := imagetest.Loop(t, img)
	part := strings.TrimSpace(imagetest.Run(t, "losetup", "--find", "--show", "--offset", "1048576", img))
	defer exec.Command("losetup", "-d", part).Run()
	before := hashFile(t, img)
	for _, pair := range [][2]string{{img, link}, {img, hard}, {link, hard}, {img, dev}, {hard, dev}, {dev, dev}, {img, part}} {
		status, out := ended(t, tool(t, "flash", "--yes", "--image", pair[0], pair[1]))
		if status != exit.Refused {
			t.Errorf("%s over %s: exit status %d: %s", pair[0], pair[1], status, out)
		}
	}
	if hashFile(t, img) != before {
		t.Error("the image was changed")
	}
}

func overwriteAll(t *testing.T, path string) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	overwrite(t, path, 0, bytes.Repeat([]byte{0xAA}, int(info.Size())))
}
