package inspect_test

import (
	"bytes"
	"strings"
	"testing"

	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/boardinfo"
	"imgtool/image/ext4"
	"imgtool/image/fat"
	"imgtool/image/gpt"
	"imgtool/image/inspect"
	"imgtool/image/tree"
	"imgtool/image/volume"
)

const mib = 1 << 20

// newImage returns the bytes of an image with a FAT, an ext4 and a boot loader, and its
// manifest. No definition describes the board.
func newImage(t *testing.T) ([]byte, *artifact.Manifest) {
	t.Helper()
	boot, err := fat.New(4*mib, fat.Options{Label: "BOOT", Serial: 0x12345678, Time: 1_700_000_000}, []fat.File{{Path: "Image", Content: strings.NewReader("kernel")}})
	if err != nil {
		t.Fatal(err)
	}
	files := tree.New(1)
	for path, text := range map[string]string{"etc/vsn": "W123\n", "boot/extlinux/extlinux.conf": "\tLABEL primary\n"} {
		if err := files.Put(path, &tree.Inode{Mode: tree.Regular | 0o644, Content: strings.NewReader(text)}); err != nil {
			t.Fatal(err)
		}
	}
	root, err := ext4.New(files, ext4.Options{Size: 8 * mib, Label: "root"})
	if err != nil {
		t.Fatal(err)
	}
	table := gpt.Table{GUID: "11111111-1111-1111-1111-111111111111", Size: 14 * mib, FirstUsable: gpt.HeadSize, Parts: []gpt.Part{
		{Number: 1, Name: "boot", Type: "0FC63DAF-8483-4772-8E79-3D69D8477DE4", GUID: "22222222-2222-2222-2222-222222222222", Off: mib, Len: 4 * mib},
		{Number: 2, Name: "root", Type: "0FC63DAF-8483-4772-8E79-3D69D8477DE4", GUID: "22222222-2222-2222-2222-222222222223", Off: 5 * mib, Len: 8 * mib}}}
	extents, err := table.Extents()
	if err != nil {
		t.Fatal(err)
	}
	img, err := image.New(table.Size, append(extents, image.Extent{Name: "loader", Off: 64 * 512, Content: strings.NewReader("RK33 boot loader")},
		image.Extent{Name: "boot", Off: mib, Content: boot}, image.Extent{Name: "root", Off: 5 * mib, Content: root})...)
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, img.Size())
	if _, err := img.ReadAt(data, 0); err != nil {
		t.Fatal(err)
	}
	return data, &artifact.Manifest{Board: "mine", Medium: "disk", BuildID: "0123", Floor: 16 * mib,
		Partitions: []artifact.Partition{{Number: 3, Name: "data", Type: "linux", Off: 13 * mib, Late: true}},
		Info: &boardinfo.Info{Arch: "arm64", Media: []boardinfo.Medium{{Name: "disk"}},
			Blobs: []boardinfo.Blob{{Input: "loader", Sector: 64}},
			Unit:  &boardinfo.Unit{Files: []boardinfo.File{{Name: "vsn", Path: "/etc/vsn", Text: "@VSN@"}}}}}
}

func report(t *testing.T, data []byte, m *artifact.Manifest) *inspect.Report {
	t.Helper()
	img, err := image.New(int64(len(data)), image.Extent{Name: "image", Content: bytes.NewReader(data)})
	if err != nil {
		t.Fatal(err)
	}
	r, err := inspect.Source(volume.FromImage("x.img", img, m))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestSource(t *testing.T) {
	data, m := newImage(t)
	r := report(t, data, m)
	if r.Faults() != 0 {
		t.Errorf("%v", r.Checks)
	}
	text := r.Text()
	for _, want := range []string{
		"x.img: raw, 14.0 MiB (14680064 bytes)\n",
		"mine disk build 0123, for disks from 16.0 MiB\n",
		"FAT16 BOOT, 1 files",
		"ext4 root, ",
		"made by the device on its first boot",
		"loader at sector 64\n",
		"boot: FAT16 \"BOOT\", serial 1234-5678\n           6  Image\n",
		"root: /boot/extlinux/extlinux.conf\n  |         LABEL primary\n",
		"ok    boot loaders of mine\n",
		"warn  root: data of one unit: files of one unit (/etc/vsn)\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
}

func TestDamage(t *testing.T) {
	for _, c := range []struct {
		name string
		off  int
		n    int
		want string
	}{
		{"primary table", 512, 8, "FAULT partition table at the start: "},
		{"backup table", 14*mib - 512, 8, "FAULT partition table at the end: "},
		{"ext4", 5*mib + 1024 + 0x4, 32, "FAULT root: ext4: "},
	} {
		data, m := newImage(t)
		copy(data[c.off:], bytes.Repeat([]byte{0xff}, c.n))
		r := report(t, data, m)
		if text := r.Text(); r.Faults() != 1 || !strings.Contains(text, c.want) {
			t.Errorf("%s: %d faults, want 1, %q:\n%s", c.name, r.Faults(), c.want, text)
		}
	}
	data, m := newImage(t)
	m.Info.Blobs[0].Kind = "rockchip-idb"
	if text := report(t, data, m).Text(); !strings.Contains(text, "FAULT boot loaders of mine: loader is not at sector 64") {
		t.Error(text)
	}
}
