package disk_test

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"imgtool/flash/disk"
	"imgtool/flash/disk/disktest"
	"imgtool/flash/disk/usb"
)

var update = flag.Bool("update", false, "write the golden files")

func TestListRecordedMachines(t *testing.T) {
	files, err := filepath.Glob("testdata/machines/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".txt")
		t.Run(name, func(t *testing.T) {
			root := disktest.Machine(t, "testdata/machines/"+name+".txt")
			disks, err := disk.List(root)
			if err != nil {
				t.Fatal(err)
			}
			var got strings.Builder
			for _, d := range disks {
				fmt.Fprintf(&got, "%s: %d bytes, sectors of %d, bus %q, vendor %q, model %q, revision %q, serial %q, WWN %q, kind %q, removable %v, fixed %v, number %d\n",
					d.Path, d.Size, d.SectorSize, d.Bus, d.Vendor, d.Model, d.Rev, d.Serial, d.WWN, d.Kind, d.Removable, d.Fixed(), d.Diskseq)
				if u := d.USB; u != nil {
					fmt.Fprintf(&got, "\tUSB port %s: %s\n", u.Port, usbWords(*u))
				}
				for _, p := range d.Parts {
					fmt.Fprintf(&got, "\t%s at %d, %d bytes\n", p.Name, p.Off, p.Size)
				}
				verdict := "a target"
				if err := d.Check(disk.Need{SectorSize: 512}); err != nil {
					verdict = err.Error()
				}
				fmt.Fprintf(&got, "\t=> %s\n", verdict)
			}
			devices, err := disk.USBDevices(root)
			if err != nil {
				t.Fatal(err)
			}
			for _, u := range devices {
				if !slices.ContainsFunc(disks, func(d disk.Disk) bool { return d.USB != nil && *d.USB == u }) {
					fmt.Fprintf(&got, "USB port %s: %s\n", u.Port, usbWords(u))
				}
			}
			golden := strings.TrimSuffix(file, ".txt") + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got.String()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func usbWords(u usb.Device) string {
	return fmt.Sprintf("%s, release %q, manufacturer %q, product %q, serial %q, interface %q, driver %q",
		u.ID(), u.BCD, u.Manufacturer, u.Product, u.Serial, u.Interface, u.Driver)
}

func TestFindErrors(t *testing.T) {
	for _, c := range []struct{ name, machine, path, want string }{
		{"a partition", "laptop", "/dev/sda1", "a partition of /dev/sda: name the whole disk"},
		{"a link to a partition", "laptop", "/dev/disk/by-id/usb-SanDisk_Cruzer_Blade_4C530001-0:0-part1", "a partition of /dev/sda"},
		{"an optical drive", "laptop", "/dev/sr0", "an optical drive"},
		{"compressed memory", "laptop", "/dev/zram0", "compressed memory"},
		{"a loop device without a file", "laptop", "/dev/loop0", "a loop device without a file"},
		{"a logical volume", "luks-lvm", "/dev/mapper/vg-data", "a mapped device"},
		{"an array", "md", "/dev/md127", "an array"},
		{"a partition of an array", "md", "/dev/md127p1", "an array"},
		{"a boot partition of an eMMC", "board", "/dev/mmcblk2boot0", "the disk is /dev/mmcblk2"},
		{"another part of an eMMC", "board", "/dev/mmcblk2gp0", "the disk is /dev/mmcblk2"},
		{"a partition of such a part", "board", "/dev/mmcblk2gp0p1", "the disk is /dev/mmcblk2"},
		{"the protected part of an eMMC", "overlayroot", "/dev/mmcblk0rpmb", "the disk is /dev/mmcblk0"},
		{"a directory", "laptop", "/dev/disk", "a directory is not a disk"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := disk.Find(disktest.Machine(t, "testdata/machines/"+c.machine+".txt"), c.path)
			refused, ok := errors.AsType[*disk.RefusedError](err)
			if !ok || refused.Disk != c.path || !strings.Contains(refused.Reason, c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	if _, err := disk.Find("/", "/dev/null"); !strings.Contains(fmt.Sprint(err), "a character device is not a disk") {
		t.Error(err)
	}
	if _, err := disk.Find("/", t.TempDir()+"/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestFindFollowsLinks(t *testing.T) {
	d, err := disk.Find(disktest.Machine(t, "testdata/machines/laptop.txt"), "/dev/disk/by-id/usb-SanDisk_Cruzer_Blade_4C530001-0:0")
	if err != nil {
		t.Fatal(err)
	}
	if d.Path != "/dev/sda" || d.Check(disk.Need{}) != nil {
		t.Errorf("%+v", d)
	}
}

func TestFindRegularFile(t *testing.T) {
	d, err := disk.Find(disktest.Machine(t, "testdata/machines/reader.txt"), "/images/card.img")
	if err != nil {
		t.Fatal(err)
	}
	want := &disk.Disk{Path: "/images/card.img", Name: "card.img", Size: 13, SectorSize: 512, File: true}
	if diff := cmp.Diff(want, d, cmpopts.IgnoreUnexported(disk.Disk{})); diff != "" {
		t.Error(diff)
	}
	d, err = disk.Find(disktest.Machine(t, "testdata/machines/reader.txt"), "/swap file")
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Check(disk.Need{}); !strings.Contains(fmt.Sprint(err), "the file is swap") {
		t.Error(err)
	}
}

func TestCheckFixedDisk(t *testing.T) {
	nvme := disk.Disk{Path: "/dev/nvme0n1", Size: 1 << 30, SectorSize: 512, Bus: "nvme", Serial: "S5XX 1", WWN: "eui.0025385b21404321"}
	noSerial := nvme
	noSerial.Bus, noSerial.Serial = "scsi", ""
	nameless := noSerial
	nameless.Bus, nameless.WWN = "virtio", ""
	used := nvme
	used.InUse = []string{"/dev/nvme0n1p1 is swap"}
	stick := nvme
	stick.Path, stick.Bus, stick.USB, stick.Serial = "/dev/sda", "usb", &usb.Device{}, "4C53"
	file := disk.Disk{Path: "card.img", Size: 1 << 30, SectorSize: 512, File: true}

	ask := "/dev/nvme0n1: it is a fixed disk (nvme): if it is really meant, pass --fixed --serial \"S5XX 1\""
	for _, c := range []struct {
		name string
		disk disk.Disk
		need disk.Need
		want string
	}{
		{"use alone", nvme, disk.Need{}, "<nil>"},
		{"an image", nvme, disk.Need{SectorSize: 512}, ask},
		{"no serial", nvme, disk.Need{Fixed: true}, ask},
		{"no --fixed", nvme, disk.Need{Serial: "S5XX 1"}, ask},
		{"both", nvme, disk.Need{Fixed: true, Serial: "S5XX 1"}, "<nil>"},
		{"the serial of another", nvme, disk.Need{Fixed: true, Serial: "S5XX2"}, `/dev/nvme0n1: its serial number is "S5XX 1", not S5XX2: name the disk with that serial number`},
		{"the WWN of a disk that has a serial", nvme, disk.Need{Fixed: true, Serial: nvme.WWN}, `/dev/nvme0n1: its serial number is "S5XX 1", not eui.0025385b21404321: name the disk with that serial number`},
		{"the WWN of a disk without a serial", noSerial, disk.Need{Fixed: true, Serial: nvme.WWN}, "<nil>"},
		{"a disk with neither", nameless, disk.Need{Fixed: true, Serial: "1"}, "/dev/nvme0n1: it is a fixed disk (virtio) with neither a serial number nor a WWN: it cannot be distinguished from others"},
		{"a disk in use", used, disk.Need{Fixed: true, Serial: "S5XX 1"}, "/dev/nvme0n1: /dev/nvme0n1p1 is swap: unmount or release it first"},
		{"a stick", stick, disk.Need{SectorSize: 512}, "<nil>"},
		{"the serial of a stick", stick, disk.Need{Serial: "4C53"}, "<nil>"},
		{"the serial of another stick", stick, disk.Need{Serial: "4C54"}, "/dev/sda: its serial number is 4C53, not 4C54: name the disk with that serial number"},
		{"a file", file, disk.Need{SectorSize: 512}, "<nil>"},
		{"a serial and a file", file, disk.Need{Serial: "4C54"}, "card.img: it has no serial number, and --serial is 4C54: name the disk with that serial number"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := fmt.Sprint(c.disk.Check(c.need)); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestSystemDiskIsRefused(t *testing.T) {
	disks, err := disk.List("/")
	if err != nil {
		t.Fatal(err)
	}
	var root string
	for _, d := range disks {
		if d.System {
			root = d.Path
			if d.Check(disk.Need{}) == nil {
				t.Errorf("%s may be written", d.Path)
			}
			if _, err := disk.Open(&d); err == nil {
				t.Fatalf("%s was opened", d.Path)
			}
		}
	}
	if root == "" {
		t.Log("no disk carries /")
	}
}

func TestCheckSizes(t *testing.T) {
	small := disk.Disk{Path: "/dev/sdb", Size: 1 << 30, SectorSize: 512, Bus: "usb"}
	big := small
	big.SectorSize = 4096
	for _, c := range []struct {
		name string
		disk disk.Disk
		need disk.Need
		want string
	}{
		{"exactly as large as the image", small, disk.Need{Size: 1 << 30, Floor: 1 << 30, SectorSize: 512}, "<nil>"},
		{"one byte short", small, disk.Need{Size: 1<<30 + 1}, "/dev/sdb: 1073741824 bytes is too small: the image needs 1073741825 bytes: use a larger disk"},
		{"too small for the image", small, disk.Need{Size: 3 << 30}, "/dev/sdb: 1024 MiB is too small: the image needs 3072 MiB: use a larger disk"},
		{"too small for the board", small, disk.Need{Size: 1 << 20, Floor: 2385 << 20, Who: "rock64"}, "/dev/sdb: 1024 MiB is too small: rock64 needs 2385 MiB: use a larger disk"},
		{"large sectors", big, disk.Need{SectorSize: 512}, "/dev/sdb: its sectors have 4096 bytes and the image is made for 512: use a disk with 512-byte sectors"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := fmt.Sprint(c.disk.Check(c.need)); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}
