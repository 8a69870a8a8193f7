package main

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"imgtool/cmd/imgtool/exit"
	"imgtool/image/imagetest"
)

func accessOf(t *testing.T, file string) string {
	t.Helper()
	info, err := os.Lstat(file)
	if err != nil {
		t.Fatal(err)
	}
	st := info.Sys().(*syscall.Stat_t)
	return fmt.Sprintf("%v %d:%d", info.Mode(), st.Uid, st.Gid)
}

// Only the owner can read files with a seed, regardless of the umask; other files follow the
// umask.
func TestFilesWithSecretsAreForTheirOwner(t *testing.T) {
	t.Chdir(t.TempDir())
	must(makeInputs("in"))
	must(os.MkdirAll("site", 0o755))
	must(os.WriteFile("site/config.toml", []byte(tinySeed), 0o644))
	must(os.WriteFile("key.pub", []byte(strings.Split(tinySeed, `"`)[1]+"\n"), 0o644))
	old := unix.Umask(0o022)
	defer unix.Umask(old)
	for _, name := range []string{"s.img", "s.img.zst", "s.simg"} {
		imgtool(t, "build", "--board", "rock64", "--inputs", "in", "--seed", "in/config.toml", "-o", name)
		imgtool(t, "build", "--board", "rock64", "--inputs", "in", "-o", "plain-"+name)
		for _, suffix := range []string{"", ".manifest.json", ".bmap"} {
			if got := accessOf(t, name+suffix); !strings.HasPrefix(got, "-rw------- ") {
				t.Errorf("%s: %s", name+suffix, got)
			}
			if got := accessOf(t, "plain-"+name+suffix); !strings.HasPrefix(got, "-rw-r--r-- ") {
				t.Errorf("%s without a seed: %s", name+suffix, got)
			}
		}
	}
	imgtool(t, "seed", "bundle", "site", "-o", "b.tar.zst")
	imgtool(t, "seed", "new", "--user", "ops", "--ssh-key", "key.pub", "--container", "web", "--image", "a.b/c:1", "-o", "new.toml")
	for _, name := range []string{"b.tar.zst", "new.toml"} {
		if got := accessOf(t, name); !strings.HasPrefix(got, "-rw------- ") {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// A changed image keeps its mode, owner and group, and a symbolic link to it is kept.
func TestAChangedImageKeepsItsOwner(t *testing.T) {
	imagetest.NeedRoot(t)
	t.Chdir(t.TempDir())
	must(makeInputs("in"))
	for _, name := range []string{"x.img", "x.img.zst"} {
		imgtool(t, "build", "--board", "rock64", "--inputs", "in", "-o", name)
		must(os.Chmod(name, 0o640))
		must(os.Chown(name, 1234, 2345))
		must(os.Chmod(name+".manifest.json", 0o604))
		must(os.Chown(name+".manifest.json", 1234, 1))
		must(os.Remove(name + ".bmap"))
		os.Remove("link.img")
		must(os.Symlink(name, "link.img"))
		for _, args := range [][]string{{"seed", "put", "link.img", "in/config.toml"}, {"seed", "rm", name}} {
			imgtool(t, args...)
			for file, want := range map[string]string{name: "-rw-r----- 1234:2345", name + ".manifest.json": "-rw----r-- 1234:1", name + ".bmap": "-rw-r----- 1234:2345"} {
				if got := accessOf(t, file); got != want {
					t.Errorf("%v: %s is %s, want %s", args, file, got, want)
				}
			}
			if info, err := os.Lstat("link.img"); err != nil || info.Mode()&os.ModeSymlink == 0 {
				t.Errorf("%v: the link is %v", args, info.Mode())
			}
			must(os.RemoveAll(name + ".bmap"))
		}
	}
}

// An image file that is in use as a disk is not replaced.
func TestAnImageInUseGetsNoSeed(t *testing.T) {
	imagetest.NeedRoot(t)
	t.Chdir(t.TempDir())
	must(makeInputs("in"))
	imgtool(t, "build", "--board", "rock64", "--inputs", "in", "-o", "x.img")
	before := accessOf(t, "x.img")
	loop := imagetest.Loop(t, "x.img")
	status, out := ended(t, tool(t, "seed", "put", "x.img", "in/config.toml"))
	if status != exit.Refused || !strings.Contains(out, "attached as "+loop) {
		t.Errorf("exit status %d: %s", status, out)
	}
	if accessOf(t, "x.img") != before {
		t.Error("it has changed")
	}
}
