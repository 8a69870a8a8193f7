package disk

import "imgtool/flash/disk/usb"

// Mac is a Mac that was recorded.
type Mac = mac

// LookMac looks at a Mac through run; mounts are pairs of from and at.
func LookMac(run func(args ...string) ([]byte, error), mounts [][2]string) (*Mac, error) {
	var all []macMount
	for _, m := range mounts {
		all = append(all, macMount{m[0], m[1]})
	}
	return lookMac(run, all)
}

func (m *mac) Disks() ([]Disk, error)                { return m.disks() }
func (m *mac) Find(path, name string) (*Disk, error) { return m.find(path, name) }
func (m *mac) USBDevices() []usb.Device              { return m.usb }
func (m *mac) Unmount(d *Disk) error                 { return m.unmount(d) }
func (d *Disk) SameAs(now *Disk) error               { return d.sameAs(now) }
