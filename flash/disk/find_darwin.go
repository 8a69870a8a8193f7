package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// List returns the whole disks of this Mac, by what diskutil says of them. APFS
// containers, arrays and optical drives are not among them, attached images
// are; a reader without a card is no disk at all. root is "/".
func List(root string) ([]Disk, error) {
	m, err := lookHere()
	if err != nil {
		return nil, err
	}
	return m.disks()
}

// USBDevices are the interfaces of the USB devices of this Mac, in the order of
// their ports. A device that is not configured is one USB without an interface.
// root is "/".
func USBDevices(root string) ([]USB, error) {
	m := &mac{run: runHere, onUSB: map[string]bridge{}}
	err := m.addUSB()
	return m.usb, err
}

// Find returns the disk at path, /dev/disk4 or /dev/rdisk4, which may be a
// symbolic link or a regular file. What can never be a disk is a *RefusedError.
// root is "/".
func Find(root, path string) (*Disk, error) {
	at, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if at, err = filepath.EvalSymlinks(at); err != nil {
		return nil, err
	}
	info, err := os.Stat(at)
	if err != nil {
		return nil, err
	}
	name := strings.TrimPrefix(filepath.Base(at), "r")
	switch {
	case info.Mode().IsRegular():
		d := &Disk{Path: path, Name: filepath.Base(path), Size: info.Size(), SectorSize: 512, File: true, found: info}
		d.InUse, err = fileUsers(info)
		return d, err
	case info.IsDir():
		return nil, &RefusedError{path, "a folder is not a disk: name a disk such as /dev/disk4, or a regular file"}
	case info.Mode()&fs.ModeDevice == 0 || wholeName(name) == "":
		return nil, &RefusedError{path, "neither a disk nor a regular file: name a disk such as /dev/disk4"}
	}
	m, err := lookHere()
	if err != nil {
		return nil, err
	}
	return m.find(path, name)
}

// fileUsers says who has a regular file attached as a disk.
func fileUsers(info fs.FileInfo) ([]string, error) {
	m := &mac{run: runHere}
	attached, err := m.dict("hdiutil", "info", "-plist")
	if err != nil {
		return nil, err
	}
	var users []string
	for _, image := range attached.dicts("images") {
		other, err := os.Stat(image.text("image-path"))
		if err != nil || !os.SameFile(info, other) {
			continue
		}
		as := "a disk"
		if disks := image.dicts("system-entities"); len(disks) > 0 {
			as = disks[0].text("dev-entry")
		}
		users = append(users, "the file is attached as "+as)
	}
	return users, nil
}

func lookHere() (*mac, error) {
	mounts, err := kernelMounts()
	if err != nil {
		return nil, fmt.Errorf("reading what is mounted: %w", err)
	}
	return lookMac(runHere, mounts)
}

func kernelMounts() ([]macMount, error) {
	// MNT_NOWAIT: a server that does not answer is not asked.
	n, err := unix.Getfsstat(nil, unix.MNT_NOWAIT)
	if err != nil {
		return nil, err
	}
	stats := make([]unix.Statfs_t, n+16)
	if n, err = unix.Getfsstat(stats, unix.MNT_NOWAIT); err != nil {
		return nil, err
	}
	var mounts []macMount
	for _, s := range stats[:n] {
		mounts = append(mounts, macMount{unix.ByteSliceToString(s.Mntfromname[:]), unix.ByteSliceToString(s.Mntonname[:])})
	}
	return mounts, nil
}

// programs are where macOS has them, whatever PATH says.
var programs = map[string]string{
	"diskutil": "/usr/sbin/diskutil",
	"ioreg":    "/usr/sbin/ioreg",
	"hdiutil":  "/usr/bin/hdiutil",
}

// runHere returns what a program prints; if it fails, what it complains of too.
func runHere(args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, programs[args[0]], args[1:]...)
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		if ctx.Err() != nil {
			return out, errors.New("no answer for a minute: a disk may hang")
		}
		if said := strings.TrimSpace(string(exit.Stderr)); said != "" {
			return out, fmt.Errorf("%s (%w)", said, err)
		}
	}
	return out, err
}
