package match_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"imgtool/flash/disk"
	"imgtool/flash/disk/disktest"
	"imgtool/flash/disk/match"
	"imgtool/flash/disk/usb"
)

var (
	rock64 = match.Board{USB: []match.USB{{
		VendorID: "2207", ProductIDs: []string{"320c", "330a", "0010"}, Interface: "08/06/50",
		Manufacturer: "Rockchip", Product: "USB download gadget",
		Vendor: "Linux", Model: `UMS disk \d+`, Rev: "ffff",
		MinSectors: 2385 << 20 / 512,
	}}}
	photon = match.Board{USB: []match.USB{{
		VendorID: "1d6b", ProductIDs: []string{"0104"}, Interface: "08/06/50",
		Manufacturer: "NVIDIA", Product: "Linux for Tegra",
		Vendor: "mmcblk0", Sectors: 30777344,
	}}}
)

func TestMatchFind(t *testing.T) {
	const nameIt = "it belongs to another board or another boot loader: to write it, name this disk"
	for _, c := range []struct {
		machine string
		match   match.Board
		hits    []string
		near    []string
	}{
		{"laptop", rock64, nil, nil},
		{"rock64-ums", rock64, []string{"/dev/sda"}, nil},
		{"rock64-ums", photon, nil, []string{
			"/dev/sda (USB device 2207:320c at port 1-2.3): a board in the mass storage mode of U-Boot, with another USB ID: " + nameIt,
		}},
		{"rock64-ums", match.Board{}, nil, []string{
			"/dev/sda (USB device 2207:320c at port 1-2.3): a board in the mass storage mode of U-Boot, with another USB ID: " + nameIt,
		}},
		{"rock64-maskrom", rock64, nil, []string{
			"/dev/sda (USB device 058f:6366 at port 1-4): a card reader without a card: insert the card",
			"USB device 2207:320c at port 1-2: a Rockchip board in maskrom or rockusb mode, without a disk: power it off and enter the mass storage mode of its boot loader; " +
				"if it comes back in this mode, the boot loader is missing: write its eMMC or card in a reader",
		}},
		{"rock64-near", rock64, nil, []string{
			`/dev/sda (USB device 1f3a:1010 at port 1-1): like the board's disk, but its USB ID is 1f3a:1010, not 2207:320c|330a|0010, its manufacturer is "Allwinner", not "Rockchip": ` + nameIt,
			"/dev/sdb (USB device 2207:330a at port 1-2): like the board's disk, but it has 262144 sectors, fewer than 4884480: " + nameIt,
			"/dev/sdc (USB device 2207:320c at port 1-3): the board's disk, without a medium: wait a moment; if this persists, the board finds no medium: check that the module or card is inserted",
			"/dev/sdd (USB device 0525:a4a5 at port 1-5): a disk that a Linux board shows, without identification: " + nameIt,
			"USB device 2207:320c at port 1-7: the board's USB device, without a disk: wait a moment; if this persists, load the kernel module usb-storage",
			"USB device 2207:320c at port 1-6: the board's USB device, in another mode without a disk (interface ff/42/03): power the board off and enter recovery mode again",
		}},
		{"photon", photon, []string{"/dev/sda"}, nil},
		{"photon-failed", photon, nil, []string{
			"/dev/sda (USB device 1d6b:0104 at port 2-1): flashpkg, the disk with a Jetson's status and logs: the flash failed on the board, or has not started: " +
				"read the status and logs on it, then put the board into recovery mode and start over",
		}},
		{"jetson", photon, nil, []string{
			"/dev/sda (USB device 0955:7020 at port 1-2): a Jetson that has booted, with a small disk that contains a README: power it off and put it into recovery mode",
			"USB device 0955:7e19 at port 1-3: a Jetson in forced recovery (APX), without a disk: boot a flashing initrd that shows the disk, such as the initrd-flash of meta-tegra",
			"USB device 0955:7035 at port 1-4.1: a Jetson in NVIDIA's initrd flash, which uses a network and shows no disk: " +
				"let NVIDIA's tool finish, or boot a flashing initrd that shows the disk, such as the initrd-flash of meta-tegra",
		}},
		// Even with a wide definition, a decoy never matches, nor does a disk that is not on
		// USB or an entry without a vendor.
		{"jetson", match.Board{USB: []match.USB{{VendorID: "0955"}, {Interface: "08"}}}, nil, []string{
			"/dev/sda (USB device 0955:7020 at port 1-2): a Jetson that has booted, with a small disk that contains a README: power it off and put it into recovery mode",
			"USB device 0955:7e19 at port 1-3: a Jetson in forced recovery (APX), without a disk: boot a flashing initrd that shows the disk, such as the initrd-flash of meta-tegra",
			"USB device 0955:7035 at port 1-4.1: a Jetson in NVIDIA's initrd flash, which uses a network and shows no disk: " +
				"let NVIDIA's tool finish, or boot a flashing initrd that shows the disk, such as the initrd-flash of meta-tegra",
		}},
		{"twins", match.Board{USB: []match.USB{{VendorID: "0781", ProductIDs: []string{"5567"}}}}, []string{"/dev/sda", "/dev/sdb"}, nil},
		{"twins", match.Board{USB: []match.USB{{VendorID: "0781", Product: "("}}}, nil, []string{
			`/dev/sda (USB device 0781:5567 at port 1-1): like the board's disk, but its product is "Cruzer Blade", not "(": ` + nameIt,
			`/dev/sdb (USB device 0781:5567 at port 1-2): like the board's disk, but its product is "Cruzer Blade", not "(": ` + nameIt,
		}},
	} {
		t.Run(c.machine, func(t *testing.T) {
			root := disktest.Machine(t, "../testdata/machines/"+c.machine+".txt")
			disks, err := disk.List(root)
			if err != nil {
				t.Fatal(err)
			}
			devices, err := disk.USBDevices(root)
			if err != nil {
				t.Fatal(err)
			}
			hits, near := c.match.Find(disks, devices)
			var got, said []string
			for _, d := range hits {
				got = append(got, d.Path)
			}
			for _, s := range near {
				said = append(said, s.String())
				if slices.ContainsFunc(hits, func(d disk.Disk) bool { return d.USB.Port == s.USB.Port }) {
					t.Errorf("%v is a hit as well", s)
				}
			}
			if diff := cmp.Diff(c.hits, got); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(c.near, said); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Each mark alone keeps a disk from being a hit.
func TestMatchComparesEveryField(t *testing.T) {
	board := func() disk.Disk {
		return disk.Disk{
			Path: "/dev/sda", Size: 30535680 * 512, SectorSize: 512, Bus: "usb", Vendor: "Linux", Model: "UMS disk 0", Rev: "ffff",
			USB: &usb.Device{Port: "1-1", VendorID: "2207", ProductID: "320c", Interface: "08/06/50", Manufacturer: "Rockchip", Product: "USB download gadget"},
		}
	}
	for name, change := range map[string]func(*disk.Disk){
		"bus":          func(d *disk.Disk) { d.USB = nil },
		"vendor id":    func(d *disk.Disk) { d.USB.VendorID = "2208" },
		"product id":   func(d *disk.Disk) { d.USB.ProductID = "320d" },
		"interface":    func(d *disk.Disk) { d.USB.Interface = "08/06/62" },
		"manufacturer": func(d *disk.Disk) { d.USB.Manufacturer = "Rockchips" },
		"product":      func(d *disk.Disk) { d.USB.Product = "A USB download gadget" },
		"vendor":       func(d *disk.Disk) { d.Vendor = "" },
		"model":        func(d *disk.Disk) { d.Model = "UMS disk" },
		"revision":     func(d *disk.Disk) { d.Rev = "fff" },
		"size":         func(d *disk.Disk) { d.Size = 2385<<20 - 512 },
		"medium":       func(d *disk.Disk) { d.Size = 0 },
		"flashpkg":     func(d *disk.Disk) { d.Vendor = "flashpkg" },
	} {
		d := board()
		if hits, near := rock64.Find([]disk.Disk{d}, nil); len(hits) != 1 || near != nil {
			t.Fatal(hits, near)
		}
		change(&d)
		if hits, _ := rock64.Find([]disk.Disk{d}, nil); hits != nil {
			t.Errorf("another %s: still a hit", name)
		}
	}
	exact := board()
	exact.USB.VendorID, exact.USB.ProductID, exact.USB.Manufacturer, exact.USB.Product = "1d6b", "0104", "NVIDIA", "Linux for Tegra"
	exact.Vendor = "mmcblk0"
	for _, sectors := range []int64{30777343, 30777344, 30777345} {
		exact.Size = sectors * 512
		if hits, _ := photon.Find([]disk.Disk{exact}, nil); (len(hits) == 1) != (sectors == 30777344) {
			t.Errorf("%d sectors: %v", sectors, hits)
		}
	}
}

func TestPatternUnmarshalText(t *testing.T) {
	var p match.Pattern
	if err := p.UnmarshalText([]byte(`UMS disk \d+`)); err != nil || p != `UMS disk \d+` {
		t.Error(p, err)
	}
	if err := p.UnmarshalText([]byte("(")); !strings.Contains(fmt.Sprint(err), "missing closing )") {
		t.Error(err)
	}
}
