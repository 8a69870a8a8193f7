package disk

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"imgtool/flash/disk/udisks"
)

// USBDevices returns the interfaces of the USB devices of the machine with the root
// directory root, sorted by port. A device that is not configured is one USB without an
// interface.
func USBDevices(root string) ([]USB, error) {
	bus := filepath.Join(root, "sys/bus/usb/devices")
	names, err := readDir(bus)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []USB
	for _, name := range names {
		if strings.Contains(name, ":") {
			continue // an interface, which is also in the directory of its device
		}
		dir, err := filepath.EvalSymlinks(filepath.Join(bus, name))
		if err != nil {
			continue // unplugged meanwhile
		}
		inside, err := readDir(dir)
		if err != nil {
			continue
		}
		device := usbDevice(dir)
		n := len(all)
		for _, sub := range inside {
			if iface := filepath.Join(dir, sub); exists(filepath.Join(iface, "bInterfaceClass")) {
				all = append(all, device.with(iface))
			}
		}
		if len(all) == n {
			all = append(all, device)
		}
	}
	return all, nil
}

// Eject removes a USB disk from the bus, as if it were unplugged: a board that shows its
// disk then knows that the host has finished. root is as for [List].
func Eject(root string, d *Disk) error {
	if d.USB == nil || d.USB.Port == "" {
		return errors.New("it is not on USB")
	}
	err := os.WriteFile(filepath.Join(root, "sys/bus/usb/devices", d.USB.Port, "remove"), []byte("1"), 0)
	if errors.Is(err, fs.ErrPermission) && filepath.Clean(root) == "/" {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		return d.permission(udisks.PowerOff(ctx, d.Path), true)
	}
	return err
}

// usb returns the USB interface of a disk, or nil.
func (m *machine) usb(n *node) *USB {
	iface := ""
	for dir := n.dir; len(dir) > len(m.root) && filepath.Dir(dir) != dir; dir = filepath.Dir(dir) {
		if iface == "" && exists(filepath.Join(dir, "bInterfaceClass")) {
			iface = dir
		}
		if exists(filepath.Join(dir, "idVendor")) {
			u := usbDevice(dir)
			if iface != "" {
				u = u.with(iface)
			}
			return &u
		}
	}
	return nil
}

func usbDevice(dir string) USB {
	attr := func(name string) string { return text(filepath.Join(dir, name)) }
	return USB{
		Port:         filepath.Base(dir),
		VendorID:     strings.ToLower(attr("idVendor")),
		ProductID:    strings.ToLower(attr("idProduct")),
		BCD:          attr("bcdDevice"),
		Manufacturer: attr("manufacturer"),
		Product:      attr("product"),
		Serial:       attr("serial"),
	}
}

// with returns u with the interface whose directory is dir.
func (u USB) with(dir string) USB {
	var class []string
	for _, name := range []string{"bInterfaceClass", "bInterfaceSubClass", "bInterfaceProtocol"} {
		class = append(class, text(filepath.Join(dir, name)))
	}
	u.Interface = strings.ToLower(strings.Join(class, "/"))
	if driver, err := filepath.EvalSymlinks(filepath.Join(dir, "driver")); err == nil {
		u.Driver = filepath.Base(driver)
	}
	return u
}
