package factory

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"imgtool/image"
	"imgtool/image/boardinfo"
	"imgtool/image/fault"
)

// warnings is a reporter that keeps warnings.
type warnings struct{ strings.Builder }

func (w *warnings) Infof(string, ...any)               {}
func (w *warnings) Warnf(format string, args ...any)   { fmt.Fprintf(w, format+"\n", args...) }
func (w *warnings) Phase(string, int64) image.Progress { return nil }
func (w *warnings) EndPhase()                          {}

// definition is per-unit data of a board that has nothing in common with the built-in ones.
func definition() *boardinfo.Unit {
	return &boardinfo.Unit{
		Variables: []boardinfo.Variable{
			{Name: "serial-number", Pattern: "[0-9]{4}", Expect: "four digits", Example: "0042", Required: true},
			{Name: "site", Pattern: "[a-z]+", Expect: "lower-case letters", Example: "north"},
		},
		Files: []boardinfo.File{
			{Name: "serial", Path: "/etc/serial", Text: "@SERIAL_NUMBER@\n"},
			{Name: "motd", Path: "/etc/motd", Text: "unit @SERIAL_NUMBER@ at @SITE@\n", Mode: "0600"},
			{Name: "key", Path: "/etc/key", Kind: "public-key", Needs: []string{"serial"}, NotWith: []string{"motd"}},
		},
		Places: []boardinfo.Place{
			{Partition: "main/root", Files: []string{"serial", "motd"}},
			{Partition: "data/config", Directory: "/upper", Files: []string{"key", "serial"}},
			{Partition: "data/config", Files: []string{"motd"}, Only: "with-motd"},
		},
	}
}

const publicKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n"

func TestReadUnit(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "unit.toml")
	if err := os.WriteFile(filepath.Join(dir, "key.pub"), []byte(publicKey), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, text, err, warning string }{
		{"complete", "serial-number = \"0042\"\nsite = \"north\"\n[keys]\nkey = \"key.pub\"\n", "", "a unit that has motd does not use key"},
		{"optional variable left out", "serial-number = \"0042\"\n", "", ""},
		{"required variable left out", "site = \"north\"\n", `unit.toml: serial-number is missing: write it as serial-number = "0042"`, ""},
		{"wrong value", "serial-number = \"42\"\n", `unit.toml: serial-number is "42"; it must be four digits`, ""},
		{"unknown variable", "vsn = \"W1\"\n", `unit.toml:1: unknown key "vsn" (known: keys, serial-number, site)`, ""},
		{"unknown key", "serial-number = \"0042\"\n[keys]\nbk = \"key.pub\"\n", `[keys] has "bk", which mine does not know; it knows key`, ""},
		{"value that is not a string", "serial-number = 42\n", "unit.toml:1: ", ""},
		{"missing key file", "serial-number = \"0042\"\n[keys]\nkey = \"none\"\n", "key: ", ""},
		{"key of another kind", "serial-number = \"0042\"\n[keys]\nkey = \"unit.toml\"\n", "has no complete public key", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			var w warnings
			u, err := ReadUnit(file, definition(), "mine", &w)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("got %v, want %s", err, c.err)
				}
				return
			}
			if err != nil || u.Name() != "0042" {
				t.Fatalf("got %q, %v", u.Name(), err)
			}
			if (w.String() == "") != (c.warning == "") || !strings.Contains(w.String(), c.warning) {
				t.Errorf("got the warning %q, want %q", w.String(), c.warning)
			}
		})
	}
	if _, err := ReadUnit(file, nil, "mine", &warnings{}); fault.Kind(err) != fault.Usage {
		t.Errorf("a board without per-unit data: %v", err)
	}
}

func TestUnitFiles(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "unit.toml")
	for name, text := range map[string]string{"key.pub": publicKey, "unit.toml": "serial-number = \"0042\"\nsite = \"north\"\n[keys]\nkey = \"key.pub\"\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	u, err := ReadUnit(file, definition(), "mine", &warnings{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		medium, option, want string
	}{
		{"main", "", `root /etc/serial 644 "0042\n" root /etc/motd 600 "unit 0042 at north\n" `},
		{"data", "", `config /upper/etc/key 600 "` + strings.TrimSpace(publicKey) + `\n" config /upper/etc/serial 644 "0042\n" `},
		{"data", "with-motd", `config /upper/etc/key 600 "` + strings.TrimSpace(publicKey) + `\n" config /upper/etc/serial 644 "0042\n" config /etc/motd 600 "unit 0042 at north\n" `},
		{"other", "", ""},
	} {
		files, names := u.Files(c.medium, map[string]bool{c.option: true})
		got, n := "", 0
		for part, list := range files {
			for _, f := range list {
				got += fmt.Sprintf("%s %s %o %q ", part, f.Path, f.Mode, f.Data)
				n++
			}
		}
		if got != c.want || n != len(names) {
			t.Errorf("%s %s: got %s (%v), want %s", c.medium, c.option, got, names, c.want)
		}
	}
	var none *Unit
	if files, names := none.Files("main", nil); files != nil || names != nil || none.Name() != "" {
		t.Error("no unit has files or a name")
	}
}

func TestStatusIsForOneUnit(t *testing.T) {
	own := map[string]string{"serial-number": "0042", "site": "north"}
	for _, c := range []struct {
		name             string
		values           map[string]string
		is, another, any bool
	}{
		{"no file for the unit", nil, true, false, false},
		{"its values", map[string]string{"serial-number": "0042", "site": "north"}, true, false, true},
		{"the only value that is read", map[string]string{"serial-number": "0042"}, true, false, true},
		{"a value is missing", map[string]string{"serial-number": "0042", "site": ""}, false, false, true},
		{"another unit", map[string]string{"serial-number": "0043", "site": "north"}, false, true, true},
		{"empty disk", map[string]string{"serial-number": "", "site": ""}, false, false, false},
	} {
		s := Status{values: c.values}
		if s.isFor(own) != c.is || s.isForAnother(own) != c.another || s.isForAnother(nil) != c.any {
			t.Errorf("%s: isFor %t, isForAnother %t, hasUnit %t", c.name, s.isFor(own), s.isForAnother(own), s.isForAnother(nil))
		}
	}
}

func TestReceiptHasTheVariablesOfTheBoard(t *testing.T) {
	r := Receipt{Board: "mine", BuildID: "1", Values: map[string]string{"site": "north", "serial-number": "0042"}, Missing: []string{"data"}, variables: definition().Variables}
	b, err := r.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	const want = `"board":"mine","build_id":"1","serial_number":"0042","site":"north","media":[],"media_left_out":["data"],"seconds":0,"status":0}`
	if !strings.HasPrefix(string(b), `{"time":"`) || !strings.HasSuffix(string(b), want) {
		t.Errorf("got %s, want %s", b, want)
	}
}
