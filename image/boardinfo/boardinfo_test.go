package boardinfo_test

import (
	"maps"
	"strings"
	"testing"

	"imgtool/image/boardinfo"
)

// photon is per-unit data like the data of a Photon NX.
func photon() *boardinfo.Unit {
	return &boardinfo.Unit{
		Variables: []boardinfo.Variable{
			{Name: "vsn", Pattern: "[A-Z][A-Z0-9-]{0,31}", Expect: "upper-case letters", Example: "W123", Required: true},
			{Name: "node-id", Pattern: "[0-9A-F]{16}", Expect: "16 digits", Example: "000048B02D012345",
				MAC: &boardinfo.MAC{Key: "wan0-mac", Prefix: "48:b0:2d", Format: "0000@MAC@"}},
		},
		Files: []boardinfo.File{
			{Name: "vsn", Path: "/etc/vsn", Text: "@VSN@\n"},
			{Name: "both", Path: "/etc/both", Text: "@VSN@ @NODE_ID@", Mode: "0640"},
			{Name: "key", Path: "/etc/key", Kind: "private-key", Needs: []string{"vsn"}},
		},
		Places: []boardinfo.Place{
			{Partition: "nvme/data", Directory: "/overlay", Files: []string{"vsn"}},
			{Partition: "sd/root", Files: []string{"key"}, Only: "keep-keys"},
		},
	}
}

func TestValues(t *testing.T) {
	for _, c := range []struct {
		name        string
		given, want map[string]string
		warning     string
		err         string
	}{
		{"value", map[string]string{"vsn": "W1", "node-id": "000048B02D012345"}, map[string]string{"vsn": "W1", "node-id": "000048B02D012345"}, "", ""},
		{"derived from an address", map[string]string{"vsn": "W1", "wan0-mac": "48:b0:2d:01:23:45"}, map[string]string{"vsn": "W1", "node-id": "000048B02D012345"}, "", ""},
		{"optional value left out", map[string]string{"vsn": "W1"}, map[string]string{"vsn": "W1"}, "", ""},
		{"foreign address", map[string]string{"vsn": "W1", "wan0-mac": "00:01:02:03:04:05"}, map[string]string{"vsn": "W1", "node-id": "0000000102030405"}, "start with 48:b0:2d", ""},
		{"required value missing", nil, nil, "", `vsn is missing: write it as vsn = "W123"`},
		{"pattern matches a part only", map[string]string{"vsn": "W1 "}, nil, "", `vsn is "W1 "; it must be upper-case letters, such as W123`},
		{"value and address", map[string]string{"vsn": "W1", "node-id": "000048B02D012345", "wan0-mac": "48:b0:2d:01:23:45"}, nil, "", "wan0-mac and node-id both set node-id"},
		{"multicast address", map[string]string{"vsn": "W1", "wan0-mac": "01:b0:2d:01:23:45"}, nil, "", "must be the address of one card"},
	} {
		t.Run(c.name, func(t *testing.T) {
			warning := ""
			got, err := photon().Values(c.given, "x", func(text string) { warning += text })
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("got the error %v, want %s", err, c.err)
				}
				return
			}
			if err != nil || !maps.Equal(got, c.want) {
				t.Errorf("got %v, %v; want %v", got, err, c.want)
			}
			if (warning == "") != (c.warning == "") || !strings.Contains(warning, c.warning) {
				t.Errorf("got the warning %q, want %q", warning, c.warning)
			}
		})
	}
}

func TestFill(t *testing.T) {
	u := photon()
	f, _ := u.File("both")
	// A value is not searched for variables.
	if text, ok := u.Fill(f, map[string]string{"vsn": "@NODE_ID@", "node-id": "N"}); !ok || text != "@NODE_ID@ N" {
		t.Errorf("got %q, %t", text, ok)
	}
	if _, ok := u.Fill(f, map[string]string{"vsn": "W1"}); ok {
		t.Error("a text was filled in without the value of a variable")
	}
}

