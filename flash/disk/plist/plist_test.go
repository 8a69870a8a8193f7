package plist_test

import (
	"testing"

	"imgtool/flash/disk/plist"
)

const header = `<?xml version="1.0" encoding="UTF-8"?><plist version="1.0">`

func TestDict(t *testing.T) {
	v, err := plist.Parse([]byte(header + `<dict><key>s</key><string> a` + "\x01" + `b </string><key>b</key><true/><key>n</key><integer>7</integer>
		<key>minus</key><integer>-7</integer><key>huge</key><integer>18446744073709551615</integer>
		<key>one</key><dict><key>s</key><string>x</string></dict><key>many</key><array><dict/><string>no</string><dict/></array></dict></plist>`))
	if err != nil {
		t.Fatal(err)
	}
	d := plist.Dict(v.(map[string]any))
	if d.Text("s") != "ab" || !d.Bool("b") || d.Int("n") != 7 || len(d.Dicts("one")) != 1 || d.Dicts("one")[0].Text("s") != "x" || len(d.Dicts("many")) != 2 {
		t.Errorf("%v", d)
	}
	if d.Int("minus") != 0 || d.Int("huge") != 0 {
		t.Errorf("numbers out of range: %d and %d, want 0", d.Int("minus"), d.Int("huge"))
	}
	// Missing keys and values of another type.
	for _, key := range []string{"", "s", "b", "n"} {
		if key != "s" && d.Text(key) != "" || key != "b" && d.Bool(key) || key != "n" && d.Int(key) != 0 || d.Dicts(key) != nil {
			t.Errorf("%q is not empty", key)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for _, s := range []string{"Could not find disk: disk9", "{a = b;}", header + "<dict>", "bplist00"} {
		if v, err := plist.Parse([]byte(s)); err == nil {
			t.Errorf("%q: %v", s, v)
		}
	}
	if v, err := plist.Parse([]byte(" \n")); v != nil || err != nil {
		t.Errorf("empty input: %v, %v", v, err)
	}
}
