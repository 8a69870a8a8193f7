package uboot_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"imgtool/image/imagetest"
	"imgtool/image/uboot"
)

const text = "echo hello\nbooti ${kernel_addr_r}\n"

func TestScriptEqualsMkimage(t *testing.T) {
	dir := t.TempDir()
	cmd := filepath.Join(dir, "boot.cmd")
	os.WriteFile(cmd, []byte(text), 0o644)
	t.Setenv("SOURCE_DATE_EPOCH", "1767225600")
	imagetest.Run(t, "mkimage", "-A", "arm64", "-O", "linux", "-T", "script", "-C", "none", "-d", cmd, filepath.Join(dir, "want"))
	want, err := os.ReadFile(filepath.Join(dir, "want"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := uboot.Script(text, 1767225600)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("got  %x\nwant %x", got, want)
	}
	scr := filepath.Join(dir, "boot.scr")
	os.WriteFile(scr, got, 0o644)
	if out := imagetest.Run(t, "dumpimage", "-l", scr); !strings.Contains(out, "AArch64 Linux Script (uncompressed)") {
		t.Errorf("dumpimage -l: %s", out)
	}
}

func TestScriptReadsBack(t *testing.T) {
	b, err := uboot.Script(text, 0)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := uboot.ParseScript(b); got != text || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	for i := range b {
		b[i] ^= 1
		if _, err := uboot.ParseScript(b); err == nil {
			t.Errorf("a flipped bit in byte %d goes unseen", i)
		}
		b[i] ^= 1
	}
	for n := range b {
		if _, err := uboot.ParseScript(b[:n]); err == nil {
			t.Errorf("cut to %d bytes goes unseen", n)
		}
	}
}

func TestScriptErrors(t *testing.T) {
	for _, text := range []string{"", strings.Repeat("#", uboot.MaxScript-71)} {
		if _, err := uboot.Script(text, 0); err == nil {
			t.Errorf("%d bytes pass", len(text))
		}
	}
	if _, err := uboot.Script(strings.Repeat("#", uboot.MaxScript-72), 0); err != nil {
		t.Error(err)
	}
}

func FuzzParseScript(f *testing.F) {
	b, _ := uboot.Script(text, 0)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) { uboot.ParseScript(b) })
}
