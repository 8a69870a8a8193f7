package deploy

import (
	"slices"
	"strings"
	"testing"
	"time"

	"imgtool/boards"
	"imgtool/flash/disk"
	"imgtool/flash/disk/usb"
	"imgtool/image/fault"
	"imgtool/image/imagetest"
)

// ums returns the eMMC of a Rock64 as U-Boot shows it.
func ums(path, serial, port string) disk.Disk {
	return disk.Disk{Path: path, Name: strings.TrimPrefix(path, "/dev/"), Size: 15 << 30, SectorSize: 512, Vendor: "Linux", Model: "UMS disk 0", Rev: "ffff", Removable: true, Bus: "usb",
		USB: &usb.Device{VendorID: "2207", ProductID: "320c", Manufacturer: "Rockchip", Product: "USB download gadget", Serial: serial, Port: port, Interface: "08/06/50"}}
}

func stick(path string) disk.Disk {
	return disk.Disk{Path: path, Size: 16 << 30, SectorSize: 512, Vendor: "SanDisk", Model: "Ultra", Rev: "1.00", Removable: true, Bus: "usb",
		USB: &usb.Device{VendorID: "0781", ProductID: "5581", Manufacturer: "SanDisk", Product: "Ultra", Serial: "77", Port: "1-9", Interface: "08/06/50"}}
}

func TestRecoveryWaitsForTheOnlyDisk(t *testing.T) {
	board, err := boards.Get("rock64")
	if err != nil {
		t.Fatal(err)
	}
	maskrom := usb.Device{VendorID: "2207", ProductID: "320c", Port: "1-2", Interface: "ff/06/05"}
	for _, c := range []struct {
		name         string
		serial, port string
		disks        func(n int) ([]disk.Disk, []usb.Device) // at the nth look
		want         string                                  // path, or part of the error
		said         string
	}{
		{"it is there at once", "", "", func(int) ([]disk.Disk, []usb.Device) {
			return []disk.Disk{stick("/dev/sda"), ums("/dev/sdb", "a1", "1-2")}, nil
		}, "/dev/sdb", "hold the reset button"},
		{"it comes later, after the boot ROM", "", "", func(n int) ([]disk.Disk, []usb.Device) {
			if n < 6 {
				return []disk.Disk{stick("/dev/sda")}, []usb.Device{maskrom}
			}
			return []disk.Disk{stick("/dev/sda"), ums("/dev/sdb", "a1", "1-2")}, nil
		}, "/dev/sdb", "port 1-2"},
		{"another name each time until it stays", "", "", func(n int) ([]disk.Disk, []usb.Device) {
			return []disk.Disk{ums([]string{"/dev/sdb", "/dev/sdc", "/dev/sdd"}[min(n, 2)], "a1", "1-2")}, nil
		}, "/dev/sdd", ""},
		{"two of them", "", "", func(n int) ([]disk.Disk, []usb.Device) {
			return []disk.Disk{ums("/dev/sdb", "a1", "1-2"), ums("/dev/sdc", "", "1-3")}, nil
		}, "there are 2 in recovery mode: /dev/sdb (serial a1, port 1-2), /dev/sdc (serial none, port 1-3); say which with --serial or --port", ""},
		{"two of them, one by serial", "a1", "", func(n int) ([]disk.Disk, []usb.Device) {
			return []disk.Disk{ums("/dev/sdb", "b2", "1-2"), ums("/dev/sdc", "a1", "1-3")}, nil
		}, "/dev/sdc", "/dev/sdb (serial b2, port 1-2) is a rock64, and not the one asked for"},
		{"two of them, one by port", "", "1-2", func(n int) ([]disk.Disk, []usb.Device) {
			return []disk.Disk{ums("/dev/sdb", "a1", "1-2"), ums("/dev/sdc", "a1", "1-3")}, nil
		}, "/dev/sdb", ""},
		{"none", "", "", func(n int) ([]disk.Disk, []usb.Device) {
			return []disk.Disk{stick("/dev/sda")}, nil
		}, "no rock64 in recovery mode showed up in", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var rep imagetest.Recorder
			r := Recovery{Board: board, Serial: c.serial, Port: c.port, Timeout: 400 * time.Millisecond, settle: 20 * time.Millisecond}
			n := -1
			r.look = func() ([]disk.Disk, []usb.Device, error) {
				n++
				disks, devices := c.disks(n)
				return disks, devices, nil
			}
			d, err := r.Wait(t.Context(), &rep)
			switch {
			case strings.HasPrefix(c.want, "/dev/"):
				if err != nil || d.Path != c.want {
					t.Errorf("%v, %v", d, err)
				}
			case err == nil || !strings.Contains(err.Error(), c.want):
				t.Errorf("%v, %v", d, err)
			}
			if !strings.Contains(rep.String(), c.said) {
				t.Errorf("it reported %q", rep.String())
			}
			kind := map[bool]string{strings.HasPrefix(c.want, "there are"): fault.Refused, strings.HasPrefix(c.want, "no "): fault.Gone}[true]
			if fault.Kind(err) != kind {
				t.Errorf("the error is of kind %q, want %q", fault.Kind(err), kind)
			}
		})
	}
}

