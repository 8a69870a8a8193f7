package boottest

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"imgtool/image/imagetest"
)

// On a Debian 12 with imgtool's package, the user at the computer flashes a removable disk
// without root and without a password. Over SSH, without the package's polkit rule and without
// UDisks2, one sentence names the command to run. Fixed disks are refused.
func TestFlashWithoutRoot(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	img := filepath.Join(dir, "x.img")
	imagetest.Run(t, "sh", "-ec", `truncate -s 64M "$1"; echo 'start=2048, size=100000, name=boot' | sfdisk -q --label gpt "$1"
		mkfs.vfat -n BOOT --offset 2048 "$1" 50000; dd if=/dev/urandom of="$1" bs=1M seek=20 count=20 conv=notrunc status=none; xz -k1 "$1"`, "sh", img)
	d := newDesktop(t, img, img+".xz")
	same := sparseFile(t, filepath.Join(dir, "same"), cardSize)
	imgtool(t, "flash", "--yes", "-i", img, same)
	flashed := func() {
		d.t.Helper()
		imagetest.Run(d.t, "cmp", d.card, same)
	}
	step := func(name string, do func(t *testing.T)) {
		t.Run(name, func(t *testing.T) {
			d.use(t)
			do(t)
		})
		d.use(t)
	}

	const flash = "imgtool flash --yes -i x.img /dev/sda"
	step("a session without a seat", func(t *testing.T) {
		oneSentence(t, d.ssh.want(5, "password is needed", "imgtool flash --yes -i x.img.xz /dev/sda"),
			"/dev/sda: to write to it, an administrator's password is needed, and this session has no program that asks for it",
			"run: sudo imgtool flash --yes -i x.img.xz /dev/sda")
		d.ssh.want(5, "run: sudo imgtool flash -i x.img /dev/sda\n", "imgtool flash -i x.img")
		d.ssh.want(0, "(?s)/dev/sda .*can be flashed with an administrator's password\n", "imgtool disks")
		d.ssh.want(5, "run: sudo imgtool verify -i x.img /dev/sda\n", "imgtool verify -i x.img /dev/sda")
		if card := imagetest.Read(t, d.card); !bytes.Equal(card, make([]byte, len(card))) {
			t.Error("the card was written")
		}
	})
	step("the user at the computer", func(t *testing.T) {
		d.wantDesk(0, "without root's rights, programs of other users .* cannot be seen", flash)
		flashed()
		d.root.want(0, "BOOT", "blkid /dev/sda1")
		d.wantDesk(0, "are as in x.img", "imgtool verify -i x.img /dev/sda")
		d.wantDesk(0, "boot", "imgtool ls /dev/sda")
	})
	step("a mounted card", func(t *testing.T) {
		d.wantDesk(0, "at /media/pi/BOOT", "udisksctl mount -b /dev/sda1")
		d.wantDesk(4, "/dev/sda1 is mounted at /media/pi/BOOT.*\n.*to unmount it: udisksctl unmount -b /dev/sda1", flash)
		d.wantDesk(0, "unmounted /media/pi/BOOT", "script -qec 'imgtool flash -i x.img /dev/sda' /dev/null < <(sleep 5; echo yes; sleep 3)")
		flashed()
		d.root.want(1, "", "findmnt /dev/sda1")
	})
	step("a card that the system uses", d.cardOfTheSystem)
	step("loop devices", d.loopDevices)
	step("an interrupted flash", func(t *testing.T) {
		d.wantDesk(130, "no partition table", "timeout --preserve-status -s INT 10 imgtool flash --delta no --yes -i - /dev/sda < <(head -c 30000000 x.img; sleep 30)")
		if table := imagetest.Read(t, d.card)[:1024]; !bytes.Equal(table, make([]byte, len(table))) {
			t.Error("the card has a partition table")
		}
		d.wantDesk(0, "", flash)
		flashed()
	})
	step("fixed disks", d.fixedDisks)
	step("the udev rule", d.udevRule)
	step("with a password", d.withPassword)
	step("without the rule", func(t *testing.T) {
		d.root.want(0, "", "mv /usr/share/polkit-1/rules.d/60-imgtool.rules /root; systemctl restart polkit")
		oneSentence(t, d.wantDesk(5, "password is needed", flash),
			"/dev/sda: to write to it, an administrator's password is needed, and this session has no program that asks for it", "run: sudo "+flash)
	})
	step("without UDisks2", func(t *testing.T) {
		d.root.want(0, "", "systemctl mask --now udisks2")
		oneSentence(t, d.wantDesk(5, "UDisks2", flash),
			"/dev/sda: only root may write to it, because UDisks2, which opens disks for other users, is not running", "run: sudo "+flash)
		d.root.want(0, "", "cd /home/pi && "+flash)
	})
	flashed()
}

