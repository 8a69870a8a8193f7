package seed_test

import (
	"bufio"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"imgtool/image/seed"
)

// testdata/changes.jsonl records the results of AtomixOS's own program. Change returns the same
// documents, byte for byte, and refuses the same changes.
func TestChangeAgreesWithDevice(t *testing.T) {
	f, err := os.Open("testdata/changes.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	taken, refused := 0, 0
	s := bufio.NewScanner(f)
	for s.Buffer(nil, 1<<20); s.Scan(); {
		var v struct {
			ID, Config  string
			Place       []string
			Value, Text *string
		}
		if err := json.Unmarshal(s.Bytes(), &v); err != nil {
			t.Fatal(err)
		}
		t.Run(v.ID, func(t *testing.T) {
			var value []byte
			if v.Value != nil {
				value = []byte(*v.Value)
			}
			got, err := seed.Change([]byte(v.Config), v.Place, value)
			switch {
			case v.Text == nil && err == nil:
				t.Errorf("%s %s is taken", strings.Join(v.Place, "."), value)
			case v.Text != nil && err != nil:
				t.Errorf("%s %s: %v", strings.Join(v.Place, "."), value, err)
			case v.Text != nil:
				if diff := cmp.Diff(*v.Text, string(got)); diff != "" {
					t.Error(diff)
				}
			}
		})
		if v.Text == nil {
			refused++
		} else {
			taken++
		}
	}
	if taken < 30 || refused < 20 {
		t.Errorf("%d are taken, %d refused", taken, refused)
	}
}

// Characters that AtomixOS itself writes as invalid TOML.
func TestChangeKeepsCharacters(t *testing.T) {
	for value, want := range map[string]string{
		`"\ud83d\ude00"`: `"\U0001f600"`, `"😀"`: `"\U0001f600"`, `"\\ud83d"`: `"\\ud83d"`, `"é\u007f\u0001"`: `"\u00e9\u007f\u0001"`, `"\ufffd"`: `"\ufffd"`,
	} {
		change := `{"privileged": true, "Container": {"Image": "x", "Exec": ` + value + `}}`
		text, err := seed.Change([]byte(minimal), []string{"containers", "container", "more"}, []byte(change))
		if err != nil || !strings.Contains(string(text), "\nExec = "+want+"\n") {
			t.Errorf("%s: %v\n%s", value, err, text)
		}
		if c, faults := seed.Check(text); c == nil && !strings.Contains(value, `u0001`) {
			t.Errorf("%s: %v", value, faults)
		}
	}
}

func TestChangeErrors(t *testing.T) {
	const secret = "hunter2"
	web := []string{"containers", "container", "web"}
	for change, want := range map[string]string{
		`{"privileged": true, "Container": {"Image": "` + secret + `", "Exec": null}}`: "containers.container.web.Container.Exec: is null; it must be a string, an integer, a boolean or a list of these",
		`{"privileged": true, "Container": {"Image": ["` + secret + `", 1.5]}}`:        "containers.container.web.Container.Image: is a float; it must be a string, an integer, a boolean or a list of these",
		`{"privileged": true, "Container": {}, "Service": "` + secret + `"}`:           "containers.container.web.Service is unknown; the keys here are privileged, Container, Unit, Install",
		`{"Container": {"Image": "` + secret + `"}}`:                                   "containers.container.web.privileged is missing",
		`"` + secret + `"`:               "the change must be a JSON object",
		`{"privileged": ` + secret + `}`: "the change is not JSON (at byte 15)",
		`{"privileged": true} ` + secret: "the change is not JSON (at byte 21)",
		`{"privileged": true, "Container": {"Image": "` + secret + `\ud83d\\ude00"}}`: "the change contains half of a surrogate pair, which is not a character",
		`{"a": "` + secret + "\xff" + `"}`:                                            "the change is not UTF-8",
		strings.Repeat(`{"a":`, 200) + `"` + secret + `"` + strings.Repeat("}", 200):  "the change is not JSON (at byte 324)",
	} {
		if _, err := seed.Change([]byte(minimal), web, []byte(change)); err == nil || err.Error() != want {
			t.Errorf("%s:\n%v, want\n%s", change, err, want)
		}
	}
	for _, place := range [][]string{nil, {"users"}, {"network", "x"}, {"version"}, {"containers", "build", "b"}, {"activation"}, {"containers", "container"}} {
		if _, err := seed.Change([]byte(minimal), place, []byte("{}")); err == nil {
			t.Errorf("%q can be changed", place)
		}
	}
	if _, err := seed.Change([]byte(minimal), []string{"network"}, nil); err == nil {
		t.Error("the network can be deleted")
	}
}

// The result of Change is a document that is read back with the same values, and values that it
// does not change are kept.
func FuzzChange(f *testing.F) {
	for _, v := range vectors(f)[:40] {
		f.Add(v.TOML, `{"privileged": true, "Container": {"Image": "x", "Exec": "\ud83d\ude00"}}`)
		f.Add(v.TOML, `{"Container": {}}`)
	}
	f.Fuzz(func(t *testing.T, doc, value string) {
		place := []string{"containers", "container", "fuzzed"}
		text, err := seed.Change([]byte(doc), place, []byte(value))
		if err != nil {
			return
		}
		again, err := seed.Canonical(text)
		if err != nil || string(again) != string(text) {
			t.Fatalf("%v\n%s, and read again\n%s", err, text, again)
		}
		before, _ := seed.Canonical([]byte(doc))
		c, _ := seed.Check([]byte(doc))
		if c == nil || strings.Contains(doc, "fuzzed") {
			return
		}
		without, err := seed.Change(text, place, nil)
		if err != nil || string(without) != string(before) {
			t.Fatalf("%v\n%s, and without it\n%s", err, before, without)
		}
	})
}
