package partition_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"imgtool/image/gpt"
	"imgtool/image/imagetest"
	"imgtool/image/partition"
)

const mib = 1 << 20

// blank is a file of zeros.
func blank(t *testing.T, size int64) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, size); err != nil {
		t.Fatal(err)
	}
	return file
}

// loop4096 is a loop device with sectors of 4096 bytes.
func loop4096(t *testing.T, file string) string {
	t.Helper()
	imagetest.NeedRoot(t)
	dev := strings.TrimSpace(imagetest.Run(t, "losetup", "--find", "--show", "--sector-size", "4096", file))
	t.Cleanup(func() { exec.Command(imagetest.Need(t, "losetup"), "--detach", dev).Run() })
	return dev
}

func sfdisk(t *testing.T, disk, script string) {
	t.Helper()
	cmd := exec.Command(imagetest.Need(t, "sfdisk"), "--quiet", disk)
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk: %v: %s", err, out)
	}
}

// moved is a disk with the table of another on a disk of another size.
func moved(t *testing.T, disk []byte, table *gpt.Table, size int64) []byte {
	t.Helper()
	fitted, err := table.Fit(size)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, size)
	copy(b, disk[:len(disk)-int(table.TailLen())])
	copy(b, table.FitMBR(disk[:512], fitted))
	copy(b[table.Sector:], fitted.Header())
	copy(b[fitted.Backup().Off:], fitted.Tail())
	return b
}

func TestEveryFormOfAGPTIsReadAndMoved(t *testing.T) {
	imagetest.Long(t)
	for name, c := range map[string]struct {
		sgdisk  []string
		sector  int64
		entries int
		off     int64
	}{
		"128":         {nil, 512, 128, 1024},
		"4":           {[]string{"-S", "4"}, 512, 4, 1024},
		"56":          {[]string{"-S", "56"}, 512, 56, 1024},
		"248":         {[]string{"-S", "248"}, 512, 248, 1024},
		"256":         {[]string{"-S", "256"}, 512, 256, 1024},
		"at 1 MiB":    {[]string{"-j", "2048"}, 512, 128, 1 << 20},
		"4096":        {nil, 4096, 128, 8192},
		"4096, of 56": {[]string{"-S", "64"}, 4096, 64, 8192},
	} {
		t.Run(name, func(t *testing.T) {
			file := blank(t, 40*mib)
			dev := file
			if c.sector == 4096 {
				dev = loop4096(t, file)
			}
			if len(c.sgdisk) > 0 {
				imagetest.Run(t, "sgdisk", append(c.sgdisk, dev)...)
			}
			imagetest.Run(t, "sgdisk", "-n", "1:2M:+4M", "-c", "1:one", "-n", "3:8M:+8M", "-c", "3:three", "-A", "3:set:2", dev)
			disk := imagetest.Read(t, file)
			table, err := partition.Read(bytes.NewReader(disk), 0)
			if err != nil {
				t.Fatal(err)
			}
			g := table.GPT
			if g == nil || table.Sector != c.sector || g.Entries != c.entries || g.EntriesOff != c.off || g.Size != 40*mib {
				t.Errorf("got %+v", g)
			}
			if got := fmt.Sprintln(len(table.Parts), table.Parts[0].Name, table.Parts[0].Off, table.Parts[1].Number, table.Parts[1].Len, table.Parts[1].Attrs); got != "2 one 2097152 3 8388608 4\n" {
				t.Errorf("partitions: %s", got)
			}
			if backup, err := partition.ReadBackup(bytes.NewReader(disk), 40*mib); err != nil || !backup.GPT.Same(g) {
				t.Errorf("backup: %+v, %v", backup, err)
			}
			tail := bytes.Clone(disk[g.Backup().Off:])
			if !g.IsTail(tail) {
				t.Error("the backup is not seen as one")
			}
			for _, at := range []int{0, len(tail) - int(c.sector), len(tail) - int(c.sector) + 16, len(tail) - int(c.sector) + 90} {
				tail[at] ^= 1
				if g.IsTail(tail) {
					t.Errorf("a backup that is damaged at %d of %d is seen as whole", at, len(tail))
				}
				tail[at] ^= 1
			}
			for _, size := range []int64{40 * mib, 17 * mib, 41*mib + 4096, 100 * mib} {
				b := moved(t, disk, g, size)
				if size == 40*mib && !bytes.Equal(b, disk) {
					t.Error("a table for a disk of the same size differs from that of sgdisk")
				}
				if covered := int64(binary.LittleEndian.Uint32(b[446+12:])); covered != size/c.sector-1 {
					t.Errorf("%d: the protective partition has %d sectors", size, covered)
				}
				file := filepath.Join(t.TempDir(), "moved")
				if err := os.WriteFile(file, b, 0o644); err != nil {
					t.Fatal(err)
				}
				dev := file
				if c.sector == 4096 {
					dev = loop4096(t, file)
				}
				if out := imagetest.Run(t, "sgdisk", "-v", dev); !strings.Contains(out, "No problems found") {
					t.Errorf("%d: sgdisk -v: %s", size, out)
				}
				if out := imagetest.Run(t, "sfdisk", "--verify", dev); !strings.Contains(out, "No errors detected") {
					t.Errorf("%d: sfdisk --verify: %s", size, out)
				}
			}
			if _, err := g.Fit(16*mib + g.TailLen() - c.sector); err == nil {
				t.Error("a disk a sector too small passes")
			}
		})
	}
}

