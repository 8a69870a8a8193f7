package fsprobe

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"imgtool/image/imagetest"
)

// Kinds and labels are as blkid finds them, in file systems of the usual tools.
func TestProbeAgreesWithBlkid(t *testing.T) {
	imagetest.Need(t, "blkid")
	for _, c := range []struct {
		size    int64
		command string
		kind    string // blkid has no numbers for FAT
	}{
		{1 << 20, "mkfs.fat -F 12 -n SMALL", "FAT12"},
		{32 << 20, "mkfs.fat -F 16 -n HOLIDAY", "FAT16"},
		{64 << 20, "mkfs.fat -F 32 -n BIG", "FAT32"},
		{64 << 20, "mkfs.fat -F 32", "FAT32"},
		{32 << 20, "mke2fs -q -t ext4 -L root", "ext4"},
		{32 << 20, "mke2fs -q -t ext3 -L old", "ext3"},
		{32 << 20, "mke2fs -q -t ext2 -L older", "ext2"},
		{128 << 20, "mkfs.btrfs -q -L tree", "btrfs"},
		{128 << 20, "mkfs.f2fs -q -l flash", "f2fs"},
		{1 << 20, "mkswap -q -L page", "swap"},
		{32 << 20, "cryptsetup luksFormat --type luks2 -q --label secret --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file /etc/hostname", "LUKS"},
		{1 << 20, "", ""},
	} {
		path := filepath.Join(t.TempDir(), "fs")
		noError(t, os.WriteFile(path, nil, 0o600))
		noError(t, os.Truncate(path, c.size))
		if args := strings.Fields(c.command); len(args) > 0 {
			imagetest.Run(t, args[0], append(args[1:], path)...)
		}
		f, err := os.Open(path)
		noError(t, err)
		defer f.Close()
		got := Probe(f)
		blkid := func(name string) string {
			out, _ := exec.Command("blkid", "-p", "-o", "value", "-s", name, path).Output()
			return strings.TrimSpace(string(out))
		}
		want := blkid("TYPE")
		switch want {
		case "vfat":
			want = "FAT" + strings.TrimPrefix(blkid("VERSION"), "FAT")
		case "crypto_LUKS":
			want = "LUKS"
		}
		if got.Kind != want || got.Kind != c.kind || got.Label != blkid("LABEL") {
			t.Errorf("%s: got %q, blkid says %q %q", c.command, got, want, blkid("LABEL"))
		}
	}
}

// The used space is what mtools and dumpe2fs say.
func TestUsedSpace(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	noError(t, os.WriteFile(file, make([]byte, 5<<20), 0o600))
	for _, kind := range []string{"16", "32"} {
		path := filepath.Join(t.TempDir(), "fs")
		noError(t, os.WriteFile(path, nil, 0o600))
		noError(t, os.Truncate(path, 64<<20))
		imagetest.Run(t, "mkfs.fat", "-F", kind, path)
		f, err := os.Open(path)
		noError(t, err)
		defer f.Close()
		before := Probe(f).Used
		imagetest.Run(t, "mcopy", "-i", path, file, "::x")
		if got := Probe(f).Used - before; got != 5<<20 {
			t.Errorf("FAT%s: a file of 5 MiB takes %d bytes", kind, got)
		}
	}
	dir := filepath.Dir(file)
	path := filepath.Join(t.TempDir(), "fs")
	imagetest.Run(t, "mke2fs", "-q", "-t", "ext4", "-b", "4096", "-d", dir, path, "64M")
	f, err := os.Open(path)
	noError(t, err)
	defer f.Close()
	free := 0
	for line := range strings.Lines(imagetest.Run(t, "dumpe2fs", "-h", path)) {
		if value, ok := strings.CutPrefix(line, "Free blocks:"); ok {
			for _, digit := range strings.TrimSpace(value) {
				free = 10*free + int(digit-'0')
			}
		}
	}
	if want := int64(64<<20/4096-free) * 4096; free == 0 || Probe(f).Used != want {
		t.Errorf("got %d, dumpe2fs says %d", Probe(f).Used, want)
	}
}

// A FAT16 that says it has billions of clusters takes no memory for them.
func TestHugeFAT(t *testing.T) {
	b := make([]byte, 66<<10)
	copy(b[510:], "\x55\xaa")
	le.PutUint16(b[11:], 512)
	le.PutUint16(b[14:], 1)
	le.PutUint16(b[22:], 1)
	le.PutUint32(b[32:], 0xffffffff)
	b[13], b[16] = 1, 1
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	got := Probe(bytes.NewReader(b))
	runtime.ReadMemStats(&after)
	if size := after.TotalAlloc - before.TotalAlloc; got.Kind == "" || got.Used != -1 || size > 1<<20 {
		t.Errorf("%+v took %d bytes", got, size)
	}
}

// Damaged superblocks are harmless.
func FuzzProbe(f *testing.F) {
	for _, k := range kinds {
		b := make([]byte, 66<<10)
		copy(b[k.magicOff:], k.magic)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) { _ = Probe(strings.NewReader(string(b))).String() })
}

func noError(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
