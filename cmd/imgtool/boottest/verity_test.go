package boottest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"imgtool/image/imagetest"
)

// A board with dm-verity boots an erofs; a bit that was flipped in its root file system, which
// would do no harm without dm-verity, stops the boot.
func TestVerityStopsAFlippedBit(t *testing.T) {
	t.Parallel()
	needVM(t)
	dir := t.TempDir()
	board := filepath.Join(dir, "rock64.toml")
	if err := os.WriteFile(board, []byte("verity = true\n"+imgtool(t, "boards", "rock64")), 0o644); err != nil {
		t.Fatal(err)
	}
	// The starter's root file system as a compressed erofs.
	squashfs, root, erofs := filepath.Join(dir, "root.squashfs"), filepath.Join(dir, "root"), filepath.Join(dir, "root.erofs")
	imagetest.Run(t, "sh", "-c", `imgtool cat "$0:rootfs-a" > "$1"`, starter(t, "boot-1"), squashfs)
	imagetest.Run(t, "unsquashfs", "-quiet", "-no-progress", "-dest", root, squashfs)
	imagetest.Run(t, "mkfs.erofs", "--quiet", "-zlz4", "-Enosbcrc", erofs, root)
	img := filepath.Join(dir, "x.img")
	args := []string{"build", "--board", board, "--rootfs", erofs, "--build-id", "verity-1", "-o", img}
	for _, input := range []string{"idbloader.img", "u-boot.itb", "Image", "initrd", "rk3328-rock64.dtb"} {
		args = append(args, "--input", input+"=starter")
	}
	imgtool(t, args...)

	const ready = `imgtool starter ready: slot a, build .*, root overlay`
	log := boot(t, img, ready)
	wantLines(t, log, "initrd: /dev/vda2 is checked by dm-verity")
	if !strings.Contains(log, "root=fstab rw atomixos.lowerdev=/dev/vda2 atomixos.lowerfstype=erofs roothash=") {
		t.Errorf("the kernel's arguments have no erofs or root hash:\n%s", log)
	}

	// The time of the file system, at byte 1048 of the superblock. It has no checksum here.
	flip := func(img string) {
		imagetest.Run(t, "python3", "-c", `import sys
with open(sys.argv[1], "r+b") as f:
    f.seek(144 * 2**20 + 1048)
    b = f.read(1)[0]
    f.seek(-1, 1)
    f.write(bytes([b ^ 1]))`, img)
	}
	flip(img)
	log = boot(t, img, `dm-verity device corrupted`)
	if strings.Contains(log, "starter ready") || !strings.Contains(log, "data block 0 is corrupted") {
		t.Errorf("the flipped bit did not stop the boot:\n%s", log)
	}
}
