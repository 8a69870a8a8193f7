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

	"imgtool/flash/disk/usb"

	"golang.org/x/sys/unix"
)

// List returns the whole disks of this Mac, according to diskutil, including attached disk
// images. It leaves out APFS containers, arrays, optical drives and card readers without a
// card. root is "/".
func List(root string) ([]Disk, error) {
	m, err := lookHere()
	if err != nil {
		return nil, err
	}
	return m.disks()
}

// USBDevices returns the interfaces of the USB devices of this Mac, sorted by port. A device
// that is not configured is one USB without an interface. root is "/".
func USBDevices(root string) ([]usb.Device, error) {
	m := &mac{run: runHere, onUSB: map[string]bridge{}}
	err := m.addUSB()
	return m.usb, err
}

// Find returns the disk at path, such as /dev/disk4 or /dev/rdisk4, which may be a symbolic
// link or a regular file. For a file that can never be a disk the error is a
// [*RefusedError]. root is "/".
func Find(root, path string) (*Disk, error) {
	at, info, err := resolve("/", path)
	if err != nil {
		return nil, err
	}
	name := strings.TrimPrefix(filepath.Base(at), "r")
	switch {
	case info.Mode().IsRegular():
		d := regularFile(path, info)
		d.InUse, err = fileUses(info)
		return d, err
	case info.Mode()&fs.ModeDevice == 0 || wholeName(name) == "":
		return nil, &RefusedError{path, "it is neither a disk nor a regular file: name a disk such as /dev/disk4"}
	}
	m, err := lookHere()
	if err != nil {
		return nil, err
	}
	return m.find(path, name)
}

// Eject ejects a disk and its volumes: a board that shows its disk then knows that the host
// has finished. root is "/".
func Eject(root string, d *Disk) error {
	if d.File {
		return errors.New("it is a file")
	}
	if out, err := runHere("diskutil", "eject", d.Name); err != nil {
		return fmt.Errorf("diskutil eject %s: %w %s", d.Name, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// fileUses returns where a regular file is attached as a disk.
func fileUses(info fs.FileInfo) ([]string, error) {
	m := &mac{run: runHere}
	attached, err := m.dict("hdiutil", "info", "-plist")
	if err != nil {
		return nil, err
	}
	var users []string
	for _, image := range attached.Dicts("images") {
		other, err := os.Stat(image.Text("image-path"))
		if err != nil || !os.SameFile(info, other) {
			continue
		}
		as := "a disk"
		if disks := image.Dicts("system-entities"); len(disks) > 0 {
			as = disks[0].Text("dev-entry")
		}
		users = append(users, "the file is attached as "+as)
	}
	return users, nil
}

func lookHere() (*mac, error) {
	mounts, err := kernelMounts()
	if err != nil {
		return nil, fmt.Errorf("listing mounts: %w", err)
	}
	return lookMac(runHere, mounts)
}

func kernelMounts() ([]macMount, error) {
	// MNT_NOWAIT does not query servers, which may not respond.
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

// programs are the paths of programs of macOS, independent of PATH.
var programs = map[string]string{
	"diskutil": "/usr/sbin/diskutil",
	"ioreg":    "/usr/sbin/ioreg",
	"hdiutil":  "/usr/bin/hdiutil",
}

// runHere runs a program and returns its standard output. The error has its standard error.
func runHere(args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, programs[args[0]], args[1:]...)
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		if ctx.Err() != nil {
			return out, errors.New("no answer for a minute: a disk may not respond")
		}
		if said := strings.TrimSpace(string(exit.Stderr)); said != "" {
			return out, fmt.Errorf("%s (%w)", said, err)
		}
	}
	return out, err
}
