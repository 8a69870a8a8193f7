package layouts_test

import (
	"fmt"
	"strings"
	"testing"

	"imgtool/layouts"
)

// The offsets and sizes of the partitions of AtomixOS, in MiB.
func TestABSquashfs(t *testing.T) {
	for slots, want := range map[string]string{
		"a":  "size 1170 floor 2385 boot-a@16+128 rootfs-a@144+1024 boot-b@1168+128(deferred) rootfs-b@1296+1024(deferred) data@2320+0(deferred)",
		"ab": "size 2322 floor 2385 boot-a@16+128 rootfs-a@144+1024 boot-b@1168+128 rootfs-b@1296+1024 data@2320+0(deferred)",
	} {
		l, err := layouts.Get("ab-squashfs")
		if err != nil {
			t.Fatal(err)
		}
		p, err := l.Place(slots, 0)
		if err != nil {
			t.Fatal(err)
		}
		got := fmt.Sprintf("size %d floor %d", p.Size/layouts.MiB, p.Floor/layouts.MiB)
		for i, part := range p.Parts {
			if part.Number != i+1 {
				t.Errorf("%s is number %d", part.Name, part.Number)
			}
			got += fmt.Sprintf(" %s@%d+%d", part.Name, part.Off/layouts.MiB, part.Len/layouts.MiB)
			if part.Deferred {
				got += "(deferred)"
			}
		}
		if got != want {
			t.Errorf("slots %s:\ngot  %s\nwant %s", slots, got, want)
		}
	}
}

const good = `name = "x"
first-usable = "1MiB"
tail = "1MiB"
[[partition]]
number = 1
name = "one"
type = "esp"
size = "8MiB"
`

