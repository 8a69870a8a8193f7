// Package imagetest helps the tests of several packages to use other programs, loop
// devices, network block devices and emulated machines.
package imagetest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// Need returns the path of a program. If it is missing, the test is skipped, or fails
// if CI=true.
func Need(t testing.TB, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		// These directories are not in the PATH of users.
		for _, dir := range []string{"/usr/sbin/", "/sbin/"} {
			if _, err := os.Stat(dir + program); err == nil {
				return dir + program
			}
		}
		Skip(t, "%s is not installed", program)
	}
	return path
}

// NeedRoot skips a test that mounts file systems or uses loop devices if the user is not
// root, or fails it if CI=true.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Skip(t, "needs root")
	}
}

// Skip skips a test because something is missing, or fails it if CI=true.
func Skip(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// Long skips a test that boots a machine or takes more than some seconds if -short is
// set.
func Long(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("skipped with -short")
	}
}

// Run runs a program, which must succeed, and returns its standard output.
func Run(t testing.TB, program string, args ...string) string {
	t.Helper()
	cmd := exec.Command(Need(t, program), args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s%s", program, strings.Join(args, " "), err, out.String(), errs.String())
	}
	return out.String()
}

// Read returns the content of a file.
func Read(t testing.TB, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Module returns the directory of a Go module that ours does not depend on, such as one with test
// data. version is PATH@VERSION.
func Module(t testing.TB, version string) string {
	t.Helper()
	cmd := exec.Command(Need(t, "go"), "mod", "download", "-json", version)
	cmd.Dir = t.TempDir() // outside of our module
	cmd.Env = append(os.Environ(), "GOFLAGS=")
	out, err := cmd.Output()
	if err != nil {
		Skip(t, "%s cannot be downloaded: %v", version, err)
	}
	var about struct{ Dir string }
	if err := json.Unmarshal(out, &about); err != nil {
		t.Fatal(err)
	}
	return about.Dir
}

// Loop attaches a file as a loop device with direct I/O, and detaches it when the test
// ends.
func Loop(t testing.TB, file string) string {
	t.Helper()
	NeedRoot(t)
	dev := strings.TrimSpace(Run(t, "losetup", "--find", "--show", "--direct-io=on", file))
	t.Cleanup(func() { exec.Command(Need(t, "losetup"), "--detach", dev).Run() })
	return dev
}

// Hold runs a Python script, which imports sys and gets args, until stop is called or the
// test ends. It returns when the script has reached its end.
func Hold(t testing.TB, script string, args ...string) (pid int, stop func()) {
	t.Helper()
	script += "\nprint('ready', flush=True); sys.stdin.read()"
	cmd := exec.Command(Need(t, "python3"), append([]string{"-c", script}, args...)...)
	cmd.Stderr = os.Stderr
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() { in.Close(); io.Copy(io.Discard, out); cmd.Wait() })
	t.Cleanup(stop)
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("%q: %v", line, err)
	}
	return cmd.Process.Pid, stop
}

// Wait waits for a state. It fails the test only after minutes: the machine may be busy.
func Wait(t testing.TB, what string, state func() bool) {
	t.Helper()
	for begin := time.Now(); !state(); time.Sleep(2 * time.Millisecond) {
		if time.Since(begin) > 3*time.Minute {
			t.Fatalf("%s: not after 3 minutes", what)
		}
	}
}
