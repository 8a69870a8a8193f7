package catalog_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"imgtool/image/catalog"
	"imgtool/image/volume"
)

// A rule says what a field must be for a program to show the entry, or returns an error.
type rule func(v any) error

func text(v any) error {
	if _, ok := v.(string); !ok {
		return fmt.Errorf("%v is no string", v)
	}
	return nil
}

func size(v any) error {
	if n, ok := v.(float64); !ok || n != math.Trunc(n) || n < 0 {
		return fmt.Errorf("%v is no size", v)
	}
	return nil
}

func sha256(v any) error {
	s, _ := v.(string)
	if b, err := hex.DecodeString(s); err != nil || len(b) != 32 || s != strings.ToLower(s) {
		return fmt.Errorf("%v is no SHA-256", v)
	}
	return nil
}

func absolute(v any) error {
	s, _ := v.(string)
	if u, err := url.Parse(s); err != nil || !u.IsAbs() {
		return fmt.Errorf("%v is not an absolute URL", v)
	}
	return nil
}

func day(v any) error {
	s, _ := v.(string)
	_, err := time.Parse(time.DateOnly, s)
	return err
}

func texts(v any) error {
	list, ok := v.([]any)
	if !ok || slices.ContainsFunc(list, func(v any) bool { return text(v) != nil }) {
		return fmt.Errorf("%v is not a list of strings", v)
	}
	return nil
}

func oneOf(values ...any) rule {
	return func(v any) error {
		if !slices.Contains(values, v) {
			return fmt.Errorf("%v is not in %v", v, values)
		}
		return nil
	}
}

// program is what a program accepts.
type program struct {
	entry, device map[string]rule // required
	maybe         map[string]rule // of an entry, where present
	top, imager   []string        // all fields that may be there; nil: any
}

var programs = map[string]program{
	// The schema of its os_list, version 4 (draft 7).
	"rpi-imager": {
		entry: map[string]rule{"name": text, "description": text, "icon": text, "url": text, "extract_size": size,
			"extract_sha256": text, "image_download_size": size, "release_date": text, "devices": texts},
		maybe: map[string]rule{"init_format": oneOf("", "systemd", "cloudinit", "cloudinit-rpi", "rpi-preseed", "none"),
			"website": text, "architecture": text, "bmap_url": text},
		device: map[string]rule{"name": text, "description": text, "tags": texts, "matching_type": oneOf("exclusive", "inclusive")},
		top:    []string{"imager", "os_list"},
		imager: []string{"latest_version", "url", "default_os", "embedded_default_os", "embedded_default_destination",
			"devices", "refresh_interval_minutes", "refresh_jitter_minutes"},
	},
	// The structs that it parses. It leaves out an entry that does not fit, without a message.
	"bb-imager": {
		entry: map[string]rule{"name": text, "description": text, "icon": absolute, "url": absolute, "image_download_sha256": sha256,
			"extract_size": size, "release_date": day, "devices": texts},
		maybe: map[string]rule{"image_download_size": size, "init_format": oneOf("none", "sysconf", "armbian", "cloudinit"),
			"bmap": absolute, "info_text": text, "support": absolute},
		device: map[string]rule{"name": text, "description": text, "tags": texts,
			"flasher": oneOf("SdCard", "SdCardBootfs", "BeagleConnectFreedom", "Msp430Usb", "Pb2Mspm0", "Mspm0")},
	},
}

// faults returns what a program does not accept in a document.
func (p program) faults(doc map[string]any) (all []string) {
	check := func(where string, v any, required, maybe map[string]rule) {
		fields, _ := v.(map[string]any)
		for _, name := range slices.Sorted(maps.Keys(required)) {
			if err := required[name](fields[name]); err != nil {
				all = append(all, fmt.Sprintf("%s.%s: %v", where, name, err))
			}
		}
		for name, r := range maybe {
			if v, ok := fields[name]; ok && r(v) != nil {
				all = append(all, fmt.Sprintf("%s.%s: %v", where, name, r(v)))
			}
		}
	}
	known := func(where string, fields map[string]any, names []string) {
		for name := range fields {
			if names != nil && !slices.Contains(names, name) {
				all = append(all, fmt.Sprintf("%s has an unknown field %s", where, name))
			}
		}
	}
	imager, _ := doc["imager"].(map[string]any)
	known("the document", doc, p.top)
	known("imager", imager, p.imager)
	entries, _ := doc["os_list"].([]any)
	devices, _ := imager["devices"].([]any)
	if len(entries) == 0 || len(devices) == 0 {
		all = append(all, "no images or no devices")
	}
	for _, e := range entries {
		check("os_list", e, p.entry, p.maybe)
	}
	for _, d := range devices {
		check("devices", d, p.device, nil)
	}
	return all
}

