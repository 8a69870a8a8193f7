package main

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"imgtool/image/imagetest"
)

const mebi = 1 << 20

// table40 is a GPT for a disk of 40 MiB with two partitions.
func table40() *foreignImage {
	return &foreignImage{kind: "gpt", sector: 512, entries: 128, entrySize: 128, array: 2, size: 40 * mebi, length: 40 * mebi,
		parts: [][2]int64{{4 * mebi, 12 * mebi}, {16 * mebi, 20 * mebi}}}
}

// mbr40 is an MBR of two partitions that fill 40 MiB.
func mbr40() *foreignImage {
	f := table40()
	f.kind, f.parts = "mbr", [][2]int64{{4 * mebi, 12 * mebi}, {16 * mebi, 24 * mebi}}
	return f
}

func TestForeignImagesThatAreRefused(t *testing.T) {
	imagetest.Long(t)
	imagetest.NeedRoot(t)
	sample := random(t)
	for name, c := range map[string]struct {
		change func(f *foreignImage)
		mbr    bool
		disk   int64
		by     deliver
		status int
		says   string // "" if nothing is unusual
	}{
		"an old GPT in an MBR image":        {func(f *foreignImage) { f.kind = "stale" }, true, 64 * mebi, deliver{}, 0, ""},
		"an old GPT, damaged":               {func(f *foreignImage) { f.kind, f.flip = "stale", 530 }, true, 64 * mebi, deliver{}, 0, ""},
		"logical partitions":                {func(f *foreignImage) { f.kind = "logical" }, true, 64 * mebi, deliver{}, 0, ""},
		"partitions from sector 1":          {func(f *foreignImage) { f.parts[0][0] = 512 }, true, 64 * mebi, deliver{loop: 512}, 0, ""},
		"102 bytes more":                    {func(f *foreignImage) { f.length += 102; f.trailing = true }, true, 64 * mebi, deliver{loop: 512}, 0, ""},
		"102 bytes more, packed":            {func(f *foreignImage) { f.length += 102; f.trailing = true }, true, 64 * mebi, deliver{loop: 512, packed: true}, 0, ""},
		"102 bytes more, piped":             {func(f *foreignImage) { f.length += 102; f.trailing = true }, true, 64 * mebi, deliver{loop: 512, piped: true}, 0, ""},
		"a byte less":                       {func(f *foreignImage) { f.length-- }, true, 64 * mebi, deliver{loop: 512}, 0, "is written as zeros"},
		"the last partition cut":            {func(f *foreignImage) { f.length = 25000448 }, true, 64 * mebi, deliver{}, 0, "the image ends at byte 25000448, and its partition table has partitions up to byte 41943040 (2)"},
		"the last partition cut, packed":    {func(f *foreignImage) { f.length = 25000449 }, true, 64 * mebi, deliver{packed: true}, 0, "is written as zeros"},
		"the last partition cut, piped":     {func(f *foreignImage) { f.length = 25000449 }, true, 64 * mebi, deliver{piped: true}, 0, "is written as zeros"},
		"the last partition cut, too small": {func(f *foreignImage) { f.length = 25000448 }, true, 39 * mebi, deliver{}, 4, "too small"},
		"no backup":                         {func(f *foreignImage) { f.length -= 33 * 512 }, false, 64 * mebi, deliver{}, 0, "it has no backup partition table, so one is made"},
		"for a larger disk":                 {func(f *foreignImage) { f.size, f.length = 100*mebi, 38*mebi }, false, 64 * mebi, deliver{}, 0, "its partition table is for a disk of 104857600 bytes"},
		"for a larger disk, packed":         {func(f *foreignImage) { f.size, f.length = 100*mebi, 38*mebi }, false, 64 * mebi, deliver{packed: true}, 0, "its partition table is for a disk of 104857600 bytes"},
		"data behind the backup":            {func(f *foreignImage) { f.length += 5*mebi + 7; f.trailing = true }, false, 64 * mebi, deliver{loop: 512}, 0, "they are written as well"},
		"data up to the end of the disk":    {func(f *foreignImage) { f.length += 5 * mebi; f.trailing = true }, false, 45 * mebi, deliver{}, 0, "stays as it is in the image"},
		"the same, packed":                  {func(f *foreignImage) { f.length += 5 * mebi; f.trailing = true }, false, 45 * mebi, deliver{packed: true}, 0, "stays as it is in the image"},
		"data beyond the end of the disk":   {func(f *foreignImage) { f.length += 5 * mebi; f.trailing = true }, false, 44 * mebi, deliver{packed: true}, 4, "too small"},
		"zeros up to the end of the disk":   {func(f *foreignImage) { f.length += 5 * mebi }, false, 45 * mebi, deliver{}, 0, ""},
		"zeros beyond the end of the disk":  {func(f *foreignImage) { f.length += 5 * mebi }, false, 44 * mebi, deliver{}, 0, ""},
		"56 entries, a boot loader behind":  {func(f *foreignImage) { f.entries = 56 }, false, 64 * mebi, deliver{}, 0, ""},
		"4 entries, a partition behind":     {func(f *foreignImage) { f.entries, f.parts[0][0] = 4, 3*512 }, false, 64 * mebi, deliver{loop: 512}, 0, ""},
		"entries of 256 bytes":              {func(f *foreignImage) { f.entrySize = 256 }, false, 64 * mebi, deliver{}, 0, ""},
		"entries at 1 MiB":                  {func(f *foreignImage) { f.array = 2048 }, false, 64 * mebi, deliver{}, 0, ""},
		"entries of 8192 bytes":             {func(f *foreignImage) { f.entrySize = 8192 }, false, 64 * mebi, deliver{}, 3, "of 8192 bytes is not supported"},
		"a damaged header":                  {func(f *foreignImage) { f.flip = 530 }, false, 64 * mebi, deliver{}, 6, "its partition table is damaged: the CRC"},
		"damaged entries":                   {func(f *foreignImage) { f.flip = 1030 }, false, 64 * mebi, deliver{}, 6, "its partition table is damaged: the CRC"},
		"sectors of 4096":                   {func(f *foreignImage) { f.sector = 4096 }, false, 64 * mebi, deliver{loop: 4096}, 0, ""},
		"sectors of 4096, a file":           {func(f *foreignImage) { f.sector = 4096 }, false, 64 * mebi, deliver{}, 0, ""},
		"sectors of 4096 onto 512":          {func(f *foreignImage) { f.sector = 4096 }, false, 64 * mebi, deliver{loop: 512}, 4, "its sectors have 512 bytes and the image is made for 4096"},
		"sectors of 512 onto 4096":          {func(f *foreignImage) {}, false, 64 * mebi, deliver{loop: 4096}, 4, "its sectors have 4096 bytes and the image is made for 512"},
		"a first partition at 70 MiB": {func(f *foreignImage) {
			f.size, f.length, f.parts = 80*mebi, 80*mebi, [][2]int64{{70 * mebi, 2 * mebi}}
			f.gap = true
		}, false, 96 * mebi, deliver{}, 0, ""},
		"larger than the disk when unpacked": {func(f *foreignImage) { f.length = 200 * mebi }, true, 64 * mebi, deliver{packed: true}, 4, "too small: the image needs at least "},
	} {
		if sample.IntN(4) >= soak(1, 4) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			f := table40()
			if c.mbr {
				f = mbr40()
			}
			c.change(f)
			data := f.image(rand.New(rand.NewPCG(1, 1)))
			before, after, status, said := c.by.flashed(t, data, c.disk)
			if status != c.status || !strings.Contains(said, c.says) || c.says == "" && strings.Contains(said, "warning") {
				t.Errorf("exit status %d, not %d with %q: %s", status, c.status, c.says, said)
			}
			if status == 0 {
				f.judge(t, data, after)
				f.judgeTable(t, rand.New(rand.NewPCG(1, 2)), c.disk, after)
			} else if !bytes.Equal(before, after) {
				t.Error("something was written")
			}
			if c.status == 4 && c.by.packed {
				if _, _, status, said := c.by.flashed(t, data, c.disk, "--dry-run"); status != 4 {
					t.Errorf("--dry-run: exit status %d: %s", status, said)
				}
			}
		})
	}
}