func TestFilesAndPlaces(t *testing.T) {
	u := photon()
	for name, mode := range map[string]string{"vsn": "-rw-r--r--", "both": "-rw-r-----", "key": "-rw-------"} {
		if f, ok := u.File(name); !ok || f.Perm().String() != mode {
			t.Errorf("%s has the mode %s, want %s", name, f.Perm(), mode)
		}
	}
	f, _ := u.File("vsn")
	if v, ok := u.Holds(f); !ok || v.Name != "vsn" {
		t.Errorf("the file vsn holds %q, %t", v.Name, ok)
	}
	if both, _ := u.File("both"); len(both.Text) == 0 {
		t.Error("no file both")
	} else if v, ok := u.Holds(both); ok {
		t.Errorf("a file with two variables holds %q", v.Name)
	}
	if on := u.On("nvme", nil); len(on) != 1 || on[0].Partition != "data" || on[0].In(f) != "/overlay/etc/vsn" {
		t.Errorf("places on nvme: %+v", on)
	}
	if on := u.On("sd", nil); len(on) != 0 {
		t.Errorf("places on sd without the option: %+v", on)
	}
	if on := u.On("sd", map[string]bool{"keep-keys": true}); len(on) != 1 {
		t.Errorf("places on sd with the option: %+v", on)
	}
}

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		name, want string
		change     func(*boardinfo.Info)
	}{
		{"good", "", func(*boardinfo.Info) {}},
		{"no media", "no media", func(i *boardinfo.Info) { i.Media = nil }},
		{"unknown kind of a medium", "unknown kind", func(i *boardinfo.Info) { i.Media[0].Kind = "floppy" }},
		{"control character in a medium's name", "invalid medium name", func(i *boardinfo.Info) { i.Media[0].Name = "a\x1b" }},
		{"seed path that leaves the partition", "invalid path", func(i *boardinfo.Info) { i.Seed.Path = "../x" }},
		{"unknown seed format", "unknown format", func(i *boardinfo.Info) { i.Seed.Format = "x" }},
		{"blob before the disk", "out of range", func(i *boardinfo.Info) { i.Blobs[0].Sector = -1 }},
		{"unit file with a relative path", "not an absolute path", func(i *boardinfo.Info) { i.Unit.Files[0].Path = "etc/x" }},
		{"unit file with a path that leaves", "not an absolute path", func(i *boardinfo.Info) { i.Unit.Files[0].Path = "/../x" }},
		{"unit file with a wrong mode", "must be octal", func(i *boardinfo.Info) { i.Unit.Files[0].Mode = "0999" }},
		{"unit file twice", "be there once", func(i *boardinfo.Info) { i.Unit.Files[0].Name = "key" }},
		{"place of an unknown file", "not a [[unit.file]]", func(i *boardinfo.Info) { i.Unit.Places[0].Files = []string{"x"} }},
		{"place with a relative directory", "not an absolute path of a directory", func(i *boardinfo.Info) { i.Unit.Places[0].Directory = "x" }},
		{"pattern that is not an expression", "not a regular expression", func(i *boardinfo.Info) { i.Unit.Variables[0].Pattern = "(" }},
		{"pattern that is too long", "it may have", func(i *boardinfo.Info) { i.Unit.Variables[0].Pattern = strings.Repeat("x", 300) }},
		{"key that is a variable twice", "be there once", func(i *boardinfo.Info) { i.Unit.Variables[0].Name = "wan0-mac" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			info := &boardinfo.Info{Arch: "arm64", Media: []boardinfo.Medium{{Name: "nvme", Kind: "nvme"}, {Name: "card"}},
				Seed: &boardinfo.Seed{Number: 1, Partition: "boot-a", Path: "config.toml"}, Blobs: []boardinfo.Blob{{Input: "u-boot.itb", Sector: 64}}, Unit: photon()}
			c.change(info)
			err := info.Check()
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}
