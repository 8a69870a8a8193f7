package usb

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// List returns the interfaces of the USB devices of the machine with the root
// directory root, sorted by port. A device that is not configured is one Device without
// an interface.
func List(root string) ([]Device, error) {
	bus := filepath.Join(root, "sys/bus/usb/devices")
	entries, err := os.ReadDir(bus)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []Device
	for _, entry := range entries {
		name := entry.Name()
		if strings.Contains(name, ":") {
			continue // an interface, which is also in the directory of its device
		}
		dir, err := filepath.EvalSymlinks(filepath.Join(bus, name))
		if err != nil {
			continue // unplugged meanwhile
		}
		inside, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		device := read(dir)
		n := len(all)
		for _, sub := range inside {
			if iface := filepath.Join(dir, sub.Name()); exists(filepath.Join(iface, "bInterfaceClass")) {
				all = append(all, device.with(iface))
			}
		}
		if len(all) == n {
			all = append(all, device)
		}
	}
	return all, nil
}

// Of returns the interface that the device in a directory of sysfs is connected to, or nil.
func Of(root, dir string) *Device {
	iface := ""
	for ; len(dir) > len(root) && filepath.Dir(dir) != dir; dir = filepath.Dir(dir) {
		if iface == "" && exists(filepath.Join(dir, "bInterfaceClass")) {
			iface = dir
		}
		if exists(filepath.Join(dir, "idVendor")) {
			u := read(dir)
			if iface != "" {
				u = u.with(iface)
			}
			return &u
		}
	}
	return nil
}

func read(dir string) Device {
	attr := func(name string) string { return text(filepath.Join(dir, name)) }
	return Device{
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
func (u Device) with(dir string) Device {
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

// text returns the content of a file, or "" without it: most devices have few attributes.
func text(path string) string {
	b, _ := os.ReadFile(path)
	return strings.TrimSpace(string(b))
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