// The rule is not for a disk that the system uses, even if it is mounted at /media as well.
func (d *desktop) cardOfTheSystem(t *testing.T) {
	d.root.want(0, "", "mount /dev/sda1 /srv")
	d.wantDesk(5, "password is needed", "imgtool ls /dev/sda")
	d.root.want(0, "", "mkdir -p /media/pi/too; mount -o nosuid /dev/sda1 /media/pi/too")
	d.wantDesk(5, "password is needed", "imgtool ls /dev/sda")
	d.root.want(0, "", "umount /srv")
	d.wantDesk(0, "boot", "imgtool ls /dev/sda")
	d.root.want(0, "", "mount -o remount,suid /dev/sda1 /media/pi/too")
	d.wantDesk(5, "password is needed", "imgtool ls /dev/sda")
	d.root.want(0, "", "umount /media/pi/too")
}

// The rule is for loop devices that the user set up through UDisks2, and not for what has the name
// of one later.
func (d *desktop) loopDevices(t *testing.T) {
	d.wantDesk(0, "as /dev/loop0", "truncate -s 100M own && udisksctl loop-setup -f own")
	d.wantDesk(0, "are as in x.img", "imgtool flash --yes -i x.img /dev/loop0 && imgtool verify -i x.img /dev/loop0")
	d.wantDesk(0, "", "cmp -i 1M -n 50M x.img own")
	d.ssh.want(5, "run: sudo imgtool flash", "imgtool flash --yes -i x.img /dev/loop0")
	d.root.want(0, "", "truncate -s 100M /home/pi/roots && losetup /dev/loop1 /home/pi/roots")
	d.wantDesk(5, "password is needed", "imgtool flash --yes -i x.img /dev/loop1")
	// Not a device of pi any more, under the same name.
	d.wantDesk(0, "", "udisksctl loop-delete -b /dev/loop0")
	d.root.want(0, "", "losetup -d /dev/loop1; losetup /dev/loop0 /home/pi/roots")
	d.wantDesk(5, "password is needed", "imgtool flash --yes -i x.img /dev/loop0")
	d.root.want(0, "", "losetup -d /dev/loop0")
	d.wantDesk(0, "as /dev/loop0", "udisksctl loop-setup -f own")
	d.root.want(0, "", "losetup -d /dev/loop0; losetup /dev/loop0 /home/pi/roots")
	d.wantDesk(5, "password is needed", "imgtool flash --yes -i x.img /dev/loop0")
	d.root.want(0, "", "cmp -n 100000000 /home/pi/roots /dev/zero; losetup -d /dev/loop0")
}

func (d *desktop) fixedDisks(t *testing.T) {
	d.wantDesk(4, "/dev/vd[ab]: it is a fixed disk", "imgtool flash --yes -i x.img /dev/disk/by-id/virtio-FIXED")
	d.wantDesk(5, "run: sudo imgtool flash", "imgtool flash --fixed --serial FIXED --yes -i x.img /dev/disk/by-id/virtio-FIXED")
	d.wantDesk(4, "this system runs from it", "imgtool flash --yes -i x.img /dev/disk/by-id/virtio-ROOT")
	if fixed := imagetest.Read(t, d.fixed); !bytes.Equal(fixed, make([]byte, len(fixed))) {
		t.Error("the fixed disk was written")
	}
}

func (d *desktop) udevRule(t *testing.T) {
	d.root.want(1, "", "journalctl -b | grep 70-imgtool.rules")
	d.wantDesk(0, "", "until [ -c /dev/ttyUSB0 ]; do sleep 0.2; done; test -w /dev/ttyUSB0")
	d.wantDesk(1, "", "test -w /dev/ttyS3")
}

func (d *desktop) withPassword(t *testing.T) {
	d.ssh.send("bash -c 'pkttyagent -p $$ & sleep 2; exec imgtool ls /dev/sda'\n")
	d.ssh.until("Password: ", 5*time.Minute)
	d.ssh.send("secret\n")
	d.ssh.until("boot", 5*time.Minute)
	d.ssh.want(0, "", "true")
}

// oneSentence checks that nothing but an error and its remedy is printed.
func oneSentence(t *testing.T, out string, lines ...string) {
	t.Helper()
	if want := "imgtool: " + strings.Join(lines, "\nimgtool: ") + "\n"; out != want {
		t.Errorf("printed\n%s, want\n%s", out, want)
	}
}
