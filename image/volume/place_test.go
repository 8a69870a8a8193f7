package volume_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"imgtool/image/fault"
	"imgtool/image/volume"
)

func unixTime(s int64) time.Time { return time.Unix(s, 0) }

func TestParsePlace(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, name := range []string{"x.img", "a:b", "a"} {
		if err := os.WriteFile(name, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for arg, want := range map[string]volume.Place{
		"x.img":          {File: "x.img"},
		"x.img:":         {File: "x.img", Inside: true},
		"x.img:root":     {File: "x.img", Inside: true, Part: "root"},
		"x.img:root/":    {File: "x.img", Inside: true, Part: "root", Deep: true},
		"x.img:1/etc/x":  {File: "x.img", Inside: true, Part: "1", Deep: true, Path: "etc/x"},
		"x.img:/a:b":     {File: "x.img", Inside: true, Deep: true, Path: "a:b"},
		"a:b":            {File: "a:b"},
		"a:b:root":       {File: "a:b", Inside: true, Part: "root"},
		"a:c":            {File: "a", Inside: true, Part: "c"},
		"none.img:root":  {File: "none.img", Inside: true, Part: "root"},
		"-:boot-a/uEnv":  {File: "-", Inside: true, Part: "boot-a", Deep: true, Path: "uEnv"},
		"none.img:a:b/c": {File: "none.img", Inside: true, Part: "a:b", Deep: true, Path: "c"},
	} {
		if got := volume.ParsePlace(arg); got != want {
			t.Errorf("%s: got %+v, want %+v", arg, got, want)
		}
	}
}

func TestPlaceErrors(t *testing.T) {
	dir := t.TempDir()
	path := saveImage(t, dir, "x.img", 'a')
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte(strings.Repeat("text ", 1000)), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ arg, kind, want string }{
		{path, fault.Usage, "name a partition, as in " + path + ":root (it has 1 root)"},
		{path + ":none", "", `has no partition "none" (it has 1 root)`},
		{path + ":root", "", path + ":root has no known file system (squashfs, erofs, ext4, FAT)"},
		{text, fault.Corrupt, "it is neither a disk image nor a known file system"},
		{text + ":root", fault.Corrupt, "it starts with no partition table"},
	} {
		l, err := volume.ParsePlace(c.arg).Open(t.Context(), volume.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.FileSystem(); err == nil || !strings.Contains(err.Error(), c.want) || fault.Kind(err) != c.kind {
			t.Errorf("%s: got %v of kind %q, want %q of kind %q", c.arg, err, fault.Kind(err), c.want, c.kind)
		}
		l.Source.Close()
	}
}
