package boottest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"imgtool/image/cms/cmstest"
	"imgtool/image/imagetest"
	"imgtool/image/vm"
)

// raucBoard is a Rock64 with small slots and RAUC in the starter's root file system.
type raucBoard struct {
	t               *testing.T
	dir             string
	file            string // the definition
	keyring         string
	key, cert, root string // the last has edits of the root file system
}

func newRAUCBoard(t *testing.T) *raucBoard {
	t.Helper()
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	b := &raucBoard{t: t, dir: dir, file: in("rock64.toml"), root: in("root.toml")}
	text := imgtool(t, "boards", "rock64")
	for old, new := range map[string]string{
		`layout = "ab-squashfs"`:   `layout = "small.toml"`,
		`slot-select = "bootmeth"`: `slot-select = "script"`,
		`"crc32c_generic",`:        `"crc32c_generic", "nbd",`,
		"[starter.inputs]":         program("rauc", "rauc") + program("dbus-daemon", "dbus-daemon") + "[starter.inputs]",
	} {
		if strings.Count(text, old) != 1 {
			t.Fatalf("the definition of the Rock64 has no %s", old)
		}
		text = strings.Replace(text, old, new, 1)
	}
	layout := string(imagetest.Read(t, "../../../layouts/ab-squashfs.toml"))
	layout = strings.NewReplacer(`size = "128MiB"`, `size = "64MiB"`, `size = "1GiB"`, `size = "48MiB"`, `name = "ab-squashfs"`, `name = "small"`).Replace(layout)
	ca := cmstest.Issue(t, cmstest.EC(t), nil, nil)
	leaf := cmstest.Issue(t, cmstest.RSA(t), ca, nil)
	b.keyring, b.key, b.cert = cmstest.File(t, ca.Cert), cmstest.File(t, leaf.Key), cmstest.File(t, leaf.Cert)
	edits := strings.ReplaceAll(string(imagetest.Read(t, "testdata/rauc.toml")), "@KEYRING@", pemOf(ca.Cert))
	for file, text := range map[string]string{b.file: text, in("small.toml"): layout, b.root: edits} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

func program(pkg, name string) string {
	return fmt.Sprintf("[[starter.program]]\npackage = %q\npath = \"usr/bin/%s\"\nin = \"rootfs\"\n\n", pkg, name)
}

func pemOf(c *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
}

// image builds an image with RAUC.
func (b *raucBoard) image(id string) string {
	b.t.Helper()
	img := filepath.Join(b.dir, id+".img")
	imgtool(b.t, "build", "--board", b.file, "--edits", b.root, "--build-id", id, "-o", img)
	return img
}

// withFile builds an image again, with one more file in its root file system.
func (b *raucBoard) withFile(img, id string, content []byte) string {
	b.t.Helper()
	root := filepath.Join(b.dir, id)
	imagetest.Run(b.t, "unsquashfs", "-quiet", "-no-progress", "-dest", root, b.cat(img+":rootfs-a"))
	if err := os.WriteFile(filepath.Join(root, "usr/bin/more-data"), content, 0o644); err != nil {
		b.t.Fatal(err)
	}
	args := []string{"build", "--board", b.file, "--rootfs", root, "--build-id", id, "-o", img}
	for _, input := range []string{"idbloader.img", "u-boot.itb", "Image", "initrd", "rk3328-rock64.dtb"} {
		args = append(args, "--input", input+"=starter")
	}
	imgtool(b.t, args...)
	return img
}

func (b *raucBoard) bundle(img, name string, args ...string) string {
	b.t.Helper()
	path := filepath.Join(b.dir, name)
	imgtool(b.t, append([]string{"bundle", img, "--board", b.file, "--key", b.key, "--cert", b.cert, "--keyring", b.keyring, "-o", path}, args...)...)
	return path
}

// newBlocks returns how many bytes of the blocks of a file are not in another, and are no zeros.
func newBlocks(t *testing.T, file, other string) (size int64) {
	t.Helper()
	seen := map[[sha256.Size]byte]bool{sha256.Sum256(make([]byte, 4096)): true}
	for b := imagetest.Read(t, other); len(b) > 0; b = b[4096:] {
		seen[sha256.Sum256(b[:4096])] = true
	}
	for b := imagetest.Read(t, file); len(b) > 0; b = b[4096:] {
		if sum := sha256.Sum256(b[:4096]); !seen[sum] {
			seen[sum] = true
			size += 4096
		}
	}
	return size
}

// cat writes a partition or an image of a bundle to a file.
func (b *raucBoard) cat(place string) string {
	b.t.Helper()
	file := filepath.Join(b.t.TempDir(), "content")
	imagetest.Run(b.t, "sh", "-c", `imgtool cat "$0" > "$1"`, place, file)
	return file
}

// run boots the disk with a FAT that has the bundles, types a command when the device is provisioned,
// and returns the console's text up to a line that matches.
func (b *raucBoard) run(disk, bundles, command, until string) string {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 20*time.Minute)
	defer cancel()
	m := vm.Machine{Disks: []vm.Disk{{Path: disk, Bus: "virtio", Keep: true}, {Path: bundles, Bus: "virtio"}}, Once: true}
	running, err := m.Start(ctx)
	if err != nil {
		b.t.Fatal(err)
	}
	defer running.Kill()
	var log bytes.Buffer
	_, err = running.Watch(&log, regexp.MustCompile(until).MatchString, vm.Reply{Seen: "first-boot: provisioned", Type: "\n" + command + "\n"})
	if err != nil {
		b.t.Fatalf("%v before %q was seen:\n%s", err, until, log.String())
	}
	return strings.ReplaceAll(log.String(), "\r", "")
}

