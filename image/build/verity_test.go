package build_test

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"imgtool/boards"
	"imgtool/image/build"
	"imgtool/image/imagetest"
	"imgtool/image/uboot"
	"imgtool/image/verity"
)

// protect is a change of made that asks for dm-verity.
func protect(o *build.Options) {
	b, err := boards.Parse("rock64.toml", []byte("verity = true\n"+string(o.Board.Source)), os.DirFS("../../boards"))
	if err != nil {
		panic(err)
	}
	o.Board = b
}

// The hash tree of a root file system is the one of veritysetup, and its root is in the manifest and
// in the boot script. A changed bit is found.
func TestVerity(t *testing.T) {
	imagetest.Need(t, "veritysetup")
	big := filepath.Join(t.TempDir(), "root")
	if err := os.MkdirAll(big+"/sbin", 0o755); err != nil {
		t.Fatal(err)
	}
	random, err := exec.Command("sh", "-c", "seq 1 400000 | sha512sum; seq 1 300000 | gzip").Output()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(big+"/sbin/init", random, 0o755); err != nil {
		t.Fatal(err)
	}
	ready := filepath.Join(t.TempDir(), "x.squashfs")
	imagetest.Run(t, "mksquashfs", big, ready, "-quiet", "-no-progress")
	for name, root := range map[string]string{"an empty root": "", "a tree": big, "a ready squashfs": ready} {
		r := made(t, func(o *build.Options) {
			protect(o)
			o.Slots = "ab"
			if root != "" {
				o.Inputs["rootfs"] = root
			}
		})
		script := find(t, r.Image, "boot-a/boot.scr")
		text := make([]byte, script.Size())
		if _, err := script.ReadAt(text, 0); err != nil {
			t.Fatal(err)
		}
		commands, err := uboot.ParseScript(text)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, p := range r.Manifest.Partitions {
			if p.Verity == nil {
				continue
			}
			n++
			want := fmt.Sprintf("atomixos.lowerfstype=squashfs roothash=%s systemd.verity_root_data=${root_disk}${distro_rootpart} systemd.verity_root_hash=${root_disk}${distro_rootpart} systemd.verity_root_options=hash-offset=%d,panic-on-corruption init=", p.Verity.RootHash, p.Verity.HashOffset)
			if !strings.Contains(commands, want) {
				t.Errorf("%s: the boot script lacks %q:\n%s", name, want, commands)
			}
			file := filepath.Join(t.TempDir(), "part")
			out, err := os.Create(file)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(out, io.NewSectionReader(r.Image, p.Off, p.Verity.HashOffset+verity.BlockSize+verity.TreeSize(p.Verity.HashOffset))); err != nil {
				t.Fatal(err)
			}
			out.Close()
			check := func() ([]byte, error) {
				return exec.Command("veritysetup", "verify", file, file, p.Verity.RootHash, "--hash-offset", fmt.Sprint(p.Verity.HashOffset)).CombinedOutput()
			}
			if out, err := check(); err != nil {
				t.Errorf("%s: veritysetup verify: %v: %s", name, err, out)
			}
			imagetest.Run(t, "sh", "-c", "printf '\\001' | dd of="+file+" bs=1 seek=50 conv=notrunc status=none")
			if out, err := check(); err == nil {
				t.Errorf("%s: veritysetup verify finds no changed bit: %s", name, out)
			}
		}
		if n != 2 {
			t.Errorf("%s: %d partitions have a hash tree, wanted 2", name, n)
		}
	}
}

// A tree that leaves no room for its hash tree, other content of a root partition, and a boot
// script without the mark are refused.
func TestVerityRefusals(t *testing.T) {
	file := filepath.Join(t.TempDir(), "part")
	if err := os.WriteFile(file, make([]byte, 4096), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := tried(t, func(o *build.Options) {
		protect(o)
		o.Parts = map[string]string{"rootfs-a": file}
	})
	if err == nil || !strings.Contains(err.Error(), "rootfs-a") || !strings.Contains(err.Error(), "the boot script has the root hash") {
		t.Errorf("other content: %v", err)
	}
	b, err := boards.Get("rock64")
	if err != nil {
		t.Fatal(err)
	}
	_, err = boards.Parse("x.toml", []byte("verity = true\n"+strings.ReplaceAll(string(b.Source), "@VERITY@", "")), os.DirFS("../../boards"))
	if err == nil || !strings.Contains(err.Error(), "verity needs a boot script with @VERITY@") {
		t.Errorf("no mark: %v", err)
	}
	large := filepath.Join(t.TempDir(), "large.squashfs")
	imagetest.Run(t, "sh", "-c", "mkdir $0.d && mksquashfs $0.d $0 -quiet -no-progress && truncate -s 1G $0", large)
	_, err = tried(t, func(o *build.Options) {
		protect(o)
		o.Inputs["rootfs"] = large
	})
	if err == nil || !strings.Contains(err.Error(), "rootfs-a: 1.0 GiB of squashfs do not fit in 1.0 GiB") {
		t.Errorf("no room for the hash tree: %v", err)
	}
}
