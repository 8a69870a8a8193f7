// Package match finds the disk that a board in recovery mode shows over USB.
package match

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"imgtool/flash/disk"
	"imgtool/flash/disk/usb"
)

// Board describes the disk that a board in recovery mode shows over USB: it must match an
// entry of USB. It is part of the definition of a board and prevents mistakes, not attacks: a USB
// device can claim to be another one.
type Board struct {
	USB []USB
}

// USB describes a disk on USB. Fields that are empty or zero match any disk, except that
// an empty VendorID matches none.
type USB struct {
	VendorID   string   // as in [usb.Device]
	ProductIDs []string // any of these
	Interface  string   // as in [usb.Device], or the beginning of it: 08 is any disk

	Manufacturer, Product Pattern // strings of the USB device
	Vendor, Model, Rev    Pattern // of the SCSI inquiry data

	Sectors    int64 // exact size in units of 512 bytes
	MinSectors int64 // smallest size in units of 512 bytes
}

// Pattern is a regular expression that matches a whole string without surrounding white
// space. The empty pattern matches any string.
type Pattern string

// UnmarshalText returns an error for an invalid regular expression.
func (p *Pattern) UnmarshalText(text []byte) error {
	if _, err := regexp.Compile(string(text)); err != nil {
		return err
	}
	*p = Pattern(text)
	return nil
}

func (p Pattern) matches(s string) bool {
	if p == "" {
		return true
	}
	re, err := regexp.Compile("^(?:" + string(p) + ")$")
	return err == nil && re.MatchString(strings.TrimSpace(s))
}

// Sighting is a disk or device on USB that could be mistaken for the board's disk, or that
// explains why the disk is missing.
type Sighting struct {
	Disk  *disk.Disk // nil for another device
	USB   usb.Device // of the disk or device
	State string     // a description of it
	Do    string     // advice for the user
}

func (s Sighting) String() string {
	where := fmt.Sprintf("USB device %s at port %s", s.USB.ID(), s.USB.Port)
	if s.Disk != nil {
		where = fmt.Sprintf("%s (%s)", s.Disk.Path, where)
	}
	return fmt.Sprintf("%s: %s: %s", where, s.State, s.Do)
}

// Find returns the disks that match and have a medium, and sightings among the other disks
// and devices. [disk.USBDevices] returns the devices. It does not call [disk.Disk.Check]. A port has
// at most one sighting, and none if its disk matches.
func (m Board) Find(disks []disk.Disk, devices []usb.Device) (hits []disk.Disk, near []Sighting) {
	done := map[string]bool{}   // ports with a hit or a sighting
	medium := map[string]bool{} // whether a disk at a port has a medium
	sight := func(d *disk.Disk, u usb.Device, state, do string) {
		if !done[u.Port] {
			done[u.Port] = true
			near = append(near, Sighting{d, u, state, do})
		}
	}
	disks = slices.DeleteFunc(slices.Clone(disks), func(d disk.Disk) bool { return d.USB == nil })
	for _, d := range disks {
		medium[d.USB.Port] = medium[d.USB.Port] || d.Size > 0
		if d.Size > 0 && known(decoys, *d.USB, &d) == nil && m.is(&d) {
			done[d.USB.Port] = true
			hits = append(hits, d)
		}
	}
	for _, d := range disks {
		if s := known(decoys, *d.USB, &d); s != nil {
			sight(&d, *d.USB, s.what, s.do)
		} else if m.is(&d) && d.Size == 0 {
			sight(&d, *d.USB, "the board's disk, without a medium", "wait a moment; if this persists, the board finds no medium: check that the module or card is inserted")
		} else if what := m.almost(&d); what != "" {
			sight(&d, *d.USB, what, nameIt)
		} else if s := known(anyBoard, *d.USB, &d); s != nil {
			sight(&d, *d.USB, s.what, s.do)
		} else if d.Removable && !medium[d.USB.Port] {
			sight(&d, *d.USB, "a card reader without a card", "insert the card")
		}
	}
	devices = slices.DeleteFunc(slices.Clone(devices), func(u usb.Device) bool {
		_, isDisk := medium[u.Port]
		return isDisk
	})
	for _, u := range devices {
		if s := known(noDisks, u, nil); s != nil {
			sight(nil, u, s.what, s.do)
		} else if entry := m.byID(u); entry != nil && entry.hasInterface(u) {
			sight(nil, u, "the board's USB device, without a disk", "wait a moment; if this persists, load the kernel module usb-storage")
		}
	}
	for _, u := range devices {
		if m.byID(u) != nil {
			sight(nil, u, fmt.Sprintf("the board's USB device, in another mode without a disk (interface %s)", cmp.Or(u.Interface, "not configured")),
				"power the board off and enter recovery mode again")
		}
	}
	return hits, near
}

const nameIt = "it belongs to another board or another boot loader: to write it, name this disk"

func (m Board) is(d *disk.Disk) bool {
	return slices.ContainsFunc(m.USB, func(u USB) bool {
		return u.VendorID != "" && len(u.differences(d)) == 0
	})
}