// RAUC on a device installs a bundle onto the slots that are not in use, reads little more of it than
// the blocks that no slot has, and the device boots the new slots. A bundle for other devices is
// refused.
func TestRAUCInstallsABundle(t *testing.T) {
	t.Parallel()
	needVM(t)
	imagetest.Long(t)
	b := newRAUCBoard(t)
	one := b.image("rauc-1")
	random := make([]byte, 4<<20)
	rand.NewChaCha8([32]byte{1}).Read(random)
	two := b.withFile(b.image("rauc-2"), "rauc-2", random)
	bundle, other := b.bundle(two, "two.raucb"), b.bundle(two, "other.raucb", "--compatible", "other")
	bundles, disk := sparseFile(t, filepath.Join(b.dir, "bundles"), 256<<20), filepath.Join(b.dir, "disk")
	imagetest.Run(t, "mkfs.vfat", bundles)
	imagetest.Run(t, "mcopy", "-i", bundles, bundle, other, "::")
	imgtool(t, "seed", "put", one, newSite(t).seed)
	vmUntil(t, provisioned, "--keep", disk, "--disk", "1GiB", one)

	log := b.run(disk, bundles, "update other.raucb; update two.raucb; poweroff", `reboot: Power down`)
	if !strings.Contains(log, "Compatible mismatch: Expected 'rock64' but bundle manifest has 'other'") {
		t.Errorf("the bundle for other devices was not refused:\n%s", log)
	}
	m := regexp.MustCompile(`(?m)^update of two.raucb has read ([0-9]+) bytes$`).FindStringSubmatch(log)
	if !strings.Contains(log, "update of two.raucb succeeded") || m == nil {
		t.Fatalf("the update failed:\n%s", log)
	}
	read, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	size, index := newBlocks(t, b.cat(bundle+":boot"), b.cat(one+":boot-a"))+newBlocks(t, b.cat(bundle+":rootfs"), b.cat(one+":rootfs-a")), int64(0)
	for _, name := range []string{"boot.vfat", "rootfs.squashfs"} {
		index += int64(len(imagetest.Read(t, b.cat(bundle+":/"+name+".block-hash-index"))))
	}
	t.Logf("%d bytes of blocks are new, the indexes have %d bytes, and %d bytes were read", size, index, read)
	if most := (size + index) * 23 / 20; size < int64(len(random)) || read < size || read > most {
		t.Errorf("%d bytes were read for %d bytes of new blocks and indexes of %d bytes; at most %d were expected", read, size, index, most)
	}
	vmUntil(t, readyLine("b", "rauc-2"), "--keep", disk)
}
