package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"imgtool/cmd/imgtool/exit"
	"imgtool/image/imagetest"
	"imgtool/image/vm"
)

// built returns a directory with inputs and an image x.img.zst made from them.
func built(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := makeInputs(filepath.Join(dir, "in")); err != nil {
		t.Fatal(err)
	}
	imgtool(t, "build", "--board", "rock64", "--inputs", filepath.Join(dir, "in"), "-o", filepath.Join(dir, "x.img.zst"))
	return dir
}

// sparseFile makes a file of zeros, of size bytes.
func sparseFile(t *testing.T, path string, size int64) string {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestALoopDeviceIsFlashedAndVerified(t *testing.T) {
	imagetest.Long(t)
	dir := built(t)
	x := filepath.Join(dir, "x.img.zst")
	disk := sparseFile(t, filepath.Join(dir, "disk"), 3<<30)
	dev := imagetest.Loop(t, disk)
	imgtool(t, "flash", "--yes", "--image", x, dev)
	if out := imagetest.Run(t, "sgdisk", "-v", dev); !strings.Contains(out, "No problems found") {
		t.Errorf("sgdisk -v: %s", out)
	}
	imgtool(t, "verify", "--image", x, dev)

	// The backup table is at the end of the disk.
	b := make([]byte, 512)
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.ReadAt(b, 3<<30-512); string(b[:8]) != "EFI PART" {
		t.Errorf("the last sector starts with %q", b[:8])
	}

	// Change a byte of the file below the loop device.
	const at = 150994944 + 777
	if _, err := f.ReadAt(b[:1], at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	f.WriteAt(b[:1], at)
	out, err := tool(t, "verify", "--image", x, dev).CombinedOutput()
	var failed *exec.ExitError
	if !errors.As(err, &failed) || failed.ExitCode() != exit.Mismatch || !strings.Contains(string(out), fmt.Sprintf("at byte %d 1 byte differs", at)) {
		t.Errorf("%v: %s", err, out)
	}
}

// refused runs a flash that must end with exit status 4 and leave the file below
// the disk unchanged.
func refused(t *testing.T, image, dev, behind, want string) {
	t.Helper()
	before := hashFile(t, behind)
	out, err := tool(t, "flash", "--yes", "--image", image, dev).CombinedOutput()
	var failed *exec.ExitError
	if !errors.As(err, &failed) || failed.ExitCode() != exit.Refused || !strings.Contains(string(out), want) {
		t.Errorf("flashing %s: %v: %s, want %q", dev, err, out, want)
	}
	if hashFile(t, behind) != before {
		t.Errorf("%s was changed", behind)
	}
}

// hashFile hashes the data of a file with its offsets, without reading holes.
func hashFile(t *testing.T, path string) string {
	t.Helper()
	h := sha256.New()
	eachData(t, path, func(f *os.File, start, end int64) error {
		fmt.Fprintln(h, start, end)
		_, err := io.Copy(h, io.NewSectionReader(f, start, end-start))
		return err
	})
	return string(h.Sum(nil))
}

// copySparse copies the data of a range of a file to another file.
func copySparse(t *testing.T, to string, toOff int64, from string, fromOff, size int64) {
	t.Helper()
	out, err := os.OpenFile(to, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	eachData(t, from, func(f *os.File, start, end int64) error {
		start, end = max(start, fromOff), min(end, fromOff+size)
		if start >= end {
			return nil
		}
		_, err := io.Copy(io.NewOffsetWriter(out, toOff+start-fromOff), io.NewSectionReader(f, start, end-start))
		return err
	})
}

// eachData calls do for each run of data of a file.
func eachData(t *testing.T, path string, do func(f *os.File, start, end int64) error) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for end := int64(0); ; {
		start, err := f.Seek(end, unix.SEEK_DATA)
		if errors.Is(err, syscall.ENXIO) {
			return
		}
		if err == nil {
			end, err = f.Seek(start, unix.SEEK_HOLE)
		}
		if err == nil {
			err = do(f, start, end)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestADiskThatIsInUseIsRefused(t *testing.T) {
	imagetest.NeedRoot(t)
	dir := built(t)
	x := filepath.Join(dir, "x.img.zst")
	disk := sparseFile(t, filepath.Join(dir, "disk"), 2500<<20)
	imagetest.Run(t, "mkfs.ext4", "-q", "-F", disk)
	dev := imagetest.Loop(t, disk)
	mnt := filepath.Join(dir, "mnt")
	os.Mkdir(mnt, 0o755)
	imagetest.Run(t, "mount", "-o", "ro,noload", dev, mnt)
	unmount := func() { exec.Command("umount", mnt).Run() }
	defer unmount()
	refused(t, x, dev, disk, "is mounted at "+mnt)
	refused(t, x, disk, disk, "")
	unmount()

	swap := sparseFile(t, filepath.Join(dir, "swap"), 2500<<20)
	imagetest.Run(t, "mkswap", "-q", swap)
	swapdev := imagetest.Loop(t, swap)
	imagetest.Run(t, "swapon", swapdev)
	// The kernel may write to the swap, but not to its header.
	header := func() string { return imagetest.Run(t, "sha256sum", "--", swapHeader(t, swap)) }
	before := header()
	if status, out := ended(t, tool(t, "flash", "--yes", "--image", x, swapdev)); status != exit.Refused || !strings.Contains(out, "swap") {
		t.Errorf("exit status %d: %s", status, out)
	}
	if header() != before {
		t.Error("the swap was changed")
	}
	imagetest.Run(t, "swapoff", swapdev)

	ro := sparseFile(t, filepath.Join(dir, "ro"), 2500<<20)
	rodev := strings.TrimSpace(imagetest.Run(t, "losetup", "--find", "--show", "--read-only", ro))
	defer exec.Command("losetup", "-d", rodev).Run()
	refused(t, x, rodev, ro, "read-only")

	large := sparseFile(t, filepath.Join(dir, "large"), 2500<<20)
	largedev := strings.TrimSpace(imagetest.Run(t, "losetup", "--find", "--show", "--sector-size", "4096", large))
	defer exec.Command("losetup", "-d", largedev).Run()
	refused(t, x, largedev, large, "4096")

	small := sparseFile(t, filepath.Join(dir, "small"), 2384<<20)
	refused(t, x, imagetest.Loop(t, small), small, "2385")
}

// swapHeader copies the first block of a file.
func swapHeader(t *testing.T, file string) string {
	t.Helper()
	out := filepath.Join(filepath.Dir(file), "header")
	imagetest.Run(t, "dd", "if="+file, "of="+out, "bs=4096", "count=1", "status=none")
	return out
}

// A user without privileges builds the same bytes.
func TestUnprivilegedBuildGivesTheSameBytes(t *testing.T) {
	imagetest.NeedRoot(t)
	dir := built(t)
	program, err := exec.LookPath("imgtool")
	if err != nil {
		t.Fatal(err)
	}
	// The user "nobody" must be able to reach the program and a directory.
	open, err := os.MkdirTemp("", "nobody-*")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(open)
	os.Chmod(open, 0o777)
	imagetest.Run(t, "cp", program, filepath.Join(open, "imgtool"))
	imagetest.Run(t, "cp", "-r", filepath.Join(dir, "in"), filepath.Join(open, "in"))
	cmd := exec.Command(filepath.Join(open, "imgtool"), "build", "--board", "rock64", "--inputs", "in", "-o", "x.img.zst")
	cmd.Dir = open
	cmd.Env = []string{"HOME=/nonexistent", "TMPDIR=" + open}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if hashFile(t, filepath.Join(open, "x.img.zst")) != hashFile(t, filepath.Join(dir, "x.img.zst")) {
		t.Error("nobody's image differs")
	}
}

// The kernel mounts the slot and finds the contents of the tar.
func TestKernelMountsTheSlot(t *testing.T) {
	imagetest.NeedRoot(t)
	dir := built(t)
	imgtool(t, "build", "--board", "rock64", "--inputs", filepath.Join(dir, "in"), "-o", filepath.Join(dir, "x.img"))
	dev := strings.TrimSpace(imagetest.Run(t, "losetup", "--find", "--show", "--read-only", "--offset", "150994944", "--sizelimit", "1073741824", filepath.Join(dir, "x.img")))
	defer exec.Command("losetup", "-d", dev).Run()
	got, want := filepath.Join(dir, "got"), filepath.Join(dir, "want")
	os.Mkdir(got, 0o755)
	os.Mkdir(want, 0o755)
	imagetest.Run(t, "mount", "-t", "squashfs", "-o", "ro", dev, got)
	defer exec.Command("umount", got).Run()
	imagetest.Run(t, "tar", "-C", want, "--xattrs", "--xattrs-include=*", "-xpf", filepath.Join(dir, "in", "rootfs.tar"))
	list := func(root string) string {
		all := imagetest.Run(t, "sh", "-c", "cd "+root+" && find . -printf '%P %M %U:%G %s %T@ %l %n\\n' | sort && getfattr -Rdhm- . 2>&1 | sort && find . -type f -exec sha256sum {} + | sort")
		all += imagetest.Run(t, "sh", "-c", "cd "+root+" && stat -c '%n %t %T' dev/console run/fifo")
		// Sizes of directories, and times of directories that the tar lacks, differ.
		all = regexp.MustCompile(`(?m)^(\S*) (d\S+ \S+) \d+ `).ReplaceAllString(all, "$1 $2 ")
		return regexp.MustCompile(`(?m)^(etc|usr|dev|home|run) (d\S+ \S+) \S+`).ReplaceAllString(all, "$1 $2")
	}
	if a, b := list(got), list(want); a != b {
		t.Errorf("got\n%s\nwant\n%s", a, b)
	}
}

// needVM skips a test if QEMU is missing.
func needVM(t *testing.T) {
	t.Helper()
	if err := vm.Check(); err != nil {
		imagetest.Skip(t, "%v", err)
	}
}
