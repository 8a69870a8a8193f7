package extlinux_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"imgtool/image/extlinux"
)

const stock = `TIMEOUT 30
DEFAULT primary

MENU TITLE boot options

LABEL primary
      MENU LABEL primary kernel # the first
      LINUX /boot/Image
      INITRD /boot/initrd
      APPEND ${cbootargs} quiet root=/dev/mmcblk0p1 rw rootwait console=ttyTCU0,115200n8 console=tty0

# Another kernel goes here:
#    LABEL backup`

// Without a line end at the end of the file.
func TestChangesKeepOtherBytes(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(*extlinux.Config) error
		want func(string) string
	}{
		{"nothing", func(*extlinux.Config) error { return nil }, func(s string) string { return s }},
		{"the default", func(c *extlinux.Config) error { return c.Set(extlinux.Default, "other") },
			func(s string) string { return strings.Replace(s, "DEFAULT primary", "DEFAULT other", 1) }},
		{"a menu label with a comment", func(c *extlinux.Config) error { return c.SetValue("primary", extlinux.MenuLabel, "one") },
			func(s string) string { return strings.Replace(s, "primary kernel #", "one #", 1) }},
		{"a key that is new to a label", func(c *extlinux.Config) error { return c.SetValue("primary", extlinux.FDT, "/boot/a.dtb") },
			func(s string) string {
				return strings.Replace(s, "      APPEND", "      FDT /boot/a.dtb\n      APPEND", 1)
			}},
		{"a copy", func(c *extlinux.Config) error { return c.Copy("waggle", "") },
			func(s string) string {
				_, own, _ := strings.Cut(s, "LABEL primary\n")
				own, _, _ = strings.Cut(own, "\n\n")
				return s + "\n\nLABEL waggle\n" + strings.Replace(own, " # the first", "", 1) + "\n"
			}},
		{"no label", func(c *extlinux.Config) error { return c.Remove("primary") },
			func(s string) string {
				before, rest, _ := strings.Cut(s, "LABEL primary\n")
				_, after, _ := strings.Cut(rest, "\n\n")
				return before + "\n" + after
			}},
	} {
		t.Run(c.name, func(t *testing.T) {
			conf := extlinux.Parse(stock)
			if err := c.edit(conf); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want(stock), conf.String()); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestCopyReplacesLabel(t *testing.T) {
	conf := extlinux.Parse("LABEL a\n LINUX /a\n APPEND x\nLABEL b\n LINUX /b\n# below\nLABEL c\n")
	for range 2 {
		if err := conf.Copy("b", "a"); err != nil {
			t.Fatal(err)
		}
	}
	if d := cmp.Diff("LABEL a\n LINUX /a\n APPEND x\nLABEL b\n LINUX /a\n APPEND x\n# below\nLABEL c\n", conf.String()); d != "" {
		t.Error(d)
	}
}

func TestErrors(t *testing.T) {
	conf := extlinux.Parse("LABEL a\nLABEL b\nLABEL b\n")
	for _, c := range []struct {
		err  error
		want string
	}{
		{conf.SetValue("x", extlinux.FDT, "/f"), "no label x; the file has a, b, b"},
		{conf.SetValue("b", extlinux.FDT, "/f"), "there are two labels b"},
		{conf.SetValue("a", extlinux.FDT, "/f#"), `label a: FDT: "/f#" cannot be a value`},
		{conf.SetValue("a", extlinux.FDT, ""), "cannot be a value"},
		{conf.Set(extlinux.Default, " a"), "DEFAULT: "},
		{conf.Copy("a", "a"), "label a cannot be a copy of itself"},
		{conf.Copy("a", ""), "label a cannot be a copy of itself"},
		{conf.Copy("b", "a"), "there are two labels b"},
		{conf.Copy("n#", "a"), "cannot be a value"},
		{conf.Remove("x"), "no label x"},
		{extlinux.Parse("").Copy("a", ""), "no label to copy as a"},
		{extlinux.Parse("").Remove("a"), "no label a: the file has no labels"},
	} {
		if c.err == nil || !strings.Contains(c.err.Error(), c.want) {
			t.Errorf("%v\nwant %s", c.err, c.want)
		}
	}
}

func TestArgs(t *testing.T) {
	a := extlinux.ParseArgs("rw root=/dev/a rwx  rw forward=rw console=a console=b quiet quiet=1")
	if err := a.Replace("rw", "ro"); err != nil {
		t.Error(err)
	}
	a, err := a.Set("root", "/dev/b")
	if err != nil {
		t.Error(err)
	}
	if a, err = a.Set("new", "1"); err != nil {
		t.Error(err)
	}
	if got, want := a.Without("quiet").String(), "rw root=/dev/b rwx ro forward=rw console=a console=b new=1"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if _, err := a.Set("console", "c"); err == nil || !strings.Contains(err.Error(), "several tokens console=") {
		t.Error(err)
	}
	if err := a.Replace("splash", "nosplash"); err == nil || !strings.Contains(err.Error(), "no token splash") {
		t.Error(err)
	}
	if err := a.Replace("read-write", "ro"); err != nil {
		t.Error("the new token is there:", err)
	}
}

func TestLint(t *testing.T) {
	size := func(path string) int64 {
		return map[string]int64{"/Image": 30 << 20, "/initrd": 1, "/a.dtb": 1, "/big": 65 << 20}[path] - 1
	}
	head := "TIMEOUT 30\nDEFAULT a\n"
	label := "LABEL a\n MENU LABEL the 'first'\n LINUX /Image\n INITRD /initrd\n FDT /a.dtb\n APPEND ${cbootargs} root=/dev/sda1\n"
	good := head + label
	var many strings.Builder
	for i := range 21 {
		fmt.Fprintf(&many, "LABEL x%02d\n LINUX /Image\n FDT /a.dtb\n APPEND ${cbootargs}\n", i)
	}
	ten, _, _ := strings.Cut(many.String(), "LABEL x10")
	with := func(old, new string) string { return strings.Replace(good, old, new, 1) }
	for _, c := range []struct{ name, text, want string }{
		{"a good file", good, ""},
		{"a file too long", good + "# " + strings.Repeat("x", 4096) + "\n", "! the file has 4230 bytes; CBoot reads at most 4095"},
		{"21 labels", with("DEFAULT a", "DEFAULT x20") + many.String(), "! there are 22 labels; CBoot has room for 20"},
		{"11 labels", good + ten, "there are 11 labels; the menu takes one digit"},
		{"no labels", head, "! the file has no LABEL"},
		{"no DEFAULT", with("DEFAULT a\n", ""), "! DEFAULT is missing; CBoot crashes without it"},
		{"no TIMEOUT", with("TIMEOUT 30\n", ""), "! TIMEOUT is missing; CBoot waits forever for a key"},
		{"a TIMEOUT of less than a second", with("30", "9"), "! line 1: TIMEOUT 9 is less than 10 tenths of a second"},
		{"a TIMEOUT in words", with("30", "soon"), "! line 1: TIMEOUT is soon; it must be a number"},
		{"a DEFAULT of no label", with("DEFAULT a", "DEFAULT b"), "! line 2: DEFAULT is b, and the name of no label begins with that"},
		{"a DEFAULT cut short", strings.ReplaceAll(with("LABEL a", "LABEL abc"), "DEFAULT a", "DEFAULT ab"), "line 2: DEFAULT is ab, which is not a label; CBoot takes abc"},
		{"a DEFAULT of two labels", good + strings.Replace(label, "LABEL a", "LABEL ab", 1), "! line 2: DEFAULT is a, and the names of the labels a, ab begin with that; CBoot takes the last, ab"},
		{"the right one last", head + strings.Replace(label, "LABEL a", "LABEL ab", 1) + label, "line 2: DEFAULT is a, and the names of the labels ab, a begin with that; CBoot takes the last, a"},
		{"a label that begins another", strings.Replace(good, "DEFAULT a", "DEFAULT ab", 1) + strings.Replace(label, "LABEL a", "LABEL ab", 1), "line 3: the name of label a is the beginning of the name of label ab"},
		{"a label twice", good + label, "! line 3: there are 2 labels a"},
		{"a label of no name", good + "LABEL\n LINUX /Image\n FDT /a.dtb\n APPEND ${cbootargs}\n", "! line 9: LABEL has no name"},
		{"a key in lower case", with("LINUX /Image", "linux /Image"), "! line 5: linux is ignored: CBoot knows this key as LINUX only"},
		{"a menu label in lower case", with("MENU LABEL", "menu label"), "! line 4: menu label is ignored: CBoot knows this key as MENU LABEL only"},
		{"a key of others", with(" INITRD", " KERNEL /x\n INITRD"), "line 6: KERNEL is ignored: CBoot does not know it"},
		{"FDTDIR", with("FDT /a.dtb", "FDTDIR /boot"), "! line 7: FDTDIR is not known to CBoot, which takes it for FDT"},
		{"a key before the labels", "LINUX /Image\n" + good, "! line 1: LINUX stands before the first LABEL"},
		{"a key twice", good + " APPEND ${cbootargs}\n", "! line 9: APPEND of label a was set before, in line 8"},
		{"DEFAULT twice", good + "DEFAULT a\n", "! line 9: DEFAULT was set before, in line 2"},
		{"a key with no value", with("FDT /a.dtb", "FDT"), "! line 7: FDT has no value"},
		{"a # in APPEND", with("root=", "x#y root="), `! line 8: CBoot cuts the line at #: "#y root=/dev/sda1" is not read`},
		{"a comment after a value", with("/a.dtb", "/a.dtb # NX"), `line 7: CBoot cuts the line at #: "# NX" is not read`},
		{"quotes", with("root=/dev/sda1", `root="/dev/sda1"`), "line 8: CBoot does not remove quotes"},
		{"no ${cbootargs}", with("${cbootargs} ", ""), "line 8: APPEND has no ${cbootargs}"},
		{"a command line too long", with("root", strings.Repeat("x", 2048)+" root"), "! line 8: APPEND has 2076 bytes; a command line has less than 2048"},
		{"no FDT", with(" FDT /a.dtb\n", ""), "line 3: label a has no FDT"},
		{"no LINUX", with(" LINUX /Image\n", ""), "! line 3: label a has no LINUX"},
		{"no APPEND", with(" APPEND ${cbootargs} root=/dev/sda1\n", ""), "line 3: label a has no APPEND"},
		{"a relative path", with("/Image", "Image"), "! line 5: LINUX Image does not begin with /"},
		{"a long path", with("/Image", "/"+strings.Repeat("x", 116)), "! line 5: LINUX: the path has 128 bytes with /sdmmc_user in front; CBoot has room for 127"},
		{"a file that is not there", with("/a.dtb", "/b.dtb"), "! line 7: FDT /b.dtb does not exist"},
		{"a file too big", with("/initrd", "/big"), "! line 6: INITRD /big has 68157439 bytes; CBoot has room for 67108864"},
		{"a zero byte", good + "\x00", "! the file has a zero byte"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, p := range extlinux.Lint(c.text, size) {
				s := p.String()
				if p.Fatal {
					s = "! " + s
				}
				got = append(got, s)
			}
			found := c.want == "" && len(got) == 0
			for _, s := range got {
				found = found || c.want != "" && strings.HasPrefix(s, c.want)
			}
			if !found {
				t.Errorf("got %s\nwant %s", strings.Join(got, "\n"), c.want)
			}
		})
	}
	if got := extlinux.Lint(good, nil); len(got) != 0 {
		t.Error(got)
	}
}

func FuzzConfig(f *testing.F) {
	f.Add(stock, "primary", "/boot/a.dtb")
	f.Add("LABEL a\nLABELb\r\n fdtdir\nFDT#", "b", "x")
	f.Fuzz(func(t *testing.T, text, label, value string) {
		c := extlinux.Parse(text)
		if c.String() != text {
			t.Fatalf("%q became %q", text, c)
		}
		extlinux.Lint(text, nil)
		if c.SetValue(label, extlinux.FDT, value) == nil {
			got, ok, err := extlinux.Parse(c.String()).Value(label, extlinux.FDT)
			if got != value || !ok || err != nil {
				t.Fatalf("set %q, got %q %v %v in\n%q", value, got, ok, err, c)
			}
		}
		before := c.Labels()
		if c.Copy("zz", label) == nil {
			if got := extlinux.Parse(c.String()).Labels(); len(got) < len(before) || got[len(got)-1] != "zz" && len(got) > len(before) {
				t.Fatalf("%q, then %q in\n%q", before, got, c)
			}
			if err := c.Remove("zz"); err != nil {
				t.Fatal(err)
			}
		}
	})
}
