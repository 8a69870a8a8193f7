package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"imgtool/image/imagetest"
)

// The mise tasks need no network if Go and the modules are present, and build the program
// only if its sources changed.
func TestMiseTasks(t *testing.T) {
	imagetest.Long(t)
	mise := imagetest.Need(t, "mise")
	imagetest.NeedRoot(t) // for a network namespace
	dir := t.TempDir()
	copyTree(t, "../..", dir)
	if err := makeInputs(filepath.Join(dir, "in")); err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	goEnv := func(name string) string {
		out, err := exec.Command("go", "env", name).Output()
		if err != nil {
			t.Fatal(err)
		}
		return name + "=" + strings.TrimSpace(string(out))
	}
	env := append(os.Environ(), "HOME="+home, "XDG_CACHE_HOME="+home, "MISE_TRUSTED_CONFIG_PATHS="+dir, "GOPROXY=off", "NO_COLOR=1", "CI=",
		goEnv("GOCACHE"), goEnv("GOMODCACHE"))
	for _, name := range []string{"DATA", "CONFIG", "CACHE", "STATE"} {
		env = append(env, "MISE_"+name+"_DIR="+filepath.Join(home, strings.ToLower(name)))
	}
	run := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("unshare", append([]string{"--net", mise, "run"}, args...)...)
		cmd.Dir, cmd.Env = dir, env
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("mise run %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	built := func() time.Time {
		t.Helper()
		info, err := os.Stat(filepath.Join(dir, "imgtool"))
		if err != nil {
			t.Fatal(err)
		}
		return info.ModTime()
	}
	run("build", "--inputs", "in", "-o", "x.img.zst")
	first := built()
	if _, err := os.Stat(filepath.Join(dir, "x.img.zst")); err != nil {
		t.Fatal(err)
	}
	run("build", "--inputs", "in", "-o", "y.img.zst")
	disk := sparseFile(t, filepath.Join(dir, "disk"), 4<<30)
	run("flash", "-y", "-i", "x.img.zst", disk)
	imgtool(t, "verify", "--image", filepath.Join(dir, "x.img.zst"), disk)
	if !built().Equal(first) {
		t.Error("the program was built again though nothing changed")
	}
	source := filepath.Join(dir, "cmd/imgtool/version.go")
	text := readText(t, source)
	if err := os.WriteFile(source, []byte(text+"\n// changed\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	run("build", "--inputs", "in", "-o", "y.img.zst")
	if built().Equal(first) {
		t.Error("the program was not built again though a source changed")
	}
}

// copyTree copies the files of a checkout that are not ignored by git.
func copyTree(t *testing.T, from, to string) {
	t.Helper()
	list := exec.Command("git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	list.Dir = from
	files, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	cpio := exec.Command(imagetest.Need(t, "cpio"), "-0", "-pdm", "--quiet", to)
	cpio.Dir, cpio.Stdin = from, strings.NewReader(string(files))
	if out, err := cpio.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
