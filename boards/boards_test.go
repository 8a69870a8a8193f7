package boards_test

import (
	"strings"
	"testing"
	"testing/fstest"

	"imgtool/boards"
)

func TestBuiltInBoardsLoad(t *testing.T) {
	for _, name := range boards.Names() {
		b, err := boards.Get(name)
		if err != nil {
			t.Fatal(err)
		}
		if b.Name != name || b.Description == "" {
			t.Errorf("%s has the name %q and the description %q", name, b.Name, b.Description)
		}
	}
	b, err := boards.Get("rock64")
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(b.Inputs(), " "); got != "idbloader.img u-boot.itb Image initrd rk3328-rock64.dtb rootfs" {
		t.Errorf("inputs %s", got)
	}
	if b.Media[0].Blobs[0].Sector != 64 || b.Media[0].Blobs[1].Sector != 16384 {
		t.Errorf("blobs %+v", b.Media[0].Blobs)
	}
}

const good = `name = "x"
arch = "arm64"
[[medium]]
name = "emmc"
layout = "ab-squashfs"
[[boot]]
path = "Image"
input = "Image"
`

func TestInvalidDefinitions(t *testing.T) {
	change := func(old, new string) string { return strings.Replace(good, old, new, 1) }
	for _, c := range []struct{ name, text, want string }{
		{"a valid one", good, ""},
		{"an unknown key", change("arch", "arhc"), `x.toml:2: unknown key "arhc"; did you mean arch? (known: after-flash, arch, boot, conf, description, live, medium, name, optional, rauc, recovery, script, seed, starter, state, tree, trust, unit, vars, verity)`},
		{"an unknown key of a blob", good + "[[medium.blob]]\nsektor = 1\n", `unknown key "medium.blob.sektor"; did you mean sector? (known: input, kind, sector)`},
		{"no name", change(`"x"`, `""`), `name is ""`},
		{"a control character in the description", change(`name = "x"`, "name = \"x\"\ndescription = \"a\\u001bb\""), `description is "a\x1bb": it must be one line`},
		{"a control character in the text after a flash", change(`name = "x"`, "name = \"x\"\nafter-flash = \"a\\u001bb\""), `after-flash is "a\x1bb": it must have no`},
		{"a path for a name", change(`"x"`, `"../x"`), `name is "../x"`},
		{"an unknown layout", change("ab-squashfs", "ab"), `unknown layout "ab"; did you mean ab-squashfs? (known: ab-squashfs`},
		{"a layout beside it", change(`"ab-squashfs"`, `"l.toml"`), ""},
		{"a bad layout beside it", change(`"ab-squashfs"`, `"bad.toml"`), "bad.toml:1: "},
		{"a missing layout", change(`"ab-squashfs"`, `"none.toml"`), "none.toml"},
		{"a path twice", good + "[[boot]]\npath = \"IMAGE\"\ninput = \"b\"\n", "two files IMAGE"},
		{"a path that leaves", change(`path = "Image"`, `path = "../Image"`), `"../Image" is not a path on a boot partition`},
		{"a path from the root", change(`path = "Image"`, `path = "/Image"`), `"/Image" is not a path on a boot partition`},
		{"a script without text", good + "[script]\npath = \"boot.scr\"\n", "needs both path and text"},
		{"a blob at sector 0", good + "[[medium.blob]]\ninput = \"b\"\nsector = 0\n", "a sector from 1 on"},
		{"a bad USB id", good + "[[recovery.usb]]\nvendor-id = \"0x2207\"\n", "four lower-case hexadecimal digits"},
		{"a bad pattern", good + "[[recovery.usb]]\nvendor-id = \"2207\"\nmodel = \"(\"\n", "missing closing )"},
		{"a command that is not known", good + "[recovery]\nu-boot = \"Image\"\ncommands = [\"usb\"]\n", `unknown U-Boot command "usb" (known: gpio, ums)`},
		{"commands of no U-Boot", good + "[recovery]\nu-boot = \"b\"\ncommands = [\"ums\"]\n", `has u-boot = "b", which is not an input of the board; it has Image, rootfs`},
		{"the root as a file", change(`input = "Image"`, `input = "rootfs"`), "cannot be the input rootfs"},
		{"the root as a blob", good + "[[medium.blob]]\ninput = \"rootfs\"\nsector = 64\n", "cannot be the input rootfs"},
		{"an unknown kind", good + "kind = \"zimage\"\n", `unknown kind "zimage"`},
		{"a default for no input", good + "[starter.inputs]\ndtb = \"x\"\n", `has "dtb", which the board does not use; it uses Image, rootfs`},
	} {
		t.Run(c.name, func(t *testing.T) {
			beside := fstest.MapFS{
				"l.toml":   {Data: []byte("name = \"l\"\ntail = \"1MiB\"\n[[partition]]\nnumber = 1\nname = \"boot-a\"\ntype = \"esp\"\nsize = \"64MiB\"\ncontent = \"boot\"\n")},
				"bad.toml": {Data: []byte("nome = 1\n")},
			}
			_, err := boards.Parse("x.toml", []byte(c.text), beside)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v\nwant %s", err, c.want)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	b, _ := boards.Get("rock64")
	f.Add(b.Source)
	f.Fuzz(func(t *testing.T, text []byte) {
		if b, err := boards.Parse("x.toml", text, fstest.MapFS{}); err == nil {
			b.Inputs()
		}
	})
}
