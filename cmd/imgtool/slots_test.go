package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"imgtool/image/imagetest"
	"imgtool/image/vm"
)

// needFirstBoot skips a test where make has not put first-boot into imgtool.
func needFirstBoot(t *testing.T) {
	t.Helper()
	needVM(t)
	if _, err := os.Stat("../../image/build/starter/first-boot/first-boot"); err != nil {
		imagetest.Skip(t, "first-boot is not a part of this imgtool: run make first-boot")
	}
}

const (
	provisioned = `^first-boot: provisioned`
	waiting     = `^first-boot: no seed was found; waiting`
)

// vmUntil runs imgtool vm until a line is seen, and returns the console's text.
func vmUntil(t *testing.T, line string, args ...string) string {
	t.Helper()
	return imgtool(t, append([]string{"vm", "--headless", "--timeout", "3m", "--until", line}, args...)...)
}

func wantLines(t *testing.T, log string, lines ...string) {
	t.Helper()
	all := "\n" + strings.ReplaceAll(log, "\r", "")
	for _, line := range lines {
		if !strings.Contains(all, "\n"+line) {
			t.Errorf("no line starts with %q:\n%s", line, log)
		}
	}
}

// tries are the environment that the slots are counted in, by Debian's own tool.
func tries(t *testing.T, disk string) string {
	t.Helper()
	conf := filepath.Join(t.TempDir(), "fw_env.config")
	if err := os.WriteFile(conf, []byte(disk+" 0x3F8000 0x8000\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(imagetest.Run(t, "fw_printenv", "-c", conf), "\n", ", ")
}

// table is a partition table by sfdisk: number, start and size in sectors, type, name.
func table(t *testing.T, disk string) (rows []string) {
	t.Helper()
	for line := range strings.Lines(imagetest.Run(t, "sfdisk", "--dump", disk)) {
		node, rest, ok := strings.Cut(line, " : ")
		if !ok {
			continue
		}
		fields := map[string]string{}
		for field := range strings.SplitSeq(rest, ",") {
			key, value, _ := strings.Cut(strings.TrimSpace(field), "=")
			fields[key] = strings.Trim(strings.TrimSpace(value), `"`)
		}
		rows = append(rows, fmt.Sprintf("%s %s+%s %s %s", strings.TrimPrefix(node, disk), fields["start"], fields["size"], fields["type"], fields["name"]))
	}
	return rows
}

const (
	xbootldr = "BC13C2FF-59E6-4262-A352-B275FD6F7172"
	rootType = "B921B045-1DF0-41C3-AF44-4C6F280D3FAE"
	generic  = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
)

// madeParts judges what the first boot made of a disk of size bytes.
func madeParts(t *testing.T, disk string, size int64) {
	t.Helper()
	data := (size/512 - 33 - 4751360) / 8 * 8 // systemd-repart works in 4 KiB
	want := []string{
		"1 32768+262144 " + xbootldr + " boot-a",
		"2 294912+2097152 " + rootType + " rootfs-a",
		"3 2392064+262144 " + xbootldr + " boot-b",
		"4 2654208+2097152 " + rootType + " rootfs-b",
		fmt.Sprintf("5 4751360+%d %s data", data, generic),
	}
	if diff := cmp.Diff(want, table(t, disk)); diff != "" {
		t.Errorf("the table (-want +got):\n%s", diff)
	}
	if out := imagetest.Run(t, "sgdisk", "-v", disk); !strings.Contains(out, "No problems found") {
		t.Errorf("sgdisk -v: %s", out)
	}
	bootB := sparseFile(t, filepath.Join(t.TempDir(), "boot-b"), 128<<20)
	copySparse(t, bootB, 0, disk, 1168<<20, 128<<20)
	imagetest.Run(t, "fsck.fat", "-n", bootB)
	for at, want := range map[int64][]string{1168 << 20: {`LABEL="BOOT-B"`, `TYPE="vfat"`}, 2320 << 20: {`LABEL="data"`, `TYPE="f2fs"`}} {
		out := imagetest.Run(t, "blkid", "-p", "-O", fmt.Sprint(at), disk)
		for _, text := range want {
			if !strings.Contains(out, text) {
				t.Errorf("at byte %d blkid says %s, not %s", at, out, text)
			}
		}
	}
}

// From the first boot of the smallest disk to the fall back of slot A to slot B, which
// the running system wrote.
func TestADeviceFromItsFirstBootToItsOtherSlot(t *testing.T) {
	needFirstBoot(t)
	seed := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(seed, []byte(tinySeed), 0o644); err != nil {
		t.Fatal(err)
	}
	img := starter(t, "--build-id", "slots-1", "--seed", seed)
	disk := filepath.Join(t.TempDir(), "disk")
	ready := func(slot string) string {
		return fmt.Sprintf(`^imgtool starter ready: slot %s, build slots-1, root overlay$`, slot)
	}
	step := func(name string, f func(t *testing.T)) {
		if !t.Run(name, f) {
			t.FailNow()
		}
	}
	step("the first boot is fresh and makes the partitions", func(t *testing.T) {
		before := hashFile(t, img)
		log := vmUntil(t, provisioned, "--keep", disk, "--disk", "2385MiB", img)
		if hashFile(t, img) != before {
			t.Error("the image was changed")
		}
		wantLines(t, log, "Build ID: slots-1", "Slot A is chosen, which had 3 tries", "fresh flash: yes", "/data mounted: f2fs on ")
		madeParts(t, disk, 2385<<20)
		// The boot loaders are where they were: nothing was discarded.
		for _, at := range []int64{64 * 512, 16384 * 512} {
			if a, b := bytesAt(t, img, at, 1<<16), bytesAt(t, disk, at, 1<<16); a != b {
				t.Errorf("the boot loader at byte %d is gone", at)
			}
		}
		if got, want := tries(t, disk), "BOOT_A_LEFT=3, BOOT_B_LEFT=3, BOOT_ORDER=A B, "; got != want {
			t.Errorf("after a good boot the environment is %s, not %s", got, want)
		}
	})
	step("the second is not, and has the data", func(t *testing.T) {
		m := vm.Machine{Disks: []vm.Disk{{Path: disk, Bus: "virtio", Keep: true}}}
		log := imagetest.Boot(t, m, `reboot: Power down`,
			vm.Reply{Seen: "starter ready", Type: "ls -d /data/*/ /data/config/*/ | tr '\\n' ' '; ls /etc/atomixos\n"},
			vm.Reply{Seen: "No such file", Type: "for n in 1 2; do dd if=/dev/vda$n of=/dev/vda$((n+2)) bs=1M count=128; done; sync; poweroff\n"})
		wantLines(t, log, "Slot A is chosen, which had 3 tries", "No changes.", "fresh flash: no",
			"/data/config/ /data/config/quadlet/ /data/config/ssh-authorized-keys/ /data/containers/ /data/logs/ ")
	})
	step("slot B, which the running system wrote, boots if asked for", func(t *testing.T) {
		log := vmUntil(t, ready("b"), "--keep", disk, "--slot", "b")
		wantLines(t, log, "Booting boot.1 from virtio 0:3", "fresh flash: no")
	})
	step("after three failures of A comes B", func(t *testing.T) {
		f, err := os.OpenFile(disk, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt(make([]byte, 4096), 144<<20); err != nil {
			t.Fatal(err)
		}
		log := vmUntil(t, provisioned, "--keep", disk)
		wantLines(t, log, "Slot A is chosen, which had 3 tries", "Slot A is chosen, which had 2 tries", "Slot A is chosen, which had 1 tries", "Slot B is chosen, which had 3 tries", "imgtool starter ready: slot b,")
		if n := strings.Count(log, "Booting boot.0 from virtio 0:1"); n != 3 {
			t.Errorf("slot A was booted %d times, not 3", n)
		}
		if got, want := tries(t, disk), "BOOT_A_LEFT=0, BOOT_B_LEFT=3, BOOT_ORDER=A B, "; got != want {
			t.Errorf("the environment is %s, not %s", got, want)
		}
	})
	t.Run("a disk of 64 GB", func(t *testing.T) {
		disk := filepath.Join(t.TempDir(), "disk")
		log := vmUntil(t, ready("a"), "--keep", disk, "--disk", "64000000000", img)
		wantLines(t, log, "fresh flash: yes", "/data mounted: f2fs on ")
		madeParts(t, disk, 64e9)
	})
}

func bytesAt(t *testing.T, path string, off int64, n int) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, n)
	if _, err := f.ReadAt(b, off); err != nil {
		t.Fatal(err)
	}
	return string(b)
}