// The partitions of a disk and of an image are those that the kernel finds.
func TestAllCommandsReadTheSameTable(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, f *foreignImage) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, f.image(rand.New(rand.NewPCG(3, 3))), 0o644); err != nil {
			t.Fatal(err)
		}
		return file
	}
	stale, logical, wide := mbr40(), mbr40(), table40()
	stale.kind, logical.kind, wide.sector, wide.entries = "stale", "logical", 4096, 56
	for _, c := range []struct {
		file    string
		on, has string
	}{
		{write("stale", stale), "2 partitions: 1 (0x83 12 MiB), 2 (0x83 24 MiB)", "(it has 1, 2)"},
		{write("logical", logical), "3 partitions: 1 (0x0c 12 MiB), 2 (0x05 24 MiB), 5 (0x83 24 MiB)", "(it has 1, 2, 5)"},
		{write("wide", wide), `2 partitions: a (`, "(it has 1 a, 2 b)"},
	} {
		out, err := tool(t, "flash", "--yes", "--dry-run", "--image", c.file, c.file+"-disk").CombinedOutput()
		if err == nil {
			t.Fatalf("a disk that is not there: %s", out)
		}
		if err := os.Link(c.file, c.file+"-disk"); err != nil {
			t.Fatal(err)
		}
		other := write("other", table40())
		if out, err := tool(t, "flash", "--yes", "--dry-run", "--image", other, c.file+"-disk").CombinedOutput(); err != nil || !strings.Contains(strings.ReplaceAll(string(out), ".0 ", " "), c.on) {
			t.Errorf("%s: %v: %s", c.file, err, out)
		}
		if out, err := tool(t, "cat", c.file+":/x").CombinedOutput(); err == nil || !strings.Contains(string(out), c.has) {
			t.Errorf("%s: %v: %s", c.file, err, out)
		}
	}
}

