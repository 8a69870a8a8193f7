//go:build record

package disk_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
)

var record = flag.String("record", "", "write this machine into this file of testdata/machines")

// TestRecord records the machine it runs on: the test binary is all it needs,
// so it can be built without cgo and run in a virtual machine.
func TestRecord(t *testing.T) {
	if *record == "" {
		t.Fatal("say where to with -record")
	}
	var out strings.Builder
	fmt.Fprint(&out, "# Recorded.\n")
	attr := func(dir string, names ...string) {
		for _, name := range names {
			b, err := os.ReadFile(filepath.Join(dir, name))
			text := strings.TrimSuffix(string(b), "\n")
			switch {
			case err != nil:
			case strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }):
				fmt.Fprintf(&out, "%s := %s\n", name, strconv.Quote(string(b)))
			default:
				fmt.Fprintf(&out, "%s = %s\n", name, text)
			}
		}
	}
	links := func(dir, sub, to string) {
		inside, _ := os.ReadDir(filepath.Join(dir, sub))
		for _, e := range inside {
			fmt.Fprintf(&out, "%s -> %s\n", filepath.Join(sub, e.Name()), filepath.Join(to, e.Name()))
		}
	}
	block := []string{"dev", "partition", "start", "size", "ro", "removable", "hidden", "diskseq", "serial", "wwid", "queue/logical_block_size",
		"device/vendor", "device/model", "device/name", "device/rev", "device/type", "device/serial", "device/wwid", "device/vpd_pg80", "loop/backing_file", "dm/name"}
	var drivers []string
	usb := map[string]bool{}
	device := func(dir string) {
		if usb[dir] {
			return
		}
		usb[dir] = true
		fmt.Fprintf(&out, "\n[%s]\n", dir)
		attr(dir, "idVendor", "idProduct", "bcdDevice", "manufacturer", "product", "serial", "bInterfaceClass", "bInterfaceSubClass", "bInterfaceProtocol")
		if driver, err := filepath.EvalSymlinks(filepath.Join(dir, "driver")); err == nil {
			fmt.Fprintf(&out, "driver -> %s\n", driver)
			if !slices.Contains(drivers, driver) {
				drivers = append(drivers, driver)
			}
		}
	}

	disks, err := os.ReadDir("/sys/block")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range disks {
		target, err := os.Readlink("/sys/block/" + e.Name())
		if err != nil {
			continue
		}
		dir := filepath.Join("/sys/block", target)
		fmt.Fprintf(&out, "\n[/sys/block]\n%s -> %s\n\n[%s]\n", e.Name(), target, dir)
		attr(dir, block...)
		links(dir, "holders", "/sys/class/block")
		links(dir, "slaves", "/sys/class/block")
		fmt.Fprintf(&out, "/dev/%s = \n", strings.ReplaceAll(e.Name(), "!", "/"))
		inside, _ := os.ReadDir(dir)
		for _, p := range inside {
			sub := filepath.Join(dir, p.Name())
			if _, err := os.Stat(filepath.Join(sub, "partition")); err != nil {
				continue
			}
			fmt.Fprintf(&out, "\n[%s]\n", sub)
			attr(sub, block...)
			links(sub, "holders", "/sys/class/block")
			fmt.Fprintf(&out, "/dev/%s = \n", strings.ReplaceAll(p.Name(), "!", "/"))
		}
	}
	devices, _ := os.ReadDir("/sys/bus/usb/devices")
	for _, e := range devices {
		if target, err := os.Readlink("/sys/bus/usb/devices/" + e.Name()); err == nil {
			fmt.Fprintf(&out, "\n[/sys/bus/usb/devices]\n%s -> %s\n", e.Name(), target)
			device(filepath.Join("/sys/bus/usb/devices", target))
		}
	}
	for _, driver := range drivers {
		fmt.Fprintf(&out, "%s/module = \n", driver)
	}
	groups, _ := os.ReadDir("/sys/fs/btrfs")
	for _, e := range groups {
		fmt.Fprint(&out, "\n[/sys/fs/btrfs]\n")
		links("/sys/fs/btrfs", e.Name()+"/devices", "/sys/class/block")
	}
	mapped, _ := filepath.Glob("/dev/mapper/*")
	for _, path := range mapped {
		if target, err := os.Readlink(path); err == nil {
			fmt.Fprintf(&out, "%s -> %s\n", path, target)
		}
	}
	fmt.Fprint(&out, "\n[/proc]\nself/mountinfo:\n")
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		// Mounts without a disk are not needed, and tell much about a machine.
		fields := strings.Fields(line)
		if _, source, _ := strings.Cut(line, " - "); fields[4] == "/" || !strings.HasPrefix(fields[2], "0:") || strings.Contains(source, "/dev/") || strings.HasPrefix(source, "zfs ") {
			fmt.Fprint(&out, "\t"+line)
		}
	}
	swaps, _ := os.ReadFile("/proc/swaps")
	fmt.Fprint(&out, "\nswaps:\n")
	for line := range strings.Lines(string(swaps)) {
		fmt.Fprint(&out, "\t"+line)
	}
	if err := os.WriteFile(*record, []byte(out.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}
