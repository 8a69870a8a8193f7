package disk

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Match tells the disk a board shows in recovery mode from all others: one that
// any of USB is about. It is data from the definition of the board, against
// mistakes; what a USB device says of itself can be made up.
type Match struct {
	USB []USBMatch
}

// USBMatch is a disk as it shows up on USB. What is empty or zero is not asked,
// but without a vendor nothing matches.
type USBMatch struct {
	VendorID   string   // as in USB
	ProductIDs []string // any of these
	Interface  string   // as in USB, or the beginning of it: 08 is any disk

	Manufacturer, Product Pattern // strings of the USB device
	Vendor, Model, Rev    Pattern // what the disk answers to a SCSI inquiry

	// In sectors of 512 bytes, whatever those of the disk are.
	Sectors    int64 // exactly
	MinSectors int64
}

// Pattern is a regular expression for the whole of a string, blanks around it
// left out. The empty one is for any string, a broken one for none.
type Pattern string

// UnmarshalText refuses a broken pattern.
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

// Sighting is something on USB that is not the disk looked for and could be
// taken for it, or for a reason why it is not there.
type Sighting struct {
	Disk  *Disk  // nil if it is none
	USB   USB    // of the disk, or of the device that is none
	State string // what it is, in plain words
	Do    string // what a person can do about it
}

func (s Sighting) String() string {
	where := fmt.Sprintf("USB device %s at port %s", s.USB.ID(), s.USB.Port)
	if s.Disk != nil {
		where = fmt.Sprintf("%s (%s)", s.Disk.Path, where)
	}
	return fmt.Sprintf("%s: %s: %s", where, s.State, s.Do)
}

// Find parts disks into those that are the board's and, with the devices of
// USBDevices, what looks alike. A hit has a medium; whether it is in use or
// read-only is for Check to say. A port that is a hit is never a sighting, and
// a port is sighted once.
func (m Match) Find(disks []Disk, devices []USB) (hits []Disk, near []Sighting) {
	done := map[string]bool{} // ports that are hits or were sighted
	medium := map[string]bool{}
	isDisk := map[string]bool{}
	sight := func(d *Disk, u USB, state, do string) {
		if !done[u.Port] {
			done[u.Port] = true
			near = append(near, Sighting{d, u, state, do})
		}
	}
	for _, d := range disks {
		if d.USB == nil {
			continue
		}
		isDisk[d.USB.Port] = true
		if d.Size > 0 {
			medium[d.USB.Port] = true
		}
		if d.Size > 0 && decoy(&d) == nil && m.is(&d) {
			done[d.USB.Port] = true
			hits = append(hits, d)
		}
	}
	for _, d := range disks {
		if d.USB == nil {
			continue
		}
		if s := decoy(&d); s != nil {
			sight(&d, *d.USB, s.what, s.do)
		} else if m.is(&d) && d.Size == 0 {
			sight(&d, *d.USB, "the board's disk, without a medium", "wait a moment; if it stays like this, the board finds no medium: is the module or card in?")
		} else if what := m.almost(&d); what != "" {
			sight(&d, *d.USB, what, nameIt)
		} else if s := known(anyBoard, *d.USB, &d); s != nil {
			sight(&d, *d.USB, s.what, s.do)
		} else if d.Removable && !medium[d.USB.Port] {
			sight(&d, *d.USB, "a card reader without a card", "put the card in")
		}
	}
	for _, u := range devices {
		if isDisk[u.Port] {
			continue
		}
		if s := known(noDisks, u, nil); s != nil {
			sight(nil, u, s.what, s.do)
		} else if entry := m.byID(u); entry != nil && entry.face(u) {
			sight(nil, u, "the board's USB device, without a disk", "wait a moment; if it stays like this, load the kernel module usb-storage")
		}
	}
	for _, u := range devices {
		if !isDisk[u.Port] && m.byID(u) != nil {
			sight(nil, u, fmt.Sprintf("the board's USB device, in another mode (interface %s) and no disk", cmp.Or(u.Interface, "not configured")),
				"power the board off and enter recovery mode again")
		}
	}
	return hits, near
}

const nameIt = "another board, or another boot loader: if it is the disk that is meant, name it"

func (m Match) is(d *Disk) bool {
	return slices.ContainsFunc(m.USB, func(u USBMatch) bool {
		return u.VendorID != "" && len(u.differences(d)) == 0
	})
}

// almost says what keeps a disk from being the board's, if it has its USB id
// or answers an inquiry like it.
func (m Match) almost(d *Disk) string {
	best := ""
	least := 0
	for _, u := range m.USB {
		inquiry := u.Vendor+u.Model != "" && u.Vendor.matches(d.Vendor) && u.Model.matches(d.Model)
		if !u.id(*d.USB) && !inquiry {
			continue
		}
		if diff := u.differences(d); best == "" || len(diff) < least {
			best, least = "like the board's disk, but "+strings.Join(diff, ", "), len(diff)
		}
	}
	return best
}

