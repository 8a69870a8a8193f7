package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"imgtool/image/imagetest"
	"imgtool/image/vm"
)

const (
	bootOff  = 16 << 20
	bootSize = 128 << 20
	rootOff  = 144 << 20
)

// foreignImage makes an image as AtomixOS's own build does: a table by sfdisk, a boot
// partition by mkfs.vfat and mcopy, all put together by dd. files are those of the boot
// partition, by their path there; root is the root file system.
func foreignImage(t *testing.T, img, blobs string, files map[string]string, root string) {
	t.Helper()
	sparseFile(t, img, 1170<<20)
	script := filepath.Join(t.TempDir(), "table")
	text := `label: gpt
first-lba: 2048
start=32768, size=262144, type=BC13C2FF-59E6-4262-A352-B275FD6F7172, name="boot-a"
start=294912, size=2097152, type=B921B045-1DF0-41C3-AF44-4C6F280D3FAE, name="rootfs-a"
`
	if err := os.WriteFile(script, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	imagetest.Run(t, "sh", "-c", `"$0" --quiet "$1" < "$2"`, imagetest.Need(t, "sfdisk"), img, script)
	dd := func(from string, seek int64) {
		imagetest.Run(t, "dd", "if="+from, "of="+img, "bs=512", fmt.Sprintf("seek=%d", seek/512), "conv=notrunc,sparse", "status=none")
	}
	dd(filepath.Join(blobs, "idbloader.img"), 64*512)
	dd(filepath.Join(blobs, "u-boot.itb"), 8<<20)
	boot := sparseFile(t, filepath.Join(t.TempDir(), "boot.vfat"), bootSize)
	imagetest.Run(t, "mkfs.vfat", "-n", "BOOT-A", boot)
	imagetest.Run(t, "mmd", "-i", boot, "::dtbs", "::dtbs/rockchip")
	for _, path := range []string{"Image", "initrd", "dtbs/rockchip/rk3328-rock64.dtb", "boot.scr"} {
		imagetest.Run(t, "mcopy", "-i", boot, files[path], "::"+path)
	}
	dd(boot, bootOff)
	dd(root, rootOff)
}

// bootFAT copies the boot partition out of an image or a disk, and has fsck.fat look at
// it.
func bootFAT(t *testing.T, img string) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "boot.vfat")
	imagetest.Run(t, "dd", "if="+img, "of="+out, "bs=1M", "skip=16", "count=128", "conv=sparse", "status=none")
	if text := imagetest.Run(t, "fsck.fat", "-n", out); strings.Count(strings.TrimSpace(text), "\n") != 1 {
		t.Errorf("%s: fsck.fat says:\n%s", img, text)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// onlySeedDiffers fails the test if two boot partitions, of which the second has a seed in
// one cluster, differ in anything but that cluster, its entry in both tables, and the two
// entries of the name in the root directory.
func onlySeedDiffers(t *testing.T, before, after []byte, cluster int64) {
	t.Helper()
	// The FAT16 that mkfs.vfat makes of 128 MiB.
	const table1, table2, root, data, size = 4 * 512, 260 * 512, 516 * 512, 516*512 + 512*32, 4 * 512
	var slots []int64
	for at := range before {
		if before[at] == after[at] {
			continue
		}
		switch off := int64(at); {
		case off/2 == (table1+2*cluster)/2, off/2 == (table2+2*cluster)/2:
		case off >= root && off < data:
			if slot := (off - root) / 32; len(slots) == 0 || slots[len(slots)-1] != slot {
				slots = append(slots, slot)
			}
		case (off-data)/size+2 == cluster:
		default:
			t.Fatalf("byte %d of the boot partition changed", at)
		}
	}
	if len(slots) != 2 || slots[1] != slots[0]+1 {
		t.Errorf("the entries %v of the root directory changed", slots)
	}
}

// An image that others made takes a seed, in itself and on its way to a disk, and gives it
// back.
func TestAnImageOfOthersTakesASeed(t *testing.T) {
	dir := t.TempDir()
	in, at := filepath.Join(dir, "in"), func(name string) string { return filepath.Join(dir, name) }
	if err := makeInputs(in); err != nil {
		t.Fatal(err)
	}
	script, root, seed := at("boot.scr"), at("rootfs.squashfs"), filepath.Join(in, "config.toml")
	for path, text := range map[string]string{script: "a script", root: "hsqs" + strings.Repeat("r", 3<<20)} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	plain, img := at("plain.img"), at("x.img")
	foreignImage(t, plain, in, map[string]string{"Image": filepath.Join(in, "Image"), "initrd": filepath.Join(in, "initrd"),
		"dtbs/rockchip/rk3328-rock64.dtb": filepath.Join(in, "rk3328-rock64.dtb"), "boot.scr": script}, root)
	imagetest.Run(t, "cp", "--sparse=always", plain, img)
	before := bootFAT(t, plain)

	if status, out := ended(t, tool(t, "seed", "get", img)); status != exitInput || !strings.Contains(out, "there is no seed in it") {
		t.Errorf("exit status %d: %s", status, out)
	}
	if err := os.WriteFile(img+".bmap", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if status, out := ended(t, tool(t, "seed", "put", "--board", "rock64", img, seed)); status != exitOK || !strings.Contains(out, "x.img.bmap is of the image before") {
		t.Errorf("exit status %d: %s", status, out)
	}
	if got := imgtool(t, "seed", "get", img); got != tinySeed {
		t.Errorf("the seed is %q", got)
	}
	var cluster int64
	shown := imagetest.Run(t, "mshowfat", "-i", img+"@@16M", "::config.toml")
	if _, err := fmt.Sscanf(shown[strings.IndexByte(shown, '<'):], "<%d>", &cluster); err != nil {
		t.Fatalf("%v: %s", err, shown)
	}
	onlySeedDiffers(t, before, bootFAT(t, img), cluster)
	if got := imagetest.Run(t, "mtype", "-i", img+"@@16M", "::config.toml"); got != tinySeed {
		t.Errorf("mtype reads %q", got)
	}
	for _, part := range [][2]int64{{0, bootOff}, {rootOff, 1170<<20 - rootOff}} {
		imagetest.Run(t, "cmp", fmt.Sprintf("--ignore-initial=%d", part[0]), fmt.Sprintf("--bytes=%d", part[1]), plain, img)
	}
	for _, file := range []string{plain, img} {
		var kib int64
		if _, err := fmt.Sscan(imagetest.Run(t, "du", "-k", file), &kib); err != nil || kib > 64<<10 {
			t.Errorf("%s takes %d KiB (%v)", file, kib, err)
		}
	}

	// On the way to a file and to a loop device, which were blank, and to ones that were not.
	disk, behind := sparseFile(t, at("disk"), 3<<30), sparseFile(t, at("behind"), 3<<30)
	dev := imagetest.Loop(t, behind)
	for range 2 {
		for _, to := range []string{disk, dev} {
			flashesSeeded(t, plain, seed, to)
			imgtool(t, "verify", "--image", img, to)
			onlySeedDiffers(t, before, bootFAT(t, to), cluster)
		}
	}

	if out := imgtool(t, "--json", "flash", "--yes", "--delta=no", "-i", img, disk); !strings.Contains(out, `"skipped": 0,`) {
		t.Errorf("not all was written: %s", out)
	}

	// On a disk, and out again.
	imgtool(t, "seed", "rm", dev)
	imgtool(t, "verify", "--image", plain, dev)
	imgtool(t, "seed", "put", dev, seed)
	imgtool(t, "verify", "--image", img, dev)
	bootFAT(t, dev)
	imgtool(t, "seed", "rm", img)
	imagetest.Run(t, "cmp", plain, img)
	bootFAT(t, img)
}

// flashesSeeded flashes an image of 1170 MiB, most of it zeros, with a seed onto a disk that
// is zeros where the image is, and verifies it.
func flashesSeeded(t *testing.T, img, seed, disk string) {
	t.Helper()
	var r receipt
	if err := json.Unmarshal([]byte(imgtool(t, "--json", "flash", "--yes", "--board", "rock64", "-i", img, "--seed", seed, disk)), &r); err != nil {
		t.Fatal(err)
	}
	// What has zeros between its data is written as zeros: no more than that.
	if r.Written > 60<<20 || r.Skipped < 1000<<20 || r.Verified < 1154<<20 || r.Unread != 0 {
		t.Errorf("%s: %d bytes were written, %d were there, %d are verified", disk, r.Written, r.Skipped, r.Verified)
	}
	imgtool(t, "verify", "--image", img, "--seed", seed, disk)
	if status, out := ended(t, tool(t, "verify", "--image", img, disk)); status != exitMismatch {
		t.Errorf("%s: verified without its seed: exit status %d: %s", disk, status, out)
	}
}

// What cannot be done is refused, and the image is left as it is.
func TestAnImageOfOthersIsRefused(t *testing.T) {
	dir := t.TempDir()
	in, plain := filepath.Join(dir, "in"), filepath.Join(dir, "plain.img")
	if err := makeInputs(in); err != nil {
		t.Fatal(err)
	}
	seed, small := filepath.Join(in, "config.toml"), filepath.Join(in, "rk3328-rock64.dtb")
	foreignImage(t, plain, in, map[string]string{"Image": small, "initrd": small, "dtbs/rockchip/rk3328-rock64.dtb": small, "boot.scr": small}, small)
	poke := func(off int64, b ...byte) func(img string) {
		return func(img string) {
			f, err := os.OpenFile(img, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteAt(b, off); err != nil {
				t.Fatal(err)
			}
		}
	}
	sfdisk := func(args ...string) func(img string) {
		return func(img string) {
			imagetest.Run(t, "sfdisk", append([]string{"--quiet", args[0], img}, args[1:]...)...)
		}
	}
	for _, c := range []struct {
		name   string
		spoil  func(img string)
		args   []string
		status int
		want   string
	}{
		{"in use", poke(bootOff+37, 1), nil, exitInput, "boot-a: it is marked as mounted, or as not unmounted cleanly: unmount it where it is mounted, or check it with fsck.fat -a"},
		{"tables that differ", poke(bootOff+4*512+2*1000, 1), nil, exitCorrupt, "boot-a: copies 1 and 2 of its table differ at cluster 1000"},
		{"no FAT", poke(bootOff+510, 0), nil, exitCorrupt, "boot-a: no FAT file system"},
		{"full", func(img string) {
			fat := filepath.Join(t.TempDir(), "boot.vfat")
			imagetest.Run(t, "dd", "if="+img, "of="+fat, "bs=1M", "skip=16", "count=128", "conv=sparse", "status=none")
			var used, all int64
			text := imagetest.Run(t, "fsck.fat", "-n", fat)
			if _, err := fmt.Sscanf(text[strings.LastIndex(text, ", ")+2:], "%d/%d clusters", &used, &all); err != nil {
				t.Fatalf("%v: %s", err, text)
			}
			imagetest.Run(t, "mcopy", "-i", img+"@@16M", sparseFile(t, filepath.Join(dir, "fill"), (all-used)*2048), "::fill")
		}, nil, exitInput, `boot-a: "config.toml": 2048 bytes of files do not fit: 128 MiB has 0 bytes free: the seed is too large for it`},
		{"no boot-a", sfdisk("--part-label", "1", "boot"), nil, exitInput, "it has no boot partition that takes a seed: rock64 has it as partition 1 with the name boot-a"},
		{"a slot b", sfdisk("--part-label", "2", "boot-b"), nil, exitRefused, "the device would ignore it"},
		{"another board", nil, []string{"--board", "photon-nx"}, exitInput, "photon-nx takes no seed"},
		{"no such board", nil, []string{"--board", "rock65"}, exitInput, "rock65"},
	} {
		t.Run(c.name, func(t *testing.T) {
			img := filepath.Join(t.TempDir(), "x.img")
			imagetest.Run(t, "cp", "--sparse=always", plain, img)
			if c.spoil != nil {
				c.spoil(img)
			}
			before := hashFile(t, img)
			if status, out := ended(t, tool(t, append(append([]string{"seed", "put"}, c.args...), img, seed)...)); status != c.status || !strings.Contains(out, c.want) {
				t.Errorf("exit status %d: %s; want %d and %q", status, out, c.status, c.want)
			}
			if hashFile(t, img) != before {
				t.Error("the image was changed")
			}
		})
	}
}

// The device finds the seed that was put into an image of others on its way to the disk.
func TestAnImageOfOthersBootsWithItsSeed(t *testing.T) {
	needFirstBoot(t)
	dir := t.TempDir()
	ours := starter(t, "--build-id", "foreign-test")
	files := map[string]string{}
	for _, path := range []string{"Image", "initrd", "dtbs/rockchip/rk3328-rock64.dtb", "boot.scr"} {
		files[path] = filepath.Join(dir, filepath.Base(path))
		imagetest.Run(t, "mcopy", "-i", ours+"@@16M", "::"+path, files[path])
	}
	cut := func(name string, skip, count int64) string {
		out := filepath.Join(dir, name)
		imagetest.Run(t, "dd", "if="+ours, "of="+out, "bs=512", fmt.Sprintf("skip=%d", skip), fmt.Sprintf("count=%d", count), "conv=sparse", "status=none")
		return out
	}
	cut("idbloader.img", 64, 8000)
	cut("u-boot.itb", 16384, 4096)
	img := filepath.Join(dir, "foreign.img")
	foreignImage(t, img, dir, files, cut("root.squashfs", 294912, 2097152))
	site := newSite(t)
	text := []byte(strings.ReplaceAll(readText(t, site.seed), strings.TrimSuffix(site.gateway, "1"), "172.20.30."))
	seed, disk := filepath.Join(dir, "config.toml"), sparseFile(t, filepath.Join(dir, "disk"), 4<<30)
	if err := os.WriteFile(seed, text, 0o644); err != nil {
		t.Fatal(err)
	}
	imgtool(t, "flash", "--yes", "-i", img, "--seed", seed, disk)
	log := imagetest.Boot(t, vm.Machine{Disks: []vm.Disk{{Path: disk, Bus: "virtio"}}}, provisioned)
	wantLines(t, log, fmt.Sprintf("imgtool starter: seed on boot-a: %d bytes, SHA-256 %x", len(text), sha256.Sum256(text)),
		"fresh flash: yes", "first-boot: the boot partition has a config.toml (/dev/vda1)", "first-boot: the slot is marked good")
	if !bytes.Equal(text, []byte(imgtool(t, "seed", "get", disk))) {
		t.Error("the disk has another seed")
	}
}
