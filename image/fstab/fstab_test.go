package fstab_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"imgtool/image/fstab"
)

const stock = `# <file system> <mount point>  <type> <options> <dump> <pass>
/dev/root            /                     ext4           defaults                                     0 1
  # indented
LABEL=my\040disk /media/my\040disk vfat
/dev/zram0 none swap sw 0 0

nonsense
`

func TestEntries(t *testing.T) {
	want := []fstab.Entry{
		{"/dev/root", "/", "ext4", "defaults", "0", "1"},
		{"LABEL=my disk", "/media/my disk", "vfat", "defaults", "0", "0"},
		{"/dev/zram0", "none", "swap", "sw", "0", "0"},
	}
	table := fstab.Parse(stock)
	if d := cmp.Diff(want, table.Entries()); d != "" {
		t.Error(d)
	}
	if table.String() != stock {
		t.Errorf("%q", table)
	}
	if got := fstab.Parse("").String(); got != "" {
		t.Errorf("%q", got)
	}
}

func TestPutChangesOneLine(t *testing.T) {
	line := func(n int, to string) string {
		l := strings.Split(stock, "\n")
		l[n] = to
		return strings.Join(l, "\n")
	}
	for _, c := range []struct {
		name    string
		e       fstab.Entry
		comment string
		want    string // or the error
	}{
		{"the device of the root", fstab.Entry{"/dev/mmcblk1p1", "/", "ext4", "defaults", "0", "1"}, "",
			line(1, "/dev/mmcblk1p1            /                     ext4           defaults                                     0 1")},
		{"a mount point with a slash at its end", fstab.Entry{"/dev/root", "//", "ext4", "ro", "0", "1"}, "",
			line(1, "/dev/root            //                     ext4           ro                                     0 1")},
		{"fields that were left out", fstab.Entry{"LABEL=my disk", "/media/my disk", "vfat", "ro", "0", "0"}, "",
			line(3, `LABEL=my\040disk /media/my\040disk vfat ro 0 0`)},
		{"a second swap", fstab.Entry{"/dev/sda1", "swap", "swap", "pri=100", "0", "0"}, "fast",
			stock + "# fast\n/dev/sda1 swap swap pri=100 0 0\n"},
		{"the swap there is", fstab.Entry{"/dev/zram0", "none", "swap", "sw,pri=5", "0", "0"}, "zram",
			line(4, "# zram\n/dev/zram0 none swap sw,pri=5 0 0")},
		{"a blank in a path", fstab.Entry{"/dev/sda1", "/a b", "ext4", "ro", "0", "2"}, "",
			stock + `/dev/sda1 /a\040b ext4 ro 0 2` + "\n"},
		{"an empty field", fstab.Entry{"", "/x", "ext4", "ro", "0", "2"}, "", `"" cannot be a field`},
		{"two lines in a field", fstab.Entry{"/dev/sda1", "/x\n", "ext4", "ro", "0", "2"}, "", `"/x\n" cannot be a field`},
		{"a comment for a device", fstab.Entry{"#1", "/x", "ext4", "ro", "0", "2"}, "", `the device "#1" would be a comment`},
		{"a comment of two lines", fstab.Entry{"/dev/sda1", "/x", "ext4", "ro", "0", "2"}, "a\nb", "has more than one line"},
	} {
		t.Run(c.name, func(t *testing.T) {
			table := fstab.Parse(stock)
			for range 2 { // the second time it is there
				if err := table.Put(c.e, c.comment); err != nil {
					if !strings.Contains(err.Error(), c.want) {
						t.Error(err)
					}
					return
				}
				if d := cmp.Diff(c.want, table.String()); d != "" {
					t.Error(d)
				}
			}
		})
	}
}

func TestRemoveAndLookup(t *testing.T) {
	table := fstab.Parse(stock)
	if e, ok, err := table.Lookup("/media/my disk/", ""); !ok || err != nil || e.Type != "vfat" {
		t.Error(e, ok, err)
	}
	if ok, err := table.Remove("none", "/dev/sda9"); ok || err != nil {
		t.Error(ok, err)
	}
	if ok, err := table.Remove("swap", "/dev/zram0"); !ok || err != nil || strings.Contains(table.String(), "zram0") {
		t.Error(ok, err, table)
	}
	twice := fstab.Parse("a / ext4\nb / ext4\n")
	if _, _, err := twice.Lookup("/", ""); err == nil || err.Error() != "lines 1 and 2 are both for /" {
		t.Error(err)
	}
	if err := twice.Put(fstab.Entry{"c", "/", "ext4", "ro", "0", "1"}, ""); err == nil {
		t.Error("an entry of two for the same mount point was changed")
	}
}

func FuzzPut(f *testing.F) {
	f.Add(stock, "/dev/sda1", "/x", "note")
	f.Add("a  b\t c\n", "#", "none", "")
	f.Fuzz(func(t *testing.T, text, spec, where, comment string) {
		table := fstab.Parse(text)
		table.Entries()
		if got := table.String(); strings.TrimSuffix(got, "\n") != strings.TrimSuffix(text, "\n") {
			t.Fatalf("%q became %q", text, got)
		}
		e := fstab.Entry{Spec: spec, Where: where, Type: "ext4", Options: "ro", Dump: "0", Pass: "2"}
		if table.Put(e, comment) != nil {
			return
		}
		got, ok, err := fstab.Parse(table.String()).Lookup(where, spec)
		if !ok || err != nil || got != e {
			t.Fatalf("put %q, got %q %v %v in\n%s", e, got, ok, err, table)
		}
	})
}
