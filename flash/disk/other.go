//go:build !linux && !darwin

package disk

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"imgtool/flash/disk/usb"
)

var errOther = errors.New("flashing disks is supported on Linux and macOS; a regular file works")

// List is not supported on this system.
func List(root string) ([]Disk, error) { return nil, errOther }

// USBDevices is not supported on this system.
func USBDevices(root string) ([]usb.Device, error) { return nil, errOther }

// Eject is not supported on this system.
func Eject(root string, d *Disk) error { return errOther }

// Find returns a regular file as a disk. Other files are not supported on this system.
func Find(root, path string) (*Disk, error) {
	_, info, err := resolve(root, path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &RefusedError{path, errOther.Error()}
	}
	return regularFile(path, info), nil
}

// Open opens a regular file for writing.
func Open(d *Disk) (*Target, error) {
	if err := d.Check(Need{}); err != nil {
		return nil, err
	}
	return openFile(d, os.O_RDWR)
}

// OpenRead opens a regular file for reading.
func OpenRead(d *Disk) (*Target, error) { return openFile(d, os.O_RDONLY) }

// Peek opens a regular file for reading.
func Peek(d *Disk) (*Target, error) { return OpenRead(d) }

// Permit checks that this process can open a regular file.
func (d *Disk) Permit(ctx context.Context, write, ask bool) error { return nil }

// Unmount is not supported on this system.
func (d *Disk) Unmount(ctx context.Context) error { return errOther }

// OpenDevice is not supported on this system.
func OpenDevice(path string) (*os.File, error) { return nil, errOther }

// Unseen returns "".
func (d *Disk) Unseen() string { return "" }

// CloseReread closes the file: a regular file has no partitions.
func (t *Target) CloseReread() (notRead, err error) { return nil, t.Close() }

// errNoMedium is an error that regular files do not have.
var errNoMedium = errors.New("no medium")

func lockFile(*Disk, *os.File) error        { return nil }
func (t *Target) uncached(fs.FileInfo, int) {}
func (t *Target) present() error            { return nil }
func (t *Target) flush() error              { return t.f.File.Sync() }
func dropCache(*os.File)                    {}
