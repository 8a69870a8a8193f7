package main

import (
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"imgtool/image/imagetest"
)

// formats are the formats of a previous use of a disk. Each writes its signatures
// to a file that is then copied to the disk and to the place of each partition.
var formats = map[string]func(t *testing.T, file string){
	"ext4":  func(t *testing.T, f string) { imagetest.Run(t, "mkfs.ext4", "-q", "-F", f) },
	"btrfs": func(t *testing.T, f string) { imagetest.Run(t, "mkfs.btrfs", "-q", "-f", f) },
	"f2fs":  func(t *testing.T, f string) { imagetest.Run(t, "mkfs.f2fs", "-q", "-f", f) },
	"swap":  func(t *testing.T, f string) { imagetest.Run(t, "mkswap", "-q", f) },
	"luks2": func(t *testing.T, f string) {
		imagetest.Run(t, "sh", "-c", "echo secret | cryptsetup luksFormat -q --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 "+f)
	},
	// LVM and md need device nodes and drivers that may be missing; these are
	// the labels that blkid detects.
	"lvm": func(t *testing.T, f string) {
		b := make([]byte, 512)
		copy(b, "LABELONE")
		le := binary.LittleEndian
		le.PutUint64(b[8:], 1)
		le.PutUint32(b[20:], 32)
		copy(b[24:], "LVM2 001")
		copy(b[32:], "abcdefghijklmnopqrstuvwxyz012345")
		le.PutUint32(b[16:], lvmChecksum(b[20:]))
		overwrite(t, f, 512, b)
	},
	"md": func(t *testing.T, f string) {
		b := make([]byte, 256)
		le := binary.LittleEndian
		le.PutUint32(b[0:], 0xa92b4efc)
		le.PutUint32(b[4:], 1)
		copy(b[16:], "a uuid of an md!")
		info, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		at := (info.Size()/512 - 16) &^ 7 // version 1.0 is 8 KiB before the end
		le.PutUint64(b[144:], uint64(at))
		overwrite(t, f, at*512, b)
	},
	"a table of 1 TB": func(t *testing.T, f string) {
		big := sparseFile(t, f+".big", 1<<40)
		defer os.Remove(big)
		imagetest.Run(t, "sgdisk", "-n", "1:0:0", big)
		b := make([]byte, 1<<20)
		file, err := os.Open(big)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		file.ReadAt(b, 0)
		overwrite(t, f, 0, b)
	},
}

// lvmChecksum is the CRC-32 of LVM: without the final complement, and with
// another initial value.
func lvmChecksum(b []byte) uint32 {
	crc := uint32(0xf597a6cf)
	for _, c := range b {
		crc ^= uint32(c)
		for range 8 {
			crc = crc>>1 ^ 0xedb88320&-(crc&1)
		}
	}
	return crc
}

func overwrite(t *testing.T, path string, off int64, b []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(b, off); err != nil {
		t.Fatal(err)
	}
}

// After a flash, only signatures of the image are on the disk, also in the places of
// deferred partitions.
func TestOnlyTheImagesSignaturesRemain(t *testing.T) {
	imagetest.Long(t)
	const mib = 1 << 20
	dir := built(t)
	x := filepath.Join(dir, "x.img.zst")
	parts := map[string]struct{ off, size int64 }{
		"the disk": {0, 3000 * mib},
		"boot-a":   {16 * mib, 128 * mib}, "rootfs-a": {144 * mib, 1024 * mib},
		"boot-b": {1168 * mib, 128 * mib}, "rootfs-b": {1296 * mib, 1024 * mib},
		"data": {2320 * mib, (3000 - 2320 - 1) * mib},
	}
	want := map[string]string{"the disk": "PMBR gpt", "boot-a": "vfat", "rootfs-a": "squashfs"}
	for name, format := range formats {
		t.Run(name, func(t *testing.T) {
			disk := sparseFile(t, filepath.Join(dir, "disk"), 3000*mib)
			// signatures lists the signatures that blkid and wipefs find in a part of the disk.
			signatures := func(part string) string {
				alone := filepath.Join(dir, "alone")
				os.Remove(alone)
				sparseFile(t, alone, parts[part].size)
				copySparse(t, alone, 0, disk, parts[part].off, parts[part].size)
				out := strings.Fields(imagetest.Run(t, "sh", "-c", "wipefs -n -i -O TYPE "+alone+" | sort -u"))
				return strings.Join(out, " ")
			}
			for part, p := range parts {
				file := sparseFile(t, filepath.Join(dir, "old"), p.size)
				format(t, file)
				copySparse(t, disk, p.off, file, 0, p.size)
				os.Remove(file)
				if part != "the disk" && signatures(part) == "" {
					t.Fatalf("wipefs sees no %s in %s before the flash", name, part)
				}
			}
			imgtool(t, "flash", "--yes", "--image", x, disk)
			for part := range parts {
				if got := signatures(part); got != want[part] {
					t.Errorf("%s has %q afterwards, want %q", part, got, want[part])
				}
			}
			imgtool(t, "verify", "--image", x, disk)
		})
	}
}

// kernelOf returns the offset of a byte of the kernel on the first boot partition of an image.
func kernelOf(t *testing.T, image string) int64 {
	t.Helper()
	var m struct {
		Extents []struct {
			Name           string
			Offset, Length int64
		}
	}
	text, err := os.ReadFile(image + ".manifest.json")
	must(err)
	must(json.Unmarshal(text, &m))
	for _, e := range m.Extents {
		if e.Name == "boot-a/Image" {
			return e.Offset + e.Length/2
		}
	}
	t.Fatal("it has no kernel")
	return 0
}
