//go:build record

package boottest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"imgtool/image/imagetest"
)

// TestRecordQEMU records a machine of QEMU with a virtio disk, a USB stick, an SD
// card, an NVMe disk and a disk on SATA, as ../../flash/disk/testdata/machines/qemu.txt.
func TestRecordQEMU(t *testing.T) {
	dir := t.TempDir()
	vm := newMachine(t, dir, "testdata/gadget/record.sh", "virtio_pci", "virtio_blk", "xhci_pci", "usb_storage", "sd_mod", "nvme", "sdhci_pci", "mmc_block", "ahci", "crc32c_generic", "ext4")
	program := filepath.Join(dir, "disk.test")
	build := exec.Command(imagetest.Need(t, "go"), "test", "-tags", "record", "-c", "-o", program, "imgtool/flash/disk")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	vm.put("bin/disk.test", 0o755, imagetest.Read(t, program))
	var args []string
	drive := func(id string, size int64, device string) {
		file := sparseFile(t, filepath.Join(dir, id), size)
		args = append(args, "-drive", "if=none,format=raw,id="+id+",file="+file, "-device", device+",drive="+id)
	}
	args = append(args, "-device", "qemu-xhci", "-device", "sdhci-pci", "-device", "ahci,id=sata")
	drive("virtio", 64<<20, "virtio-blk-pci,serial=virtio-0001")
	imagetest.Run(t, "mkfs.ext4", "-q", filepath.Join(dir, "virtio"))
	drive("stick", 4<<30, "usb-storage,removable=on,serial=stick-0001")
	drive("card", 1<<30, "sd-card")
	drive("nvme", 2<<30, "nvme,serial=nvme-0001")
	drive("sata", 3<<30, "ide-hd,bus=sata.0,serial=sata-0001")
	log := vm.run(args...)
	_, text, ok := strings.Cut(log, "machine begins\n")
	text, _, end := strings.Cut(text, "machine ends\n")
	if !ok || !end {
		t.Fatal(log)
	}
	if err := os.WriteFile("../../flash/disk/testdata/machines/qemu.txt", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
