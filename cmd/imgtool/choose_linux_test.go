package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"imgtool/cmd/imgtool/exit"
	"imgtool/image/imagetest"
)

// fakeDisks is a directory that stands for /sys in a mount namespace: its disks are on USB, and
// their device nodes are loop devices.
type fakeDisks struct {
	t      *testing.T
	sys    string
	dev    string
	before string // shell commands before imgtool
}

func newFakeDisks(t *testing.T) *fakeDisks {
	t.Helper()
	imagetest.NeedRoot(t)
	f := &fakeDisks{t, t.TempDir(), t.TempDir(), "true"}
	noError(t, os.MkdirAll(filepath.Join(f.sys, "block"), 0o755))
	return f
}

// plug adds a disk with the content of a file.
func (f *fakeDisks) plug(name, file, vendor, model string) {
	f.t.Helper()
	loop := imagetest.Loop(f.t, file)
	number := strings.TrimPrefix(loop, "/dev/loop")
	usb := filepath.Join(f.sys, "devices/usb1/1-"+number)
	dir := filepath.Join(usb, "1-"+number+":1.0/host/block", name)
	info, err := os.Stat(file)
	noError(f.t, err)
	for path, text := range map[string]string{
		"size": fmt.Sprint(info.Size() / 512), "removable": "1", "ro": "0", "dev": "7:" + number, "queue/logical_block_size": "512",
		"device/vendor": vendor, "device/model": model, "../../../../idVendor": "0781", "../../../../serial": "S" + name,
	} {
		path = filepath.Join(dir, path)
		noError(f.t, os.MkdirAll(filepath.Dir(path), 0o755))
		noError(f.t, os.WriteFile(path, []byte(text+"\n"), 0o644))
	}
	imagetest.Run(f.t, "mknod", filepath.Join(f.dev, name), "b", "7", number)
	noError(f.t, os.Symlink(strings.Replace(dir, f.sys, "..", 1), filepath.Join(f.sys, "block", name)))
}

// unplug removes a disk.
func (f *fakeDisks) unplug(name string) {
	f.t.Helper()
	noError(f.t, os.Remove(filepath.Join(f.sys, "block", name)))
}

// command returns a shell command that runs imgtool with these disks alone. The nodes of the
// disks are linked into a /dev of its own.
func (f *fakeDisks) command(args ...string) string {
	f.t.Helper()
	path, err := exec.LookPath("imgtool")
	noError(f.t, err)
	return fmt.Sprintf(`unshare --mount sh -c 'mount -t tmpfs dev /mnt && cp -a /dev/null /dev/zero /dev/urandom /dev/tty /mnt && mkdir /mnt/pts && mount --bind /dev/pts /mnt/pts && `+
		`for n in sdb sdc sdd; do ln -s %s/$n /mnt/$n; done; mount --move /mnt /dev && mount --bind %s /sys && %s && exec %s %s'`, f.dev, f.sys, f.before, path, strings.Join(args, " "))
}

// Without a disk, the program waits; disks that are plugged in appear, and disks that are pulled
// disappear. The disk of the line is the one that is written.
func TestPickingADisk(t *testing.T) {
	x := tiny(t, "pick")
	dir := t.TempDir()
	fat, blank, small := sparseFile(t, filepath.Join(dir, "fat"), 300<<20), sparseFile(t, filepath.Join(dir, "blank"), 64<<20), sparseFile(t, filepath.Join(dir, "small"), 1<<20)
	imagetest.Run(t, "mkfs.fat", "-F", "32", "-n", "HOLIDAY", fat)
	f := newFakeDisks(t)
	s := imagetest.StartScreen(t, 80, 24, f.command("flash", "-i", x))
	s.Sees(`No disk can be written: plug in a USB disk or a card\..*Ctrl-C stops\.`)
	f.plug("sdd", small, "Tiny", "Stick")
	s.Sees(`No disk can be written.*\n1 more cannot be used; \? shows why`)
	s.Keys("?")
	s.Sees(`No disk can be written.*\n +/dev/sdd  1\.0 MiB  Tiny Stick: .* is too small: .*`)
	s.Keys("?", "Down") // whoever presses keys chooses
	f.plug("sdb", blank, "SanDisk", "Ultra")
	s.Sees(`Which disk.*
> 1  /dev/sdb  64\.0 MiB  SanDisk Ultra  no partition table

 +64\.0 MiB SanDisk Ultra at /dev/sdb \(usb, serial Ssdb, port .*\), which.*no partition table
1 more cannot be used; \? shows why`)
	f.plug("sdc", fat, "Generic", "Reader")
	s.Sees(`Which disk.*
> 1  /dev/sdb   64\.0 MiB  SanDisk Ultra   no partition table
  2  /dev/sdc  300\.0 MiB  Generic Reader  FAT32 "HOLIDAY", \d.*`)
	s.Keys("2")
	s.Resize(40, 20)
	s.Sees(`Which disk.*
  1  /dev/sdb   64\.0 MiB  SanDisk Ultra
> 2  /dev/sdc  300\.0 MiB  Generic Reade

.*FAT32 "HOLIDAY",.*`)
	f.unplug("sdb")
	s.Sees(`Which disk.*
> 1  /dev/sdc  300\.0 MiB  Generic Reade
.*`)
	s.Keys("Enter")
	s.Sees(`.*300\.0 MiB Generic Reader at.*HOLIDAY.*\[y/N\]`)
	s.Keys("y", "Enter")
	s.Sees(`.*/dev/sdc:.* all read\s+back from the disk and verified,.*it can be\s+removed now.*`)
	imgtool(t, "verify", "--image", x, fat)
	if blocks := imagetest.Run(t, "stat", "-c", "%b", blank); strings.TrimSpace(blocks) != "0" {
		t.Error("the other disk was written")
	}
}

