//go:build !linux && !darwin

package flash

// Eject takes a USB disk off the bus.
func Eject(root string, d *Disk) error { return errOther }
