package disk

import (
	"errors"
	"os"
	"path/filepath"
)

// Eject removes a USB disk from the bus, as if it were unplugged: a board that shows its
// disk then knows that the host has finished. root is as for [List].
func Eject(root string, d *Disk) error {
	if d.USB == nil || d.USB.Port == "" {
		return errors.New("it is not on USB")
	}
	return os.WriteFile(filepath.Join(root, "sys/bus/usb/devices", d.USB.Port, "remove"), []byte("1"), 0)
}