// An image with an MBR that is flashed again is found on the disk.
func TestAnMBRImageIsFoundOnADisk(t *testing.T) {
	dir := t.TempDir()
	file, disk := filepath.Join(dir, "x.img"), filepath.Join(dir, "disk")
	data := mbr40().image(rand.New(rand.NewPCG(4, 4)))
	for i := 4 * mebi; i < len(data); i++ {
		data[i] |= 1 // zeros are looked for on any disk
	}
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(disk, bytes.Repeat([]byte{7}, 64*mebi), 0o644); err != nil {
		t.Fatal(err)
	}
	for i, want := range []bool{false, true} {
		out, err := tool(t, "flash", "--yes", "--image", file, disk).CombinedOutput()
		if err != nil || strings.Contains(string(out), "were there already") != want {
			t.Errorf("time %d: %v: %s", i+1, err, out)
		}
	}
}

// Images of optical discs are not changed, because they may have a checksum of all bytes.
func TestDiscImagesAreNotChanged(t *testing.T) {
	imagetest.Long(t)
	xorriso := imagetest.Need(t, "xorriso")
	dir := t.TempDir()
	tree, esp := filepath.Join(dir, "tree"), filepath.Join(dir, "esp")
	if err := os.Mkdir(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	random := make([]byte, 3*mebi)
	rand.NewChaCha8([32]byte{5}).Read(random)
	for _, name := range []string{filepath.Join(tree, "file"), esp} {
		if err := os.WriteFile(name, random, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, options := range map[string][]string{
		"gpt":         {"-appended_part_as_gpt", "-append_partition", "2", "0xef", esp, "-partition_offset", "16"},
		"overlapping": {"-appended_part_as_gpt", "-append_partition", "2", "0xef", esp},
		"mbr":         {"-append_partition", "2", "0xef", esp, "-iso_mbr_part_type", "0x83", "--mbr-force-bootable"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "x.iso")
			if out, err := exec.Command(xorriso, slices.Concat([]string{"-as", "mkisofs", "-o", file}, options, []string{tree})...).CombinedOutput(); err != nil {
				t.Fatalf("xorriso: %v: %s", err, out)
			}
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range []deliver{{}, {piped: true}, {packed: true}} {
				if _, after, status, said := d.flashed(t, data, 32*mebi); status != 0 || !bytes.Equal(after[:len(data)], data) {
					t.Errorf("%+v: exit status %d, or it differs: %s", d, status, said)
				}
			}
		})
	}
}
