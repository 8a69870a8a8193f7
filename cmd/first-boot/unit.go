//go:build linux

package main

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"

	"imgtool/image/seed/api"
	"imgtool/image/seed/console"
)

// id returns the identifier of the device, see api.Health. It is derived from the serial number
// in the device tree, or else from a random number on /data.
func (d *device) id() (string, error) {
	cut := func(text []byte) string {
		sum := sha256.Sum256(append([]byte("imgtool device\x00"), text...))
		return base64.RawURLEncoding.EncodeToString(sum[:api.DeviceIDSize])
	}
	serial, err := os.ReadFile(filepath.Join(d.root, "proc/device-tree/serial-number"))
	if serial = bytes.Trim(serial, "\x00 \n"); err == nil && len(bytes.Trim(serial, "0")) > 0 {
		return cut(serial), nil
	}
	file := filepath.Join(d.store.dir, "device-id")
	kept, err := os.ReadFile(file)
	if err == nil && len(kept) > 0 {
		return cut(kept), nil
	}
	kept = make([]byte, 32)
	rand.Read(kept)
	if d.store.ready() != nil {
		return cut(kept), nil
	}
	return cut(kept), errors.Join(os.WriteFile(file, kept, 0o600), d.store.sync())
}

// unit returns what the console says about the device.
func (d *device) unit() console.Unit {
	read := func(path string) string {
		text, _ := os.ReadFile(filepath.Join(d.root, path))
		text = bytes.Trim(text, "\x00 \n")
		return string(text[:min(len(text), 100)])
	}
	return console.Unit{Name: read("etc/hostname"), Board: read("proc/device-tree/model"), MAC: read("sys/class/net/eth0/address")}
}
