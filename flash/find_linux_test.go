package flash_test

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"imgtool/flash"
)

var update = flag.Bool("update", false, "write the goldens anew")

// machine puts the recorded machine name into a folder. See testdata/README.md.
func machine(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile("testdata/machines/" + name + ".txt")
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	must := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	folder, open := "/", ""
	place := func(path string) string {
		path = strings.TrimSpace(path)
		if !strings.HasPrefix(path, "/") {
			path = folder + "/" + path
		}
		path = filepath.Join(root, path)
		must(os.MkdirAll(filepath.Dir(path), 0o755))
		return path
	}
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSuffix(line, "\n")
		if text, ok := strings.CutPrefix(line, "\t"); ok {
			f, err := os.OpenFile(open, os.O_APPEND|os.O_WRONLY, 0)
			must(err)
			fmt.Fprintln(f, text)
			must(f.Close())
			continue
		}
		path, target, isLink := strings.Cut(line, " -> ")
		file, content, isFile := strings.Cut(line, " = ")
		switch {
		case line == "" || line[0] == '#':
		case line[0] == '[':
			folder = strings.Trim(line, "[]")
		case isLink:
			if strings.HasPrefix(target, "/") { // else it would lead out of the folder
				target = root + target
			}
			must(os.Symlink(target, place(path)))
		case isFile:
			must(os.WriteFile(place(file), []byte(content+"\n"), 0o644))
		default:
			open = place(strings.TrimSuffix(line, ":"))
			must(os.WriteFile(open, nil, 0o644))
		}
	}
	return root
}

func TestDisksOfRecordedMachines(t *testing.T) {
	files, err := filepath.Glob("testdata/machines/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".txt")
		t.Run(name, func(t *testing.T) {
			disks, err := flash.Disks(machine(t, name))
			if err != nil {
				t.Fatal(err)
			}
			var got strings.Builder
			for _, d := range disks {
				fmt.Fprintf(&got, "%s: %d bytes, sectors of %d, bus %q, vendor %q, model %q, serial %q, removable %v, number %d\n",
					d.Path, d.Size, d.SectorSize, d.Bus, d.Vendor, d.Model, d.Serial, d.Removable, d.Diskseq)
				for _, p := range d.Parts {
					fmt.Fprintf(&got, "\t%s at %d, %d bytes\n", p.Name, p.Off, p.Size)
				}
				verdict := "a target"
				if err := d.Check(flash.Need{SectorSize: 512}); err != nil {
					verdict = err.Error()
				}
				fmt.Fprintf(&got, "\t=> %s\n", verdict)
			}
			golden := strings.TrimSuffix(file, ".txt") + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got.String()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestFindRefusesWhatIsNoDisk(t *testing.T) {
	for _, c := range []struct{ name, machine, path, want string }{
		{"a partition", "laptop", "/dev/sda1", "a partition of /dev/sda: name the whole disk"},
		{"a link to a partition", "laptop", "/dev/disk/by-id/usb-SanDisk_Cruzer_Blade_4C530001-0:0-part1", "a partition of /dev/sda"},
		{"an optical drive", "laptop", "/dev/sr0", "an optical drive"},
		{"compressed memory", "laptop", "/dev/zram0", "compressed memory"},
		{"a loop device without a file", "laptop", "/dev/loop0", "a loop device without a file"},
		{"a logical volume", "luks-lvm", "/dev/mapper/vg-data", "a mapped device"},
		{"an array", "md", "/dev/md127", "an array"},
		{"a partition of an array", "md", "/dev/md127p1", "an array"},
		{"a boot partition of an eMMC", "board", "/dev/mmcblk2boot0", "the disk is /dev/mmcblk2"},
		{"a folder", "laptop", "/dev/disk", "a folder is not a disk"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := flash.Find(machine(t, c.machine), c.path)
			refused, ok := errors.AsType[*flash.RefusedError](err)
			if !ok || refused.Disk != c.path || !strings.Contains(refused.Reason, c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	if _, err := flash.Find("/", "/dev/null"); !strings.Contains(fmt.Sprint(err), "a character device is not a disk") {
		t.Error(err)
	}
	if _, err := flash.Find("/", t.TempDir()+"/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestFindFollowsLinks(t *testing.T) {
	d, err := flash.Find(machine(t, "laptop"), "/dev/disk/by-id/usb-SanDisk_Cruzer_Blade_4C530001-0:0")
	if err != nil {
		t.Fatal(err)
	}
	if d.Path != "/dev/sda" || d.Check(flash.Need{}) != nil {
		t.Errorf("%+v", d)
	}
}

func TestFindTakesARegularFileForADisk(t *testing.T) {
	d, err := flash.Find(machine(t, "reader"), "/images/card.img")
	if err != nil {
		t.Fatal(err)
	}
	want := &flash.Disk{Path: "/images/card.img", Name: "card.img", Size: 13, SectorSize: 512, File: true}
	if diff := cmp.Diff(want, d); diff != "" {
		t.Error(diff)
	}
	d, err = flash.Find(machine(t, "reader"), "/swap file")
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Check(flash.Need{}); !strings.Contains(fmt.Sprint(err), "the file is swap") {
		t.Error(err)
	}
}

func TestThisSystemIsNoTarget(t *testing.T) {
	disks, err := flash.Disks("/")
	if err != nil {
		t.Fatal(err)
	}
	var root string
	for _, d := range disks {
		if d.System {
			root = d.Path
			if d.Check(flash.Need{}) == nil {
				t.Errorf("%s may be written", d.Path)
			}
			if _, err := flash.Open(&d); err == nil {
				t.Fatalf("%s was opened", d.Path)
			}
		}
	}
	if root == "" {
		t.Log("no disk carries /")
	}
}

func TestCheckSaysBothNumbersAndWhatToDo(t *testing.T) {
	disk := flash.Disk{Path: "/dev/sdb", Size: 1 << 30, SectorSize: 512}
	big := disk
	big.SectorSize = 4096
	for _, c := range []struct {
		name string
		disk flash.Disk
		need flash.Need
		want string
	}{
		{"exactly as large as the image", disk, flash.Need{Size: 1 << 30, Floor: 1 << 30, SectorSize: 512}, "<nil>"},
		{"one byte short", disk, flash.Need{Size: 1<<30 + 1}, "/dev/sdb: 1073741824 bytes is too small: the image needs 1073741825 bytes: use a larger disk"},
		{"too small for the image", disk, flash.Need{Size: 3 << 30}, "/dev/sdb: 1024 MiB is too small: the image needs 3072 MiB: use a larger disk"},
		{"too small for the board", disk, flash.Need{Size: 1 << 20, Floor: 2385 << 20, Who: "rock64"}, "/dev/sdb: 1024 MiB is too small: rock64 needs 2385 MiB: use a larger disk"},
		{"large sectors", big, flash.Need{SectorSize: 512}, "/dev/sdb: its sectors have 4096 bytes and the image is made for 512: use a disk with 512-byte sectors"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := fmt.Sprint(c.disk.Check(c.need)); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}
