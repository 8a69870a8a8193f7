package boottest

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"imgtool/image/imagetest"
	"imgtool/image/vm"
)

const (
	provisioned = `^first-boot: provisioned`
	waiting     = `^first-boot: no seed was found; waiting`
)

// tries returns the boot counts as fw_printenv reads them, or nothing if none were written.
func tries(t *testing.T, disk string) string {
	t.Helper()
	if strings.Trim(bytesAt(t, disk, 0x3f0000, 512), "\x00") == "" {
		return ""
	}
	return strings.ReplaceAll(imagetest.Run(t, "fw_printenv", "-c", triesConfig(t, disk)), "\n", ", ")
}

// setTries sets a variable of the boot counts.
func setTries(t *testing.T, disk, name, value string) {
	t.Helper()
	imagetest.Run(t, "fw_setenv", "-c", triesConfig(t, disk), name, value)
}

func triesConfig(t *testing.T, disk string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "fw_env.config")
	if err := os.WriteFile(file, []byte(disk+" 0x3F0000 0x200\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// gap returns the bytes between the table and the first partition.
func gap(t *testing.T, disk string) string {
	t.Helper()
	return bytesAt(t, disk, 34*512, 16<<20-34*512)
}

// table returns the partitions as sfdisk reads them: number, start and size in sectors, type, name.
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

// madeParts checks the partitions that the first boot made on a disk of size bytes.
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
	bootB := filepath.Join(t.TempDir(), "boot-b")
	imagetest.Run(t, "dd", "if="+disk, "of="+bootB, "bs=1M", "skip=1168", "count=128", "conv=sparse", "status=none")
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

// otherSlot is a device with an image, an update for its slot B, and a disk.
type otherSlot struct{ img, update, disk string }

// A device on the smallest disk boots, writes another build to slot B, switches to it, and
// goes back to slot A when slot B fails.
func TestADeviceFromItsFirstBootToItsOtherSlot(t *testing.T) {
	t.Parallel()
	needVM(t)
	d := &otherSlot{starter(t, "boot-1"), starter(t, "boot-2"), filepath.Join(t.TempDir(), "disk")}
	imgtool(t, "seed", "put", d.img, newSite(t).seed)
	for _, step := range []struct {
		name string
		do   func(t *testing.T)
	}{
		{"the first boot is fresh and makes the partitions", d.firstBoot},
		{"the second is not, has the data, and writes slot B", d.writesSlotB},
		{"slot A is good, and its boots are not counted", d.goodSlot},
		{"slot B is tried when the running system asks for it, and is good then", d.trialOfB},
		{"after three failures of B comes A", d.failureOfB},
	} {
		if !t.Run(step.name, step.do) {
			t.FailNow()
		}
	}
	if os.Getenv("SOAK") == "" {
		return
	}
	t.Run("a disk of 64 GB", func(t *testing.T) {
		disk := filepath.Join(t.TempDir(), "disk")
		log := vmUntil(t, readyLine("a", "boot-1"), "--keep", disk, "--disk", "64000000000", d.img)
		wantLines(t, log, "fresh flash: yes", "/data mounted: f2fs on ")
		madeParts(t, disk, 64e9)
	})
}

// readyLine matches the last line of the starter in a slot.
func readyLine(slot, build string) string {
	return fmt.Sprintf(`^imgtool starter ready: slot %s, build %s, root overlay$`, slot, build)
}

// boots boots until provisioned and compares the boot counts afterwards.
func (d *otherSlot) boots(t *testing.T, want string, lines ...string) string {
	t.Helper()
	log := vmUntil(t, provisioned, "--keep", d.disk)
	wantLines(t, log, lines...)
	if got := tries(t, d.disk); got != want {
		t.Errorf("the tries are %s, not %s", got, want)
	}
	return log
}

// The first boot is fresh and makes the partitions.
func (d *otherSlot) firstBoot(t *testing.T) {
	before := hashFile(t, d.img)
	log := vmUntil(t, provisioned, "--keep", d.disk, "--disk", "2385MiB", d.img)
	if hashFile(t, d.img) != before {
		t.Error("the image was changed")
	}
	wantLines(t, log, "Build ID: boot-1", "Slot A is the only one: its boots are not counted",
		"Recovery by the button is not possible: this U-Boot has no gpio command", "fresh flash: yes", "/data mounted: f2fs on ")
	madeParts(t, d.disk, 2385<<20)
	// The boot loaders were not discarded.
	for _, at := range []int64{64 * 512, 16384 * 512} {
		if a, b := bytesAt(t, d.img, at, 1<<16), bytesAt(t, d.disk, at, 1<<16); a != b {
			t.Errorf("the boot loader at byte %d is gone", at)
		}
	}
	if got, want := tries(t, d.disk), "BOOT_A_LEFT=good, BOOT_ORDER=A B, "; got != want {
		t.Errorf("after a good boot the tries are %s, not %s", got, want)
	}
}

// The second boot is not fresh, has the data, and writes slot B.
func (d *otherSlot) writesSlotB(t *testing.T) {
	before := gap(t, d.disk)
	m := vm.Machine{Disks: []vm.Disk{{Path: d.disk, Bus: "virtio", Keep: true}, {Path: d.update, Bus: "virtio"}}}
	log := imagetest.Boot(t, m, `reboot: Power down`,
		vm.Reply{Seen: "first-boot: provisioned", Type: "\nls -d /data/*/ /data/config/*/ | tr '\\n' ' '; cat /proc/mounts; ls /etc/atomixos\n"},
		vm.Reply{Seen: "No such file", Type: "for n in 1 2; do dd if=/dev/vdb$n of=/dev/vda$((n+2)) bs=1M count=128; done; sync; poweroff\n"})
	wantLines(t, log, "Slot A is the only one: its boots are not counted", "No changes.", "fresh flash: no",
		"/data/config/ /data/config/quadlet/ /data/config/ssh-authorized-keys/ /data/containers/ /data/logs/ ",
		"/dev/vda2 /run/rootfs-base squashfs ro,", "overlay / overlay rw,relatime,lowerdir=/run/rootfs-base,upperdir=/run/overlay-root/upper,workdir=/run/overlay-root/work",
		"overlay-root /run/overlay-root tmpfs rw,")
	if gap(t, d.disk) != before {
		t.Error("a boot of the only slot wrote before the first partition")
	}
}

// Boots of slot A, which is good, are not counted.
func (d *otherSlot) goodSlot(t *testing.T) {
	before := gap(t, d.disk)
	d.boots(t, "BOOT_A_LEFT=good, BOOT_ORDER=A B, ", "Slot A is good: its boots are not counted", "imgtool starter ready: slot a, build boot-1,")
	if gap(t, d.disk) != before {
		t.Error("a boot of a good slot wrote before the first partition")
	}
}

// The running system selects slot B, which is tried and marked good.
func (d *otherSlot) trialOfB(t *testing.T) {
	m := vm.Machine{Disks: []vm.Disk{{Path: d.disk, Bus: "virtio", Keep: true}}}
	imagetest.Boot(t, m, `reboot: Power down`,
		vm.Reply{Seen: "first-boot: provisioned", Type: "\nfw_setenv BOOT_B_LEFT 3 && fw_setenv BOOT_ORDER 'B A' && poweroff\n"})
	const good = "BOOT_A_LEFT=good, BOOT_B_LEFT=good, BOOT_ORDER=B A, "
	log := d.boots(t, good, "Slot B is on trial; tries left after this one: 2", "Build ID: boot-2", "Booting boot.1 from virtio 0:3", "fresh flash: no")
	if !regexp.MustCompile(`(?m)` + readyLine("b", "boot-2")).MatchString(strings.ReplaceAll(log, "\r", "")) {
		t.Errorf("slot B does not have its own root:\n%s", log)
	}
	before := gap(t, d.disk)
	d.boots(t, good, "Slot B is good: its boots are not counted", "imgtool starter ready: slot b, build boot-2,")
	if gap(t, d.disk) != before {
		t.Error("a boot of a good slot wrote before the first partition")
	}
}

// After three failures of slot B, slot A is booted.
func (d *otherSlot) failureOfB(t *testing.T) {
	f, err := os.OpenFile(d.disk, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(make([]byte, 4096), 1296<<20); err != nil {
		t.Fatal(err)
	}
	setTries(t, d.disk, "BOOT_B_LEFT", "3")
	log := d.boots(t, "BOOT_A_LEFT=good, BOOT_B_LEFT=0, BOOT_ORDER=B A, ", "Slot B is on trial; tries left after this one: 2", "Slot B is on trial; tries left after this one: 1",
		"Slot B is on trial; tries left after this one: 0", "Slot A is good: its boots are not counted", "imgtool starter ready: slot a, build boot-1,")
	if n := strings.Count(log, "Booting boot.1 from virtio 0:3"); n != 3 {
		t.Errorf("slot B was booted %d times, not 3", n)
	}
}

// If U-Boot's boot method for RAUC has chosen the only slot, BOOT_ORDER contains only that
// slot afterwards, and Linux does not use the boot counts of the script.
func TestTheOnlySlotOfABootMethod(t *testing.T) {
	t.Parallel()
	needVM(t)
	img := starter(t, "boot-1")
	env := filepath.Join(t.TempDir(), "env")
	sparseFile(t, env, vm.EnvSize)
	const script = "virtio scan; setenv devtype virtio; setenv devnum 0; setenv distro_bootpart 1; setenv raucargs rauc.slot=A; " +
		"setenv BOOT_ORDER 'A B'; load virtio 0:1 ${scriptaddr} boot.scr; source ${scriptaddr}\n"
	m := vm.Machine{Disks: []vm.Disk{{Path: img, Bus: "virtio"}}, Env: env}
	log := imagetest.Boot(t, m, `^imgtool starter ready: slot a, build boot-1,`, vm.Reply{Seen: "Hit any key", Type: "\n"}, vm.Reply{Seen: "=> ", Type: script})
	for _, text := range []string{"imgtool.tries=", "panic=", "Slot A is"} {
		if strings.Contains(log, text) {
			t.Errorf("the script has chosen, too: %q is printed:\n%s", text, log)
		}
	}
	// saveenv writes the text before it fails with a timeout of QEMU's flash.
	if saved := bytesAt(t, env, 0, 4096); !strings.Contains(saved, "BOOT_ORDER=A\x00") {
		t.Errorf("BOOT_ORDER is not saved as A: %.100q", saved)
	}
}