// almost describes how a disk with the USB ID or the inquiry data of the board's disk
// differs from it, or returns "".
func (m Board) almost(d *disk.Disk) string {
	var all [][]string
	for _, u := range m.USB {
		inquiry := u.Vendor+u.Model != "" && u.Vendor.matches(d.Vendor) && u.Model.matches(d.Model)
		if u.id(*d.USB) || inquiry {
			all = append(all, u.differences(d))
		}
	}
	if len(all) == 0 {
		return ""
	}
	least := slices.MinFunc(all, func(a, b []string) int { return len(a) - len(b) })
	return "like the board's disk, but " + strings.Join(least, ", ")
}

// byID returns the entry with the vendor and product IDs of u, or nil.
func (m Board) byID(u usb.Device) *USB {
	for i := range m.USB {
		if m.USB[i].id(u) {
			return &m.USB[i]
		}
	}
	return nil
}

func (m USB) id(u usb.Device) bool {
	return m.VendorID != "" && strings.EqualFold(m.VendorID, u.VendorID) &&
		(len(m.ProductIDs) == 0 || slices.ContainsFunc(m.ProductIDs, func(id string) bool { return strings.EqualFold(id, u.ProductID) }))
}

func (m USB) hasInterface(u usb.Device) bool {
	return m.Interface == "" || strings.HasPrefix(u.Interface+"/", strings.ToLower(m.Interface)+"/")
}

// differences describes how a disk on USB differs from m.
func (m USB) differences(d *disk.Disk) (diff []string) {
	if !m.id(*d.USB) {
		want := m.VendorID
		if len(m.ProductIDs) > 0 {
			want += ":" + strings.Join(m.ProductIDs, "|")
		}
		diff = append(diff, fmt.Sprintf("its USB ID is %s, not %s", d.USB.ID(), want))
	}
	if !m.hasInterface(*d.USB) {
		diff = append(diff, fmt.Sprintf("its interface is %s, not %s", d.USB.Interface, m.Interface))
	}
	for _, s := range []struct {
		name string
		want Pattern
		got  string
	}{
		{"manufacturer", m.Manufacturer, d.USB.Manufacturer},
		{"product", m.Product, d.USB.Product},
		{"vendor", m.Vendor, d.Vendor},
		{"model", m.Model, d.Model},
		{"revision", m.Rev, d.Rev},
	} {
		if !s.want.matches(s.got) {
			diff = append(diff, fmt.Sprintf("its %s is %q, not %q", s.name, s.got, s.want))
		}
	}
	// A disk without a medium is recognized by its other properties.
	if n := d.Size / 512; n > 0 && m.Sectors != 0 && n != m.Sectors {
		diff = append(diff, fmt.Sprintf("it has %d sectors, not %d", n, m.Sectors))
	} else if n > 0 && n < m.MinSectors {
		diff = append(diff, fmt.Sprintf("it has %d sectors, fewer than %d", n, m.MinSectors))
	}
	return diff
}

// state is a known state of a board or program on USB.
type state struct {
	vendor   string   // USB vendor ID
	products []string // product IDs, or any if empty
	iface    string   // interface
	scsi     Pattern  // vendor and model of a disk, with a space between them
	what, do string
}

// decoys are disks that are never a board's disk.
var decoys = []state{
	{scsi: `flashpkg( .*)?`,
		what: "flashpkg, the disk with a Jetson's status and logs: the flash failed on the board, or has not started",
		do:   "read the status and logs on it, then put the board into recovery mode and start over"},
	{vendor: "0955", products: []string{"7020"},
		what: "a Jetson that has booted, with a small disk that contains a README",
		do:   "power it off and put it into recovery mode"},
}

// anyBoard are disks of unknown boards.
var anyBoard = []state{
	{scsi: `Linux UMS disk \d+`,
		what: "a board in the mass storage mode of U-Boot, with another USB ID",
		do:   nameIt},
	{scsi: `Linux File-(Stor|CD) Gadget`,
		what: "a disk that a Linux board shows, without identification",
		do:   nameIt},
}

// noDisks are states without a disk.
var noDisks = []state{
	{vendor: "2207", iface: "ff/06/05",
		what: "a Rockchip board in maskrom or rockusb mode, without a disk",
		do: "power it off and enter the mass storage mode of its boot loader; if it comes back in this mode, the boot loader is missing: " +
			"write its eMMC or card in a reader"},
	{vendor: "0955",
		products: []string{"7e19", "7019", "7819", "7919", "7023", "7226", "7223", "7323", "7423", "7523", "7623"},
		what:     "a Jetson in forced recovery (APX), without a disk",
		do:       "boot a flashing initrd that shows the disk, such as the initrd-flash of meta-tegra"},
	{vendor: "0955", products: []string{"7035"},
		what: "a Jetson in NVIDIA's initrd flash, which uses a network and shows no disk",
		do:   "let NVIDIA's tool finish, or boot a flashing initrd that shows the disk, such as the initrd-flash of meta-tegra"},
	{vendor: "0955", products: []string{"7020"},
		what: "a Jetson that has booted",
		do:   "power it off and put it into recovery mode"},
}

// known returns the first state that matches a USB device and its disk, which may be nil.
func known(states []state, u usb.Device, d *disk.Disk) *state {
	for i, s := range states {
		m := USB{VendorID: s.vendor, ProductIDs: s.products, Interface: s.iface}
		if (s.vendor == "" || m.id(u) && m.hasInterface(u)) && (s.scsi == "" || d != nil && s.scsi.matches(d.Vendor+" "+d.Model)) {
			return &states[i]
		}
	}
	return nil
}
