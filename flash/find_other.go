//go:build !linux

package flash

import (
	"errors"
	"os"
	"path/filepath"
)

var errLinux = errors.New("flashing disks is supported on Linux; a regular file works")

// Disks knows the disks of Linux only.
func Disks(root string) ([]Disk, error) { return nil, errLinux }

// USBDevices knows the devices of Linux only.
func USBDevices(root string) ([]USB, error) { return nil, errLinux }

// Find returns a regular file as a disk.
func Find(root, path string) (*Disk, error) {
	info, err := os.Stat(filepath.Join(root, path))
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &RefusedError{path, errLinux.Error()}
	}
	return &Disk{Path: path, Name: filepath.Base(path), Size: info.Size(), SectorSize: 512, File: true}, nil
}