// byID is the entry for the USB device u, whatever its interface is.
func (m Match) byID(u USB) *USBMatch {
	for i := range m.USB {
		if m.USB[i].id(u) {
			return &m.USB[i]
		}
	}
	return nil
}

func (m USBMatch) id(u USB) bool {
	return m.VendorID != "" && strings.EqualFold(m.VendorID, u.VendorID) &&
		(len(m.ProductIDs) == 0 || slices.ContainsFunc(m.ProductIDs, func(id string) bool { return strings.EqualFold(id, u.ProductID) }))
}

func (m USBMatch) face(u USB) bool {
	return m.Interface == "" || strings.HasPrefix(u.Interface+"/", strings.ToLower(m.Interface)+"/")
}

// differences are what of a disk on USB is not as asked, in words.
func (m USBMatch) differences(d *Disk) (diff []string) {
	if !m.id(*d.USB) {
		want := m.VendorID
		if len(m.ProductIDs) > 0 {
			want += ":" + strings.Join(m.ProductIDs, "|")
		}
		diff = append(diff, fmt.Sprintf("its USB id is %s, not %s", d.USB.ID(), want))
	}
	if !m.face(*d.USB) {
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
	// An empty disk is told by its other marks.
	if n := d.Size / 512; n > 0 && m.Sectors != 0 && n != m.Sectors {
		diff = append(diff, fmt.Sprintf("it has %d sectors, not %d", n, m.Sectors))
	} else if n > 0 && n < m.MinSectors {
		diff = append(diff, fmt.Sprintf("it has %d sectors, fewer than %d", n, m.MinSectors))
	}
	return diff
}

// state is a state some chip or program is known to show on USB.
type state struct {
	vendor   string   // USB id
	products []string // any of these, or all if there are none
	face     string   // interface
	scsi     Pattern  // vendor and model of a disk, with a blank between
	what, do string
}

// decoys are disks that are never a board's.
var decoys = []state{
	{
		scsi: `flashpkg( .*)?`,
		what: "not the board's disk but flashpkg, where a Jetson leaves its status and logs: the flash failed on the board, or has not begun",
		do:   "read status and logs on it, then put the board into recovery mode and start over",
	},
	{
		vendor: "0955", products: []string{"7020"},
		what: "a Jetson that has booted, with a small disk that holds a README",
		do:   "power it off and put it into recovery mode",
	},
}

// anyBoard are disks that could be a board's and do not say of which.
var anyBoard = []state{
	{
		scsi: `Linux UMS disk \d+`,
		what: "a board in the mass storage mode of U-Boot, with the USB id of another",
		do:   nameIt,
	},
	{
		scsi: `Linux File-(Stor|CD) Gadget`,
		what: "a disk some Linux board shows, which does not say of what",
		do:   nameIt,
	},
}

// noDisks are states in which a board shows no disk.
var noDisks = []state{
	{
		vendor: "2207", face: "ff/06/05",
		what: "a Rockchip board in maskrom or rockusb mode, which is no disk",
		do: "power it off and enter the mass storage mode of its boot loader; if it comes back like this, the boot loader is gone: " +
			"write its eMMC or card in a reader",
	},
	{
		vendor:   "0955",
		products: []string{"7e19", "7019", "7819", "7919", "7023", "7226", "7223", "7323", "7423", "7523", "7623"},
		what:     "a Jetson in forced recovery (APX), which is no disk",
		do:       "boot a flashing initrd over it that shows the disk, such as the initrd-flash of meta-tegra",
	},
	{
		vendor: "0955", products: []string{"7035"},
		what: "a Jetson in NVIDIA's initrd flash, which works over a network and shows no disk",
		do:   "let NVIDIA's tool finish, or boot a flashing initrd that shows the disk, such as the initrd-flash of meta-tegra",
	},
	{
		vendor: "0955", products: []string{"7020"},
		what: "a Jetson that has booted",
		do:   "power it off and put it into recovery mode",
	},
}

func decoy(d *Disk) *state { return known(decoys, *d.USB, d) }

// known is the state of a USB device, which may be a disk.
func known(states []state, u USB, d *Disk) *state {
	for i, s := range states {
		if s.vendor != "" && !(USBMatch{VendorID: s.vendor, ProductIDs: s.products, Interface: s.face}).knows(u) {
			continue
		}
		if s.scsi != "" && (d == nil || !s.scsi.matches(d.Vendor+" "+d.Model)) {
			continue
		}
		return &states[i]
	}
	return nil
}

func (m USBMatch) knows(u USB) bool { return m.id(u) && m.face(u) }
