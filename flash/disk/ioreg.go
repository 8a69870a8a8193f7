package disk

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"imgtool/flash/disk/plist"
	"imgtool/flash/disk/usb"
)

// macMedia returns the disks and partitions in the IO registry, by BSD name.
func macMedia(run func(args ...string) ([]byte, error)) (map[string]medium, error) {
	nodes, err := (&mac{run: run}).registry("IOMedia")
	if err != nil {
		return nil, err
	}
	media := map[string]medium{}
	for len(nodes) > 0 {
		n := nodes[0]
		if name := n.Text("BSD Name"); wholeName(name) != "" {
			media[name] = medium{uint64(n.Int("IORegistryEntryID")), n.Int("Base")}
		}
		nodes = append(n.Dicts("IORegistryEntryChildren"), nodes[1:]...)
	}
	return media, nil
}

// usbNode is a USB device in the IO registry.
type usbNode struct {
	usb.Device
	interfaces int
}

// addUSB adds the USB interfaces and the disks connected to them. In the IO registry, the
// interfaces are below their device, and disks below their interface.
func (m *mac) addUSB() error {
	nodes, err := m.registry("IOUSBHostDevice")
	if err != nil {
		return err
	}
	seen := map[int64]bool{}
	var visit func(n plist.Dict, device *usbNode, b bridge)
	visit = func(n plist.Dict, device *usbNode, b bridge) {
		own := false
		switch n.Text("IOObjectClass") {
		case "IOUSBHostDevice":
			id := n.Int("IORegistryEntryID")
			if id != 0 && seen[id] {
				return // a device below a hub may be listed twice
			}
			seen[id] = true
			device, own = &usbNode{Device: macUSB(n)}, true
			b = bridge{usb: device.Device}
		case "IOUSBHostInterface":
			if device != nil {
				device.interfaces++
				b.usb = device.Device
				b.usb.Interface = fmt.Sprintf("%02x/%02x/%02x", n.Int("bInterfaceClass"), n.Int("bInterfaceSubClass"), n.Int("bInterfaceProtocol"))
				m.usb = append(m.usb, b.usb)
			}
		}
		if vendor, model := n.Text("Vendor Identification"), n.Text("Product Identification"); vendor+model != "" {
			b.vendor, b.model, b.rev = vendor, model, n.Text("Product Revision Level")
		}
		if name := n.Text("BSD Name"); device != nil && name != "" && wholeName(name) == name {
			m.onUSB[name] = b
		}
		for _, child := range n.Dicts("IORegistryEntryChildren") {
			visit(child, device, b)
		}
		if own && device.interfaces == 0 {
			m.usb = append(m.usb, device.Device)
		}
	}
	for _, n := range nodes {
		visit(n, nil, bridge{})
	}
	slices.SortStableFunc(m.usb, func(a, b usb.Device) int { return cmp.Compare(a.Port, b.Port) })
	return nil
}

func macUSB(n plist.Dict) usb.Device {
	return usb.Device{
		Port:         macPort(uint32(n.Int("locationID"))),
		VendorID:     fmt.Sprintf("%04x", n.Int("idVendor")),
		ProductID:    fmt.Sprintf("%04x", n.Int("idProduct")),
		BCD:          fmt.Sprintf("%04x", n.Int("bcdDevice")),
		Manufacturer: cmp.Or(n.Text("USB Vendor Name"), n.Text("kUSBVendorString")),
		Product:      cmp.Or(n.Text("USB Product Name"), n.Text("kUSBProductString")),
		Serial:       cmp.Or(n.Text("USB Serial Number"), n.Text("kUSBSerialNumberString")),
	}
}

// macPort returns the port of a location ID, such as 20-2.3 for 0x14230000: the bus is in
// the highest byte, followed by four bits for each port on the path.
func macPort(location uint32) string {
	port := fmt.Sprint(location >> 24)
	for rest, sep := location<<8, "-"; rest != 0; rest, sep = rest<<4, "." {
		port += sep + fmt.Sprint(rest>>28)
	}
	return port
}

// registry returns the nodes of a class in the IO registry, with the nodes below them.
func (m *mac) registry(class string) ([]plist.Dict, error) {
	return m.dicts("ioreg", "-a", "-l", "-r", "-c", class)
}

// dict runs a program that prints a property list with a dictionary.
func (m *mac) dict(args ...string) (plist.Dict, error) {
	all, err := m.dicts(args...)
	if err != nil {
		return nil, err
	}
	if len(all) != 1 {
		return nil, fmt.Errorf("%s: the answer is not a dictionary", strings.Join(args, " "))
	}
	return all[0], nil
}

// diskutilError is an error message in a property list.
type diskutilError struct{ command, message string }

func (e *diskutilError) Error() string { return e.command + ": " + e.message }

// dicts runs a program that prints a property list with an array of dictionaries.
func (m *mac) dicts(args ...string) ([]plist.Dict, error) {
	command := strings.Join(args, " ")
	out, failed := m.run(args...)
	v, err := plist.Parse(out)
	all := plist.Dict{"": v}.Dicts("")
	switch {
	case len(all) == 1 && all[0].Text("ErrorMessage") != "":
		return nil, &diskutilError{command, all[0].Text("ErrorMessage")}
	case failed != nil:
		return nil, fmt.Errorf("%s: %w", command, failed)
	case err != nil:
		return nil, fmt.Errorf("%s: reading the answer: %w", command, err)
	}
	return all, nil
}
