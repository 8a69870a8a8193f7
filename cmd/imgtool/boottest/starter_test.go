package boottest

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"imgtool/image/imagetest"
	"imgtool/image/vm"
)

// The starter reports the seeds on boot-a and on a stick, or none.
func TestTheStarterFindsItsSeeds(t *testing.T) {
	t.Parallel()
	needVM(t)
	seed := string(imagetest.Read(t, newSite(t).seed))
	dir := t.TempDir()
	write := func(name, text string) (path, found string) {
		path = filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path, fmt.Sprintf("%d bytes, SHA-256 %x", len(text), sha256.Sum256([]byte(text)))
	}
	template, _ := write("seed.toml", seed+"Environment = \"SERIAL=@{serial}\"\n")
	values, _ := write("units.csv", "serial\nW1\nW2\n")
	_, own := write("W2.toml", seed+"Environment = \"SERIAL=W2\"\n")
	plain, onStick := write("config.toml", seed)
	stick := sparseFile(t, filepath.Join(dir, "stick"), 80<<20)
	imgtool(t, "seed", "stick", "--yes", stick, plain)

	img := starter(t, "boot-1")
	const ready = `imgtool starter ready: slot a, build boot-1, root overlay`
	log := boot(t, img, ready)
	if !strings.Contains(log, "imgtool starter: no seed on boot-a") || strings.Contains(log, "starter: seed on") {
		t.Errorf("there is no seed in the image:\n%s", log)
	}
	imgtool(t, "seed", "put", "--values", values, "--unit", "W2", img, template)
	log = imagetest.Boot(t, vm.Machine{Disks: []vm.Disk{{Path: img, Bus: "virtio"}, {Path: stick, Bus: "virtio"}}}, ready)
	for where, want := range map[string]string{"boot-a": own, "seed": onStick} {
		if !strings.Contains(log, "imgtool starter: seed on "+where+": "+want) {
			t.Errorf("no seed on %s of %s:\n%s", where, want, log)
		}
	}
}

// Slot B of an image with both slots boots with its root, with --slot b and if U-Boot finds
// no kernel in slot A. Such an image is not fresh, because boot-b exists, but its data
// partition is created.
func TestAnImageWithBothSlotsBootsB(t *testing.T) {
	t.Parallel()
	needVM(t)
	img := starter(t, "boot-ab", "--slots", "ab")
	disk := filepath.Join(t.TempDir(), "disk")
	const ready = `^imgtool starter ready: slot b, build boot-ab, root overlay$`
	log := vmUntil(t, ready, "--slot", "b", "--keep", disk, img)
	wantLines(t, log, "Booting boot.1 from virtio 0:3", "fresh flash: no", "/data mounted: f2fs on ")
	imagetest.Run(t, "mdel", "-i", disk+"@@16M", "::Image")
	log = vmUntil(t, ready, "--keep", disk)
	if n := strings.Count(log, "Boot failed: cannot load Image"); n != 3 {
		t.Errorf("slot A failed %d times, not 3:\n%s", n, log)
	}
}
