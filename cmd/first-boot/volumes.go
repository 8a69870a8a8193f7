//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"imgtool/image/fat"
	"imgtool/image/seed"
)

type volume struct {
	device    string // /dev/sda1
	disk      string // sda
	label     string // of the file system
	partlabel string // of the partition
}

// volumes returns the FAT file systems on all disks, sorted by device name.
func volumes(root string) []volume {
	var all []volume
	nodes, _ := filepath.Glob(filepath.Join(root, "sys/class/block/*"))
	slices.Sort(nodes)
	for _, node := range nodes {
		v := volume{device: filepath.Join(root, "dev", filepath.Base(node)), disk: filepath.Base(node)}
		if real, err := filepath.EvalSymlinks(node); err == nil {
			if _, err := os.Stat(filepath.Join(node, "partition")); err == nil {
				v.disk = filepath.Base(filepath.Dir(real))
			}
		}
		event, _ := os.ReadFile(filepath.Join(node, "uevent"))
		for line := range strings.Lines(string(event)) {
			if name, ok := strings.CutPrefix(line, "PARTNAME="); ok {
				v.partlabel = strings.TrimSpace(name)
			}
		}
		f, err := os.Open(v.device)
		if err != nil {
			continue
		}
		if vol, err := fat.Open(f); err == nil {
			v.label = vol.Label
			all = append(all, v)
		}
		f.Close()
	}
	return all
}

// read returns a file of the volume, or nil if it does not exist.
func (v *volume) read(name string) ([]byte, error) {
	f, err := os.Open(v.device)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	vol, err := fat.Open(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", v.device, err)
	}
	file, err := vol.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %s: %w", v.device, name, err)
	}
	if file.Content.Size() > seed.MaxUpload {
		return nil, fmt.Errorf("%s: %s has %d bytes; the device takes up to %d", v.device, name, file.Content.Size(), seed.MaxUpload)
	}
	return io.ReadAll(io.NewSectionReader(file.Content, 0, file.Content.Size()))
}

// ownNames are the labels of the system's own partitions, which are not sticks.
var ownNames = []string{"boot-a", "boot-b", "data", "rootfs-a", "rootfs-b"}

// sticks returns the volumes to search for a seed: first those with a file system label, sorted by
// it, then those with a partition label. Volumes without a label are ignored.
func sticks(all []volume, ownDisk string) []volume {
	var found []volume
	for _, name := range []func(v volume) string{func(v volume) string { return v.label }, func(v volume) string { return v.partlabel }} {
		var named []volume
		for _, v := range all {
			if n := name(v); n != "" && v.disk != ownDisk && !slices.Contains(ownNames, n) && !slices.Contains(found, v) {
				named = append(named, v)
			}
		}
		slices.SortStableFunc(named, func(a, b volume) int { return strings.Compare(name(a), name(b)) })
		found = append(found, named...)
	}
	return found
}