// A disk that is mounted is offered, and unmounted after the question.
func TestMountedDiskIsUnmounted(t *testing.T) {
	var root syscall.Stat_t
	noError(t, syscall.Stat("/", &root))
	x := tiny(t, "mounted")
	disk, at := sparseFile(t, filepath.Join(t.TempDir(), "disk"), 64<<20), t.TempDir()
	imagetest.Run(t, "mkfs.ext4", "-q", "-L", "pictures", disk)
	f := newFakeDisks(t)
	for path, text := range map[string]string{"dev": fmt.Sprintf("%d:%d", unix.Major(root.Dev), unix.Minor(root.Dev)), "size": "1000"} {
		path = filepath.Join(f.sys, "block/vda", path)
		noError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		noError(t, os.WriteFile(path, []byte(text+"\n"), 0o644))
	}
	f.plug("sdb", disk, "SanDisk", "Ultra")
	f.before = "mount /dev/sdb " + at
	listed := imagetest.StartScreen(t, 80, 24, f.command("disks"))
	listed.Sees(`.*/dev/sdb .*ext4 "pictures", .*mounted at\s+` + at + `\s+mounted: imgtool flash unmounts it after a question.*`)
	s := imagetest.StartScreen(t, 80, 24, f.command("flash", "-i", x))
	s.Sees(`.*ext4\s+"pictures", .*mounted\s+at\s+` + at + `\?\s+Mounted file systems will be\s+unmounted, and.*\[y/N\]`)
	s.Keys("y", "Enter")
	s.Sees(`.*unmounted.*all read\s+back.*`)
	imgtool(t, "verify", "--image", x, disk)
}

// A single disk is one question. One that is plugged in while imgtool waits is taken.
func TestSingleDiskIsOneQuestion(t *testing.T) {
	x := tiny(t, "single")
	f := newFakeDisks(t)
	disk := sparseFile(t, filepath.Join(t.TempDir(), "disk"), 64<<20)
	waits := imagetest.StartScreen(t, 80, 24, f.command("flash", "-i", x))
	waits.Sees(`No disk can be written.*`)
	plain := imagetest.StartScreen(t, 80, 24, f.command("flash", "--plain", "-i", x))
	plain.Sees(`No disk can be written.*`)
	f.plug("sdb", disk, "SanDisk", "Ultra")
	asks := imagetest.StartScreen(t, 80, 24, f.command("flash", "-i", x))
	for _, s := range []*imagetest.Screen{waits, plain, asks} {
		got := s.Sees(`.*to 64\.0 MiB SanDisk Ultra at /dev/sdb .*no partition table\?.*\[y/N\]`)
		if strings.Contains(got, "Type a number") || strings.Contains(got, "Which disk") {
			t.Errorf("there is more than one question:\n%s", got)
		}
		s.Keys("n", "Enter")
		s.Sees(`.*the answer was not yes.*`)
	}
}

// Without a terminal, no disk is status 9, and a disk that must be named is status 2.
func TestNoDiskWithoutATerminal(t *testing.T) {
	x := tiny(t, "none")
	f := newFakeDisks(t)
	status, out := ended(t, exec.Command("sh", "-c", f.command("flash", "-i", x)))
	if want := "imgtool: there is no disk to choose: no USB disk or card is large enough and unused\n"; status != exit.Gone || !strings.Contains(out, want) {
		t.Errorf("exit status %d: %s", status, out)
	}
	f.plug("sdb", sparseFile(t, filepath.Join(t.TempDir(), "disk"), 64<<20), "SanDisk", "Ultra")
	for _, args := range [][]string{{"flash", "-i", x}, {"flash", "--yes", "-i", x}} {
		status, out = ended(t, exec.Command("sh", "-c", f.command(args...)))
		if status != exit.Usage || !strings.Contains(out, "say which disk: ") || !strings.Contains(out, "64.0 MiB SanDisk Ultra at /dev/sdb") {
			t.Errorf("exit status %d: %s", status, out)
		}
	}
}