// jetson returns a disk of a module that runs a flashing initrd.
func jetson(path, vendor string, size int64) disk.Disk {
	return disk.Disk{Path: path, Size: size, SectorSize: 512, Vendor: vendor, Model: "9f1c2e3d", Removable: true, Bus: "usb",
		USB: &usb.Device{VendorID: "1d6b", ProductID: "0104", BCD: "0001", Manufacturer: "NVIDIA", Product: "Linux for Tegra", Serial: "9f1c2e3d", Port: "2-1", Interface: "08/06/50"}}
}

// The medium of the image selects a disk of the board.
func TestRecoveryTakesTheDiskOfTheMedium(t *testing.T) {
	board, err := boards.Get("photon-nx")
	if err != nil {
		t.Fatal(err)
	}
	emmc, nvme := jetson("/dev/sda", "mmcblk0", 15758000128), jetson("/dev/sda", "nvme0n1", 512110190592)
	for _, c := range []struct {
		medium string
		disk   disk.Disk
		want   string
		said   string
	}{
		{"emmc", emmc, "/dev/sda", "hold SW2 for 10 seconds"},
		{"nvme", nvme, "/dev/sda", ""},
		{"emmc", nvme, "no photon-nx in recovery mode", `its vendor is "nvme0n1", not "mmcblk0"`},
		{"nvme", emmc, "no photon-nx in recovery mode", `its vendor is "mmcblk0", not "nvme0n1"`},
		{"emmc", jetson("/dev/sda", "mmcblk0", 62<<30), "no photon-nx in recovery mode", "sectors, not 30777344"},
		{"emmc", jetson("/dev/sda", "flashpkg", 128<<20), "no photon-nx in recovery mode", "the flash failed on the board"},
		{"sd", emmc, "the sd of photon-nx does not show up over USB: name the disk", ""},
	} {
		var rep imagetest.Recorder
		r := Recovery{Board: board, Medium: c.medium, Timeout: 200 * time.Millisecond, settle: 20 * time.Millisecond}
		r.look = func() ([]disk.Disk, []usb.Device, error) { return []disk.Disk{c.disk}, nil, nil }
		d, err := r.Wait(t.Context(), &rep)
		if strings.HasPrefix(c.want, "/dev/") && (err != nil || d.Path != c.want) || !strings.HasPrefix(c.want, "/dev/") && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s on %s: %v, %v", c.medium, c.disk.Vendor, d, err)
		}
		if !strings.Contains(rep.String(), c.said) {
			t.Errorf("%s on %s: it reported %q, want %q", c.medium, c.disk.Vendor, rep.String(), c.said)
		}
	}
}

// A disk that differs in one property that the board's definition has is not the board's.
func TestMatchRequiresEachProperty(t *testing.T) {
	changes := map[string]func(*disk.Disk){
		"vendor-id":    func(d *disk.Disk) { d.USB.VendorID = "1f3a" },
		"product-id":   func(d *disk.Disk) { d.USB.ProductID = "1010" },
		"interface":    func(d *disk.Disk) { d.USB.Interface = "ff/42/03" },
		"manufacturer": func(d *disk.Disk) { d.USB.Manufacturer = "Allwinner" },
		"product":      func(d *disk.Disk) { d.USB.Product = "Mass Storage" },
		"vendor":       func(d *disk.Disk) { d.Vendor = "Generic" },
		"model":        func(d *disk.Disk) { d.Model = "Ultra" },
		"rev":          func(d *disk.Disk) { d.Rev = "1.00" },
		"sectors":      func(d *disk.Disk) { d.Size += 512 },
	}
	const jetsons = "vendor-id product-id interface manufacturer product vendor"
	for _, c := range []struct {
		board, medium string
		disk          func() disk.Disk
		required      string // all other properties may differ
	}{
		{"rock64", "emmc", func() disk.Disk { return ums("/dev/sdb", "a1", "1-2") }, "vendor-id product-id interface manufacturer product vendor model rev"},
		{"photon-nx", "emmc", func() disk.Disk { return jetson("/dev/sdb", "mmcblk0", 15758000128) }, jetsons + " sectors"},
		{"photon-nx", "nvme", func() disk.Disk { return jetson("/dev/sdb", "nvme0n1", 512110190592) }, jetsons},
		{"photon-nx-agent", "emmc", func() disk.Disk { return jetson("/dev/sdb", "mmcblk0", 15758000128) }, jetsons + " sectors"},
		{"photon-nx-agent", "nvme", func() disk.Disk { return jetson("/dev/sdb", "nvme0n1", 512110190592) }, jetsons},
	} {
		board, err := boards.Get(c.board)
		if err != nil {
			t.Fatal(err)
		}
		m := wanted(board, c.medium)
		if hits, _ := m.Find([]disk.Disk{c.disk()}, nil); len(hits) != 1 {
			t.Errorf("%s: the %s is not found", c.board, c.medium)
		}
		for name, change := range changes {
			d := c.disk()
			change(&d)
			hits, _ := m.Find([]disk.Disk{d}, nil)
			if required := slices.Contains(strings.Fields(c.required), name); required == (len(hits) > 0) {
				t.Errorf("%s: with another %s a disk matches the %s: %v", c.board, name, c.medium, len(hits) > 0)
			}
		}
	}
}
