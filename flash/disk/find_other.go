//go:build !linux && !darwin

package disk

import (
	"errors"
	"os"
	"path/filepath"
)

var errOther = errors.New("flashing disks is supported on Linux and macOS; a regular file works")

// List is not supported on this system.
func List(root string) ([]Disk, error) { return nil, errOther }

// USBDevices is not supported on this system.
func USBDevices(root string) ([]USB, error) { return nil, errOther }

// Find returns a regular file as a disk. Other files are not supported on this system.
func Find(root, path string) (*Disk, error) {
	info, err := os.Stat(filepath.Join(root, path))
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &RefusedError{path, errOther.Error()}
	}
	return &Disk{Path: path, Name: filepath.Base(path), Size: info.Size(), SectorSize: 512, File: true, found: info}, nil
}
