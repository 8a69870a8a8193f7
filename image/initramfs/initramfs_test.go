package initramfs_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"imgtool/image/imagetest"
	"imgtool/image/initramfs"
)

const wanted = "scripts/init-bottom/overlayroot"

// archive returns an archive with one file, made by cpio.
func archive(t testing.TB, name string) string {
	t.Helper()
	d := t.TempDir()
	path := filepath.Join(d, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	data := append(bytes.Repeat([]byte(name), 1000), make([]byte, 300_000)...) // the zeros are blocks of one byte, repeated
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	os.Symlink("x", filepath.Join(d, "link"))
	return piped(t, "", "sh", "-c", "cd "+d+" && find . | cpio -o -H newc --quiet")
}

func piped(t testing.TB, in string, program string, args ...string) string {
	t.Helper()
	cmd := exec.Command(imagetest.Need(t, program), args...)
	cmd.Stdin = strings.NewReader(in)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", program, err)
	}
	return string(out)
}

func has(data string) (bool, error) {
	return initramfs.Has(strings.NewReader(data), int64(len(data)), wanted)
}

func TestHas(t *testing.T) {
	imagetest.Long(t)
	imagetest.Need(t, "cpio")
	other, script := archive(t, "bin/busybox"), archive(t, wanted)
	pack := map[string]func(string) string{
		"plain":      func(s string) string { return s },
		"gzip":       func(s string) string { return piped(t, s, "gzip", "-c") },
		"zstd":       func(s string) string { return piped(t, s, "zstd", "-qc") },
		"zstd check": func(s string) string { return piped(t, s, "zstd", "-qc", "--no-check", "--ultra", "-22") },
		"xz":         func(s string) string { return piped(t, s, "xz", "-c", "--check=crc32") },
		"xz blocks":  func(s string) string { return piped(t, s, "xz", "-c", "--block-size=4096", "--check=sha256") },
		"lz4":        func(s string) string { return piped(t, s, "lz4", "-qc") },
		"lz4 all":    func(s string) string { return piped(t, s, "lz4", "-qc", "-BX", "-B4", "--content-size") },
		"lz4 legacy": func(s string) string { return piped(t, s, "lz4", "-qlc") },
	}
	packed := func(data string) map[string]string {
		all := map[string]string{}
		for name, p := range pack {
			all[name] = p(data)
		}
		return all
	}
	others, scripts := packed(other), packed(script)
	for a, first := range others {
		for b := range pack {
			for _, zeros := range []string{"", "\x00\x00\x00\x00", strings.Repeat("\x00", 513)} {
				if a == "lz4 legacy" && zeros == "" && b == "gzip" {
					continue // the kernel takes gzip's first bytes for the length of a block
				}
				if ok, err := has(first + zeros + scripts[b]); !ok || err != nil {
					t.Errorf("%s, %d zeros, %s: %v, %v", a, len(zeros), b, ok, err)
				}
				if ok, err := has(first + zeros + others[b] + zeros); ok || err != nil {
					t.Errorf("%s, %d zeros, %s without it: %v, %v", a, len(zeros), b, ok, err)
				}
			}
		}
	}
	joined := other + "\x00\x00\x00\x00" + other + script
	for name, data := range map[string]string{
		"joined in one member":      pack["gzip"](joined),
		"joined in a bzip2 stream":  other + piped(t, joined, "bzip2", "-c"),
		"an archive in two frames":  pack["zstd"](joined[:len(joined)/2]) + pack["zstd"](joined[len(joined)/2:]),
		"an archive in two members": pack["gzip"](joined[:len(joined)/2]) + pack["gzip"](joined[len(joined)/2:]),
		"an archive in two streams": pack["xz"](joined[:len(joined)/2]) + pack["xz"](joined[len(joined)/2:]),
		"three of three":            pack["gzip"](other) + pack["xz"](other) + pack["zstd"](script),
	} {
		if ok, err := has(data); !ok || err != nil {
			t.Errorf("%s: %v, %v", name, ok, err)
		}
	}
}

func TestHasReportsDamage(t *testing.T) {
	imagetest.Need(t, "cpio")
	other := archive(t, "bin/busybox")
	for name, c := range map[string]struct{ data, want string }{
		"text":             {other + "hello, this is text", "which is neither a cpio archive nor a known compression"},
		"packed text":      {piped(t, "hello, this is text", "gzip", "-c"), "which is not a cpio"},
		"a cut cpio":       {other[:len(other)/2], "cut short"},
		"a cut gzip":       {piped(t, other, "gzip", "-c")[:100], "cut short"},
		"a cut zstd":       {piped(t, other, "zstd", "-qc")[:50], "the zstd data at byte 0: cut short"},
		"a cut xz":         {piped(t, other, "xz", "-c")[:100], "the xz data at byte 0: cut short"},
		"a cut lz4":        {piped(t, other, "lz4", "-qc")[:100], "the lz4 data at byte 0: cut short"},
		"a damaged second": {piped(t, other, "gzip", "-c") + "\x1f\x8b\x08garbage that is long enough", ""},
	} {
		if ok, err := has(c.data); ok || err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, %v", name, ok, err)
		}
	}
	if ok, err := initramfs.Has(nil, 0, wanted); ok || err != nil {
		t.Error(ok, err)
	}
}
