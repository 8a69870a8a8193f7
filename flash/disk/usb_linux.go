package disk

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"imgtool/flash/disk/udisks"
	"imgtool/flash/disk/usb"
)

// USBDevices returns the interfaces of the USB devices of the machine with the root directory
// root, as [usb.List] does.
func USBDevices(root string) ([]usb.Device, error) { return usb.List(root) }

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
