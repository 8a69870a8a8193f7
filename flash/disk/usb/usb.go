// Package usb lists the devices on USB.
package usb

// Device is an interface of a USB device. A device has one or more, which share its port.
// Strings that the device does not have are empty.
type Device struct {
	Port         string // such as 1-2.3: port 3 of a hub in port 2 of bus 1
	VendorID     string // four lower-case hex digits
	ProductID    string // four lower-case hex digits
	BCD          string // release of the device, four digits
	Manufacturer string
	Product      string
	Serial       string
	Interface    string // class/subclass/protocol in hex: 08/06/50 is a disk with bulk-only transport
	Driver       string // of the interface, such as usb-storage, or ""
}

// ID returns the vendor and product IDs, such as 2207:320c.
func (u Device) ID() string { return u.VendorID + ":" + u.ProductID }