// The table is what the kernel and blkid say it is.
func TestAProtectiveEntryDecides(t *testing.T) {
	file := blank(t, 40*mib)
	imagetest.Run(t, "sgdisk", "-n", "1:2M:+4M", file)
	withGPT := imagetest.Read(t, file)
	sfdisk(t, file, "label: dos\nstart=2048,size=4096,type=83\n")
	plain := imagetest.Read(t, file)
	stale := bytes.Clone(plain)
	copy(stale[512:17408], withGPT[512:17408])
	damaged := bytes.Clone(stale)
	damaged[600] ^= 1
	hybrid := bytes.Clone(withGPT)
	copy(hybrid[446+16:], "\x00\x00\x00\x00\x0C\x00\x00\x00\x00\x10\x00\x00\x00\x20\x00\x00")
	for name, c := range map[string]struct {
		disk []byte
		gpt  bool
	}{
		"an MBR":                   {plain, false},
		"an MBR and an old GPT":    {stale, false},
		"an MBR and a damaged GPT": {damaged, false},
		"a GPT":                    {withGPT, true},
		"a GPT with a hybrid MBR":  {hybrid, true},
	} {
		if err := os.WriteFile(file, c.disk, 0o644); err != nil {
			t.Fatal(err)
		}
		want := map[bool]string{false: "dos", true: "gpt"}[c.gpt]
		if got := strings.TrimSpace(imagetest.Run(t, "blkid", "-p", "-s", "PTTYPE", "-o", "value", file)); got != want {
			t.Errorf("%s: blkid says %q", name, got)
		}
		table, err := partition.Read(bytes.NewReader(c.disk), 0)
		if err != nil || (table.GPT != nil) != c.gpt {
			t.Errorf("%s: %+v, %v", name, table, err)
		}
	}
	none := bytes.Clone(withGPT)
	clear(none[:512])
	if _, err := partition.Read(bytes.NewReader(none), 0); !errors.Is(err, partition.ErrNone) {
		t.Errorf("a GPT without an MBR: %v", err)
	}
	for _, at := range []int{512, 600, 1024} {
		broken := bytes.Clone(withGPT)
		broken[at] ^= 1
		_, err := partition.Read(bytes.NewReader(broken), 0)
		if err == nil || errors.Is(err, partition.ErrNone) || errors.As(err, new(*gpt.UnsupportedError)) {
			t.Errorf("damage at %d: %v", at, err)
		}
	}
}

func TestTheSectorsOfADiskCount(t *testing.T) {
	imagetest.Long(t)
	file := blank(t, 40*mib)
	dev := loop4096(t, file)
	sfdisk(t, dev, "label: dos\nstart=512,size=512,type=83\n")
	disk := imagetest.Read(t, file)
	for sector, want := range map[int64]int64{512: 512 * 512, 4096: 512 * 4096} {
		table, err := partition.Read(bytes.NewReader(disk), sector)
		if err != nil || table.Parts[0].Off != want {
			t.Errorf("sectors of %d bytes: %+v, %v", sector, table, err)
		}
	}
	if table, err := partition.Read(bytes.NewReader(disk), 0); err != nil || table.Sector != 512 {
		t.Errorf("of partitions without file systems: %+v, %v", table, err)
	}
	for _, sector := range []int64{512, 4096} {
		with := bytes.Clone(disk)
		copy(with[512*sector+1080:], "\x53\xef")
		if table, err := partition.Read(bytes.NewReader(with), 0); err != nil || table.Sector != sector {
			t.Errorf("with a file system at sector 512 of %d bytes: %+v, %v", sector, table, err)
		}
	}
	sfdisk(t, dev, "label: gpt\nstart=512,size=512\n")
	disk = imagetest.Read(t, file)
	if table, err := partition.Read(bytes.NewReader(disk), 0); err != nil || table.Sector != 4096 {
		t.Errorf("%+v, %v", table, err)
	}
	if table, err := partition.Read(bytes.NewReader(disk), 512); err == nil {
		t.Errorf("a disk with sectors of 512 bytes has %+v", table)
	}
	// A table of before, for the same disk with smaller sectors.
	other := blank(t, 20*mib)
	imagetest.Run(t, "sgdisk", "-S", "4", other)
	imagetest.Run(t, "sgdisk", "-n", "1:2M:+4M", other)
	copy(disk[512:1536], imagetest.Read(t, other)[512:1536])
	if _, err := gpt.Read(bytes.NewReader(disk), 512); err != nil {
		t.Error(err)
	}
	if table, err := partition.Read(bytes.NewReader(disk), 0); err != nil || table.Sector != 4096 {
		t.Errorf("with an old table of smaller sectors: %+v, %v", table, err)
	}
}
