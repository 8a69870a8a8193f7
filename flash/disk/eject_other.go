//go:build !linux && !darwin

package disk

// Eject takes a USB disk off the bus.
func Eject(root string, d *Disk) error { return errOther }
