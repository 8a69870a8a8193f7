package build_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"imgtool/boards"
	"imgtool/image"
	"imgtool/image/build"
	"imgtool/image/fat"
	"imgtool/image/seed/seedfile"
	"imgtool/image/seed/seedtest"
	"imgtool/image/source"
	"imgtool/image/uboot"
)

var update = flag.Bool("update", false, "write the golden files")

// made builds a Rock64 image from tiny inputs.
func made(t *testing.T, change func(*build.Options)) *build.Image {
	t.Helper()
	r, err := tried(t, change)
	if err != nil {
		t.Fatal(err)
	}
	return &r.Images[0]
}

// tried is like made, and returns the error of the build.
func tried(t *testing.T, change func(*build.Options)) (*build.Result, error) {
	t.Helper()
	dir := t.TempDir()
	inputs := map[string]string{"rootfs": filepath.Join(dir, "root")}
	os.Mkdir(inputs["rootfs"], 0o755)
	b, err := boards.Get("rock64")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range b.Inputs() {
		if name != "rootfs" {
			inputs[name] = filepath.Join(dir, name)
			if err := os.WriteFile(inputs[name], bytes.Repeat([]byte(name), 100), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	// The time of the root directory is in the image.
	if err := os.Chtimes(inputs["rootfs"], time.Time{}, time.Unix(build.DefaultTime, 0)); err != nil {
		t.Fatal(err)
	}
	o := build.Options{Board: b, Inputs: inputs, BuildID: "golden", Time: build.DefaultTime, TempDir: dir,
		Opener: source.NewOpener(source.Options{Arch: "arm64", ModTime: build.DefaultTime})}
	t.Cleanup(func() { o.Opener.Close() })
	if change != nil {
		change(&o)
	}
	r, err := build.Build(t.Context(), o)
	if err == nil {
		t.Cleanup(r.Close)
	}
	return r, err
}

func find(t *testing.T, m *image.Image, name string) image.Extent {
	t.Helper()
	for e := range m.Extents() {
		if e.Name == name {
			return e
		}
	}
	t.Fatalf("no extent %s", name)
	return image.Extent{}
}

func TestBootScriptGolden(t *testing.T) {
	r := made(t, func(o *build.Options) { o.Cmdline = "quiet" })
	e := find(t, r.Image, "boot-a/boot.scr")
	b := make([]byte, e.Size())
	if _, err := e.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	got, err := uboot.ParseScript(b)
	if err != nil {
		t.Fatal(err)
	}
	golden := "testdata/boot.cmd"
	if *update {
		os.MkdirAll("testdata", 0o755)
		os.WriteFile(golden, []byte(got), 0o644)
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the boot script differs from the golden file; run with -update and see git diff")
	}
	// The device relies on these: variables with their defaults, addresses, and arguments
	// in their order.
	for _, fact := range []string{
		"setenv slot_select bootmeth\n", `BOOT_ORDER "A B"`, "BOOT_A_LEFT 3", "BOOT_B_LEFT 3", "setenv devnum 0", "distro_bootpart 1",
		"recovery_button_pin 100", "recovery_hold_secs 5", "recovery_usb_controller 0", "recovery_mmc_dev ${devnum}",
		"ums ${recovery_usb_controller} mmc ${recovery_mmc_dev}",
		"ramdisk_addr_r 0x08000000", "rauc_slot boot.0", "rauc_slot boot.1", "root_disk /dev/mmcblk1p",
		"console=ttyS2,1500000 earlycon=uart8250,mmio32,0xff130000",
		"loglevel=7 rootwait root=fstab rw",
		"atomixos.lowerdev=${root_disk}${distro_rootpart} atomixos.lowerfstype=squashfs init=/sbin/init quiet rauc.slot=${rauc_slot}",
		"${kernel_addr_r} Image;", "${fdt_addr_r} dtbs/rockchip/rk3328-rock64.dtb;", "${ramdisk_addr_r} initrd;",
		"booti ${kernel_addr_r} ${ramdisk_addr_r}:${initrd_size} ${fdt_used}",
	} {
		if !strings.Contains(got, fact) {
			t.Errorf("%q is missing", fact)
		}
	}
	if i := strings.Index(got, "\n"); got[:i] != `echo "Build ID: golden"` {
		t.Errorf("the first line is %q", got[:i])
	}
	if strings.Index(got, "saveenv") > strings.Index(got, "BOOT_ORDER") {
		t.Error("defaults are set before the environment is saved")
	}
}

// Extents cover every byte before the first partition, and the start of a deferred
// partition.
func TestGapIsContent(t *testing.T) {
	r := made(t, nil)
	at := int64(0)
	for s := range r.Image.Spans() {
		if s.Off == 0 {
			at = s.End()
		}
		if s.Off <= 1168<<20 && s.End() >= 1169<<20 {
			at |= 1
		}
	}
	if at>>1<<1 < 16<<20 || at&1 == 0 {
		t.Errorf("content from 0 to %d, and at boot-b: %v", at>>1<<1, at&1 == 1)
	}
}

// Both slots have the same files and different labels.
func TestBothSlots(t *testing.T) {
	r := made(t, func(o *build.Options) { o.Slots = "ab" })
	var texts []string
	for i, off := range []int64{16 << 20, 1168 << 20} {
		v, err := fat.Open(bytes.NewReader(region(t, r.Image, off, 128<<20)))
		if err != nil {
			t.Fatal(err)
		}
		if want := []string{"BOOT-A", "BOOT-B"}[i]; v.Label != want {
			t.Errorf("label %q, want %q", v.Label, want)
		}
		files, err := v.Entries()
		if err != nil {
			t.Fatal(err)
		}
		text := ""
		for _, f := range files {
			if f.Dir {
				continue
			}
			b := make([]byte, f.Size())
			f.ReadAt(b, 0)
			text += f.Path + "\n" + string(b)
		}
		texts = append(texts, text)
	}
	if texts[0] != texts[1] {
		t.Error("the slots' files differ")
	}
	if !bytes.Equal(region(t, r.Image, 144<<20, 4096), region(t, r.Image, 1296<<20, 4096)) {
		t.Error("the slots' roots differ")
	}
}

func region(t *testing.T, m *image.Image, off, size int64) []byte {
	t.Helper()
	b := make([]byte, size)
	if _, err := m.ReadAt(b, off); err != nil {
		t.Fatal(err)
	}
	return b
}

const seed = seedtest.Minimal

// Identifiers depend on all inputs except the seed.
func TestIdentifiers(t *testing.T) {
	plain := func(o *build.Options) { o.BuildID = "" }
	id := func(change func(*build.Options)) string {
		m := made(t, func(o *build.Options) { plain(o); change(o) }).Manifest
		return m.BuildID + " " + m.Partitions[0].GUID
	}
	base := id(func(*build.Options) {})
	if again := id(func(*build.Options) {}); again != base {
		t.Errorf("%s, and then %s", base, again)
	}
	if seeded := id(func(o *build.Options) { o.Seed = &seedfile.Seed{Name: "config.toml", Text: []byte(seed)} }); seeded != base {
		t.Errorf("a seed makes %s of %s", seeded, base)
	}
	for name, change := range map[string]func(*build.Options){
		"another input":        func(o *build.Options) { o.Inputs["initrd"] = o.Inputs["Image"] },
		"another time":         func(o *build.Options) { o.Time++ },
		"another command line": func(o *build.Options) { o.Cmdline = "quiet" },
		"another codec":        func(o *build.Options) { o.Compression = "gzip" },
		"another block size":   func(o *build.Options) { o.BlockSize = 4096 },
		"another root":         func(o *build.Options) { os.WriteFile(filepath.Join(o.Inputs["rootfs"], "x"), nil, 0o644) },
		"another file system":  func(o *build.Options) { o.Slots = "ab" },
	} {
		if got := id(change); got == base {
			t.Errorf("%s changes nothing", name)
		}
	}
}
