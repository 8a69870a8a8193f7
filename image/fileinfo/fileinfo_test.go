package fileinfo_test

import (
	"testing"

	"imgtool/image/fileinfo"
	"imgtool/image/tree"
)

func TestLong(t *testing.T) {
	for want, n := range map[string]*tree.Inode{
		"drwxr-xr-x       0:0           0 1970-01-01 00:00:00 x":            {Mode: tree.Dir | 0o755},
		"-rwsr-sr-t 1000:1000           0 1970-01-01 00:00:01 x":            {Mode: tree.Regular | 0o7755, UID: 1000, GID: 1000, ModTime: 1},
		"-rwSr-Sr-T       0:0           0 1970-01-01 00:00:00 x":            {Mode: tree.Regular | 0o7644},
		"crw-------       0:0       5,300 1970-01-01 00:00:00 x":            {Mode: tree.CharDev | 0o600, Major: 5, Minor: 300},
		`lrwxrwxrwx       0:0           4 1970-01-01 00:00:00 x -> "a\nb "`: {Mode: tree.Symlink | 0o777, Target: "a\nb "},
	} {
		if got := fileinfo.Long("x", n); got != want {
			t.Errorf("got  %q\nwant %q", got, want)
		}
	}
}

func TestQuote(t *testing.T) {
	for name, want := range map[string]string{
		"plain": "plain", "ü β": "ü β", "": `""`, " x": `" x"`, `"x`: `"\"x"`, "a -> b": `"a -> b"`, "a\nb": `"a\nb"`, "\xff": `"\xff"`, "a\u202eb": `"a\u202eb"`,
	} {
		if got := fileinfo.Quote(name); got != want {
			t.Errorf("%q: got %s, want %s", name, got, want)
		}
	}
}

func TestXattr(t *testing.T) {
	for value, want := range map[string]string{"red": `"red"`, "red\x00": `"red\x00"`, "\x00\xff": "0x00ff", "": `""`} {
		if got := fileinfo.Xattr(tree.Xattr{Name: "user.x", Value: value}); got != want {
			t.Errorf("%q: got %s, want %s", value, got, want)
		}
	}
}
