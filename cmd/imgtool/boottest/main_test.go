// Package boottest has the tests that boot images in an emulated machine. They run the
// program as users do, in parallel; each starter is built once. With -short they are
// skipped.
package boottest

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"imgtool/image/imagetest"
	"imgtool/image/vm"
)

// scratch is the directory of this run: the program, its cache, and the starters.
var scratch string

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if testing.Short() {
		fmt.Println("no machine is booted with -short")
		return 0
	}
	err := buildProgram()
	defer os.RemoveAll(scratch)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// buildProgram builds imgtool, and puts it first in PATH.
func buildProgram() (err error) {
	if scratch, err = os.MkdirTemp("", "imgtool-boottest-"); err != nil {
		return err
	}
	if out, err := exec.Command("go", "build", "-o", filepath.Join(scratch, "imgtool"), "imgtool/cmd/imgtool").CombinedOutput(); err != nil {
		return fmt.Errorf("building imgtool: %w\n%s", err, out)
	}
	os.Setenv("PATH", scratch+":"+os.Getenv("PATH"))
	os.Setenv("IMGTOOL_CACHE_DIR", filepath.Join(scratch, "cache"))
	return nil
}

// needVM skips a test if QEMU is missing, or if imgtool has no first-boot inside.
func needVM(t *testing.T) {
	t.Helper()
	if err := vm.Check(); err != nil {
		imagetest.Skip(t, "%v", err)
	}
	if _, err := os.Stat("../../../image/starter/first-boot/first-boot"); err != nil {
		imagetest.Skip(t, "imgtool has no first-boot inside: run make first-boot")
	}
}

// imgtool runs the program, which must succeed, and returns its standard output.
func imgtool(t testing.TB, args ...string) string {
	t.Helper()
	status, stdout, stderr := end(t, exec.Command("imgtool", args...))
	if status != 0 {
		t.Fatalf("imgtool %s: exit status %d\n%s", strings.Join(args, " "), status, stderr)
	}
	return stdout
}

// end runs a program and returns its exit status and output.
func end(t testing.TB, cmd *exec.Cmd) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

var starters struct {
	sync.Mutex
	built map[string]string
}

// starter returns a copy of the Rock64's starter with a build ID, which the test may
// change. Each is built once.
func starter(t *testing.T, buildID string, args ...string) string {
	t.Helper()
	starters.Lock()
	defer starters.Unlock()
	img := starters.built[buildID]
	if img == "" {
		img = filepath.Join(scratch, buildID+".img")
		imgtool(t, append([]string{"build", "--board", "rock64", "--build-id", buildID, "-o", img}, args...)...)
		if starters.built == nil {
			starters.built = map[string]string{}
		}
		starters.built[buildID] = img
	}
	own := filepath.Join(t.TempDir(), buildID+".img")
	for _, suffix := range []string{"", ".manifest.json"} {
		imagetest.Run(t, "cp", "--sparse=always", img+suffix, own+suffix)
	}
	return own
}

// vmUntil runs imgtool vm until a line is seen, and returns the console's text.
func vmUntil(t *testing.T, line string, args ...string) string {
	t.Helper()
	return imgtool(t, append([]string{"vm", "--headless", "--timeout", "3m", "--until", line}, args...)...)
}

// boot runs an image, which is not changed, until a line is seen.
func boot(t *testing.T, img, until string, replies ...vm.Reply) string {
	t.Helper()
	return imagetest.Boot(t, vm.Machine{Disks: []vm.Disk{{Path: img, Bus: "virtio"}}}, until, replies...)
}

// wantLines checks that the console has lines that start with the given texts.
func wantLines(t *testing.T, log string, lines ...string) {
	t.Helper()
	all := "\n" + strings.ReplaceAll(log, "\r", "")
	for _, line := range lines {
		if !strings.Contains(all, "\n"+line) {
			t.Errorf("no line starts with %q:\n%s", line, log)
		}
	}
}
