package complete

import (
	"github.com/spf13/cobra"

	"imgtool/flash/disk"
	"imgtool/image"
)

// disks completes all disks, with their model and size.
func disks(r request) []cobra.Completion {
	return diskList(func(*disk.Disk) bool { return true })
}

// targets completes the disks that can be written.
func targets(r request) []cobra.Completion {
	return diskList(func(d *disk.Disk) bool { return d.Check(disk.Need{SectorSize: 512, Unmount: true}) == nil })
}

func diskList(such func(*disk.Disk) bool) (list []cobra.Completion) {
	found, _ := disk.List("/")
	for i := range found {
		if d := &found[i]; such(d) {
			list = append(list, described(d.Path, image.FormatSize(d.Size), d.Vendor, d.Model, d.Bus))
		}
	}
	return list
}

// serials completes the serial numbers of disks.
func serials(request) (list []cobra.Completion) {
	found, _ := disk.List("/")
	for _, d := range found {
		if d.Serial != "" {
			list = append(list, described(d.Serial, d.Path, image.FormatSize(d.Size), d.Vendor, d.Model))
		}
	}
	return list
}
