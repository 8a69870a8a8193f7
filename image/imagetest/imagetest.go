// Package imagetest is what the tests of several packages share: other
// people's tools, loop devices, and disks that are dirty or broken.
package imagetest

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
)

// Need returns the path of a program that judges our output. Where it is
// missing the test is skipped, and fails where CI=true.
func Need(t testing.TB, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		// Debian keeps some of them where only root looks.
		for _, dir := range []string{"/usr/sbin/", "/sbin/"} {
			if _, err := os.Stat(dir + program); err == nil {
				return dir + program
			}
		}
		Skip(t, "%s is not installed", program)
	}
	return path
}

// NeedRoot skips a test that mounts or makes loop devices, or fails it where
// CI=true.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Skip(t, "needs root")
	}
}

// Skip skips a test for want of something, or fails it where CI=true.
func Skip(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// Run runs a program that must succeed and returns its standard output.
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

// Loop makes a loop device of a file, with direct I/O, and takes it away when
// the test ends.
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
