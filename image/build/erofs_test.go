package build_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"imgtool/boards"
	"imgtool/image/build"
	"imgtool/image/edit"
	"imgtool/image/erofs"
	"imgtool/image/imagetest"
	"imgtool/image/uboot"
)

// A ready erofs is used as it is, compressed or not, and the boot script names it.
func TestErofsRoot(t *testing.T) {
	imagetest.Need(t, "mkfs.erofs")
	dir := filepath.Join(t.TempDir(), "root")
	if err := os.MkdirAll(filepath.Join(dir, "sbin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "sbin/init"), []byte(strings.Repeat("#!/bin/sh\n", 2000)), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, codec := range []string{"", "-zlz4"} {
		path := filepath.Join(t.TempDir(), "x.erofs")
		args := []string{"--quiet", "-T1700000000", path, dir}
		if codec != "" {
			args = append([]string{codec}, args...)
		}
		imagetest.Run(t, "mkfs.erofs", args...)
		var warnings []string
		r := made(t, func(o *build.Options) {
			o.Inputs["rootfs"] = path
			o.Warn = func(text string) { warnings = append(warnings, text) }
		})
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(io.NewSectionReader(find(t, r.Image, "rootfs-a"), 0, int64(len(want))))
		if err != nil || string(got) != string(want) {
			t.Errorf("%q: rootfs-a is not the erofs: %v", codec, err)
		}
		e := find(t, r.Image, "boot-a/boot.scr")
		script := make([]byte, e.Size())
		if _, err := e.ReadAt(script, 0); err != nil {
			t.Fatal(err)
		}
		text, err := uboot.ParseScript(script)
		if err != nil || !strings.Contains(text, " atomixos.lowerfstype=erofs ") || strings.Contains(text, "@") {
			t.Errorf("%q: %v; the boot script does not name erofs:\n%s", codec, err, text)
		}
		if r.Manifest.Codec != "" || strings.Contains(strings.Join(warnings, "\n"), "rootfs") {
			t.Errorf("%q: codec %q, warnings %q", codec, r.Manifest.Codec, warnings)
		}
	}
}

// Without per-unit data, --generalize leaves a ready file system as it is, and says so. With, it
// removes that, and the result is a squashfs.
func TestErofsGeneralize(t *testing.T) {
	imagetest.Need(t, "mkfs.erofs")
	dir := t.TempDir()
	if err := os.MkdirAll(dir+"/etc", 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "x.erofs")
	for _, test := range []struct{ id, format, said string }{
		{"", "\xe2\xe1\xf5\xe0", "--generalize: the root file system has no per-unit data to remove"},
		{strings.Repeat("1", 32), "hsqs", "rootfs: the erofs is changed, and becomes a squashfs"},
	} {
		if err := os.WriteFile(dir+"/etc/machine-id", []byte(test.id), 0o644); err != nil {
			t.Fatal(err)
		}
		imagetest.Run(t, "mkfs.erofs", "--quiet", path, dir)
		var said []string
		r := made(t, func(o *build.Options) {
			o.Inputs["rootfs"], o.Generalize = path, true
			o.Warn = func(text string) { said = append(said, text) }
			o.Info = o.Warn
		})
		head := make([]byte, 2048)
		if _, err := find(t, r.Image, "rootfs-a").ReadAt(head, 0); err != nil || !strings.Contains(string(head), test.format) {
			t.Errorf("machine ID %q: the root file system is no %q: %v", test.id, test.format, err)
		}
		if !slices.Contains(said, test.said) {
			t.Errorf("machine ID %q: it did not say %q: %q", test.id, test.said, said)
		}
	}
}

// Edits are applied to the files of an erofs, which become a squashfs. Those of a compressed
// one are not read. A boot script without the mark is warned about.
func TestErofsEdits(t *testing.T) {
	imagetest.Need(t, "mkfs.erofs")
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/a", []byte(strings.Repeat("a", 10_000)), 0o644); err != nil {
		t.Fatal(err)
	}
	plain, packed := filepath.Join(t.TempDir(), "x"), filepath.Join(t.TempDir(), "y")
	imagetest.Run(t, "mkfs.erofs", "--quiet", plain, dir)
	imagetest.Run(t, "mkfs.erofs", "--quiet", "-zlz4", packed, dir)
	edits, err := edit.Parse("e.toml", []byte("[[edit]]\ndo = \"write\"\npath = \"/b\"\ntext = \"b\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	var warnings []string
	for _, path := range []string{plain, packed} {
		_, err := tried(t, func(o *build.Options) {
			o.Inputs["rootfs"], o.Edits = path, edits
			o.Warn = func(text string) { warnings = append(warnings, text) }
		})
		if errors.Is(err, erofs.ErrCompressed) != (path == packed) || path == plain && err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	if !slices.Contains(warnings, "rootfs: the erofs is changed, and becomes a squashfs") {
		t.Errorf("the warnings do not tell that the erofs becomes a squashfs: %q", warnings)
	}
	warnings = nil
	made(t, func(o *build.Options) {
		o.Inputs["rootfs"] = plain
		o.Warn = func(text string) { warnings = append(warnings, text) }
		b, _ := boards.Get("rock64")
		b.Script.Text = strings.ReplaceAll(b.Script.Text, "@ROOTFS_TYPE@", "squashfs")
		o.Board = b
	})
	if all := strings.Join(warnings, "\n"); !strings.Contains(all, "@ROOTFS_TYPE@") {
		t.Errorf("the warnings do not tell that the boot script has no @ROOTFS_TYPE@:\n%s", all)
	}
}