func TestInvalidLayouts(t *testing.T) {
	second := func(keys string) string {
		return good + "[[partition]]\nnumber = 2\nname = \"two\"\ntype = \"esp\"\n" + keys
	}
	for _, c := range []struct{ name, text, want string }{
		{"a valid one", good, ""},
		{"an unknown key", strings.Replace(good, "tail", "tial", 1), `x.toml:3: unknown key "tial"; did you mean tail? (known: align, description, disk, first-usable, min-disk, name, partition, sector-size, tail)`},
		{"an unknown key of a partition", good + "colour = 1\n", `x.toml:9: unknown key "partition.colour" (known: content, deferred, directories, format, input, label, min-size, name, number, offset, size, slot, tree, type)`},
		{"a wrong type", strings.Replace(good, "number = 1", `number = "1"`, 1), "x.toml:5: "},
		{"no TOML", "name = \n", "x.toml:1: "},
		{"a size in words", strings.Replace(good, "8MiB", "8 apples", 1), `invalid size "8 apples": write it as`},
		{"a negative size", strings.Replace(good, "8MiB", "-8MiB", 1), "invalid size"},
		{"a size beyond counting", strings.Replace(good, "8MiB", "9223372036854775807GiB", 1), "invalid size"},
		{"an unaligned size", strings.Replace(good, "8MiB", "100", 1), "multiples of 1 MiB"},
		{"an unknown type", strings.Replace(good, "esp", "efi", 1), `unknown type "efi" (known: esp,`},
		{"no partitions", "name = \"x\"\n", "no [[partition]]"},
		{"a number twice", strings.Replace(second(`size = "1MiB"`), "number = 2", "number = 1", 1), "number 1 belongs to one"},
		{"a name twice", strings.Replace(second(`size = "1MiB"`), `"two"`, `"one"`, 1), "another partition has this name"},
		{"an overlap", second("offset = \"8MiB\"\nsize = \"1MiB\""), "two at 8 MiB overlaps the previous partition, which ends at 9 MiB"},
		{"a size left out", second(""), "must be deferred"},
		{"after a deferred one", strings.Replace(second(`size = "1MiB"`), `size = "8MiB"`, "late = true\nsize = \"8MiB\"", 1), "one before it is deferred"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := layouts.Parse("x.toml", []byte(c.text))
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v\nwant %s", err, c.want)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	text, _ := layouts.Source("ab-squashfs")
	f.Add(text)
	f.Fuzz(func(t *testing.T, text []byte) {
		l, err := layouts.Parse("x.toml", text)
		if err != nil {
			return
		}
		p, err := l.Place("a", 0)
		if err != nil {
			t.Fatal(err)
		}
		at := int64(0)
		for _, part := range p.Parts {
			if part.Off < at || !part.Deferred && part.Off+part.Len > p.Size {
				t.Errorf("%s at %d+%d after %d in %d", part.Name, part.Off, part.Len, at, p.Size)
			}
			at = part.Off + part.Len
		}
	})
}

// The partitions of the media of a Photon NX, in sectors, as in NVIDIA's flash XML and as
// the factory's fdisk makes them.
func TestPhotonLayouts(t *testing.T) {
	for name, want := range map[string]string{
		"photon-emmc": "1 APP 40 20971520, 2 kernel 20971560 131072, 3 kernel_b 21102632 131072, 4 kernel-dtb 21233704 896, 5 kernel-dtb_b 21234600 896, " +
			"6 recovery 21235496 129024, 7 recovery-dtb 21364520 1024, 8 kernel-bootctrl 21365544 512, 9 kernel-bootctrl_b 21366056 512, " +
			"10 RECROOTFS 21366568 614400, 11 WAGGLE-RPI 21980968 8388608, 12 UDA 30369576 407728, disk 30777344",
		"photon-agent-emmc": "1 APP 40 20971520, 2 kernel 20971560 131072, 3 kernel_b 21102632 131072, 4 kernel-dtb 21233704 896, 5 kernel-dtb_b 21234600 896, " +
			"6 recovery 21235496 129024, 7 recovery-dtb 21364520 1024, 8 kernel-bootctrl 21365544 512, 9 kernel-bootctrl_b 21366056 512, " +
			"10 RECROOTFS 21366568 614400, 11 UDA 21980968 8796336, disk 30777344",
		"photon-sd":         "1 recovery-root 2048 20971520, 2 scratch 20973568 10141696, disk 31116288",
		"photon-nvme":       "1 nvme-swap 2048 33554432, 2 backup-root 33556480 33554432, 3 system-data 67110912 536870912, 4 plugin-data 603981824 396232704, disk 1000215216",
		"photon-agent-nvme": "1 nvme-swap 2048 33554432, 2 backup-root 33556480 33554432, 3 plugin-data 67110912 933103616, disk 1000215216",
	} {
		l, err := layouts.Get(name)
		if err != nil {
			t.Fatal(err)
		}
		p, err := l.Place("a", 0)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, part := range p.Parts {
			got += fmt.Sprintf("%d %s %d %d, ", part.Number, part.Name, part.Off/512, part.Len/512)
		}
		if got += fmt.Sprintf("disk %d", p.Size/512); got != want {
			t.Errorf("%s:\ngot  %s\nwant %s", name, got, want)
		}
		if _, err := l.Place("a", int64(l.MinDisk)-512); err == nil || !strings.Contains(err.Error(), "too small") {
			t.Errorf("%s on a disk that is too small: %v", name, err)
		}
	}
}

// Keys of layouts that were written for older versions.
func TestFormerKeys(t *testing.T) {
	text := good + "late = true\nformat = \"ext4\"\nfolders = [\"/config\"]\n[[partition]]\nnumber = 2\nname = \"two\"\ntype = \"esp\"\nsize = \"8MiB\"\ndeferred = true\n"
	text = strings.Replace(text, "[[partition]]\nnumber = 1\n", "[[partition]]\nnumber = 3\nname = \"zero\"\ntype = \"esp\"\nsize = \"1MiB\"\n[[partition]]\nnumber = 1\n", 1)
	l, err := layouts.Parse("x.toml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if p := l.Partitions[1]; !p.Deferred || len(p.Directories) != 1 || p.Directories[0] != "/config" || !l.Partitions[2].Deferred {
		t.Errorf("%+v", p)
	}
}