func rawImage(t *testing.T, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func decode(t *testing.T, text []byte) map[string]any {
	t.Helper()
	var doc map[string]any
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	return doc
}

func request(images ...string) catalog.Request {
	return catalog.Request{Images: images, URL: "https://example.com/images", Devices: []string{"one", "two"}, Date: "2026-01-31"}
}

// Both programs show every entry and every device, and would not if a field was missing.
func TestBothProgramsAcceptTheCatalog(t *testing.T) {
	a, b := rawImage(t, "a.img", bytes.Repeat([]byte("x"), 3<<20)), rawImage(t, "b.img", make([]byte, 1<<20))
	r := request(a, b)
	r.Website, r.Icon = "https://example.com/about", "icon.png"
	made, err := catalog.Make(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	again, err := catalog.Make(t.Context(), r)
	if err != nil || !bytes.Equal(made.Encode(), again.Encode()) {
		t.Errorf("the same images gave another catalog: %v", err)
	}
	for name, p := range programs {
		if faults := p.faults(decode(t, made.Encode())); len(faults) > 0 {
			t.Errorf("%s: %q", name, faults)
		}
		for field := range p.entry {
			doc := decode(t, made.Encode())
			delete(doc["os_list"].([]any)[1].(map[string]any), field)
			if len(p.faults(doc)) == 0 {
				t.Errorf("%s: nothing was found without %s", name, field)
			}
		}
	}
	if n := len(made.Imager.Devices); n != 2 {
		t.Errorf("%d devices, not the two of both images", n)
	}
	// Every tag of an entry belongs to a device.
	for _, e := range made.Images {
		for _, tag := range e.Devices {
			if !slices.ContainsFunc(made.Imager.Devices, func(d catalog.Device) bool { return slices.Contains(d.Tags, tag) }) {
				t.Errorf("%s is for %s, which is no device", e.Name, tag)
			}
		}
	}
}

// Without an icon of the user, the entry still has what bb-imager takes for a URL.
func TestEntryWithoutIcon(t *testing.T) {
	made, err := catalog.Make(t.Context(), request(rawImage(t, "a.img", make([]byte, 1<<20))))
	if err != nil {
		t.Fatal(err)
	}
	for name, p := range programs {
		if faults := p.faults(decode(t, made.Encode())); len(faults) > 0 {
			t.Errorf("%s: %q", name, faults)
		}
	}
}

func TestWrongRequests(t *testing.T) {
	img := rawImage(t, "a.img", make([]byte, 1<<20))
	for want, change := range map[string]func(*catalog.Request){
		`--url "": it must begin with`:                   func(r *catalog.Request) { r.URL = "" },
		`--url "ftp://example.com": it must begin with`:  func(r *catalog.Request) { r.URL = "ftp://example.com" },
		`--url "https://a b/": invalid character " "`:    func(r *catalog.Request) { r.URL = "https://a b/" },
		`--icon "ftp://x/y.png": it must begin with`:     func(r *catalog.Request) { r.Icon = "ftp://x/y.png" },
		`--website "file:///x": it must begin with`:      func(r *catalog.Request) { r.Website = "file:///x" },
		`--date "2026-02-30": it must be a date`:         func(r *catalog.Request) { r.Date = "2026-02-30" },
		`--name is "a\x1b[31m": it must be one line`:     func(r *catalog.Request) { r.Name = "a\x1b[31m" },
		`--description is "a\nb": it must be one line`:   func(r *catalog.Request) { r.Description = "a\nb" },
		`--device is "a\u202eb": it must be one line`:    func(r *catalog.Request) { r.Devices = []string{"a\u202eb"} },
		`--device is empty`:                              func(r *catalog.Request) { r.Devices = []string{"a", ""} },
		`it has no manifest, so its board is not known`:  func(r *catalog.Request) { r.Devices = nil },
		`so its release date is not known: give it with`: func(r *catalog.Request) { r.Date = "" },
		`a catalog lists files that can be downloaded`:   func(r *catalog.Request) { r.Images = []string{"-"} },
	} {
		r := request(img)
		change(&r)
		if _, err := catalog.Make(t.Context(), r); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// Making a catalog of a large image can be stopped.
func TestMakeStops(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := catalog.Make(ctx, request(rawImage(t, "a.img", make([]byte, 1<<20)))); err == nil {
		t.Error("no error")
	}
	s, err := volume.Open(rawImage(t, "b.img", make([]byte, 1<<20)), volume.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, _, err := s.Sum(ctx); err == nil {
		t.Error("no error of Sum")
	}
}

// A file is replaced only if it is a catalog.
func TestCheckOutput(t *testing.T) {
	made, err := catalog.Make(t.Context(), request(rawImage(t, "a.img", make([]byte, 1<<20))))
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		string(made.Encode()):   `^$`,
		`{"os_list": []}`:       `^$`,
		`{"imgtool": 1}`:        `exists, and is no catalog`,
		"not JSON":              `exists, and is no catalog`,
		`{"os_list": "a text"}`: `exists, and is no catalog`,
	} {
		err := catalog.CheckOutput(rawImage(t, "x.json", []byte(text)))
		if got := fmt.Sprint(err); err == nil && want != "^$" || err != nil && !regexp.MustCompile(want).MatchString(got) {
			t.Errorf("%.20q: got %v, want %s", text, err, want)
		}
	}
	if err := catalog.CheckOutput(filepath.Join(t.TempDir(), "x.img.xz")); err == nil {
		t.Error("a catalog is written over an image")
	}
}
