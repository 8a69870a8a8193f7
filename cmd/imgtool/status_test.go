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
	"time"

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

// An interrupt ends a flash that waits for a pipe, and the state of the disk is reported.
func TestAnInterruptDoesNotWaitForAPipe(t *testing.T) {
	imagetest.Long(t)
	dir := t.TempDir()
	in, img := filepath.Join(dir, "in"), filepath.Join(dir, "t.img.zst")
	if err := makeInputs(in); err != nil {
		t.Fatal(err)
	}
	imgtool(t, "build", "--board", filepath.Join(in, "tiny.toml"), "--inputs", in, "-o", img)
	whole, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		first int
		say   string
		lost  bool
	}{
		{"before anything came", 0, "imgtool: interrupted\n", false},
		{"in the middle", 5_000_000, "disk is not bootable and has no partition table now; flash it again", true},
	} {
		disk := sparseFile(t, filepath.Join(dir, "disk"), 64<<20)
		overwriteAll(t, disk)
		cmd := tool(t, "flash", "--yes", "--image", "-", disk)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		pipe, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		pipe.Write(whole[:c.first])
		time.Sleep(500 * time.Millisecond)
		begin := time.Now()
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait()
		if took := time.Since(begin); took > 4*time.Second {
			t.Errorf("%s: it took %s", c.name, took)
		}
		if cmd.ProcessState.ExitCode() != exit.Interrupted || !strings.Contains(stderr.String(), c.say) {
			t.Errorf("%s: exit status %d: %s", c.name, cmd.ProcessState.ExitCode(), stderr.String())
		}
		b, err := os.ReadFile(disk)
		if err != nil {
			t.Fatal(err)
		}
		if lost := b[0] == 0; lost != c.lost {
			t.Errorf("%s: the disk is touched: %v", c.name, lost)
		}
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

// An interrupted build leaves no files.
func TestAnInterruptedBuildLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	in := filepath.Join(dir, "in")
	if err := makeInputs(in); err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(dir, "root")
	os.Mkdir(root, 0o755)
	for _, name := range []string{"a", "b", "c"} {
		b := make([]byte, 40<<20)
		x := uint32(1)
		for i := range b {
			x = x*1664525 + 1013904223
			b[i] = byte(x >> 25)
		}
		os.WriteFile(filepath.Join(root, name), b, 0o644)
	}
	out := filepath.Join(dir, "out")
	os.Mkdir(out, 0o755)
	for _, signal := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		cmd := tool(t, "build", "--board", "rock64", "--inputs", in, "--rootfs", root, "--compression", "zstd:19", "-o", filepath.Join(out, "x.img"))
		cmd.Env = append(os.Environ(), "TMPDIR="+out)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(700 * time.Millisecond)
		cmd.Process.Signal(signal)
		cmd.Wait()
		if cmd.ProcessState.ExitCode() != exit.Interrupted || !strings.HasSuffix(stderr.String(), "imgtool: interrupted\n") {
			t.Errorf("%v: exit status %d: %s", signal, cmd.ProcessState.ExitCode(), stderr.String())
		}
		if left, _ := os.ReadDir(out); len(left) != 0 {
			t.Errorf("%v is left", left)
		}
	}
}
