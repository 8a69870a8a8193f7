//go:build !linux && !darwin

package disk

// Eject is not supported on this system.
func Eject(root string, d *Disk) error { return errOther }
