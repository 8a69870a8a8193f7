package imagetest

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Moved returns how many bytes a process has read and written. Unlike the time, that does not
// depend on the speed of the machine. It is 0 for a process that is no more.
func Moved(pid int) int64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	var in, out int64
	fmt.Sscanf(string(text), "rchar: %d\nwchar: %d", &in, &out)
	return in + out
}

// MovedBy runs a program, which must succeed, and returns how many bytes it has read and
// written.
func MovedBy(t testing.TB, cmd *exec.Cmd) int64 {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	for unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
	n := Moved(pid)
	if err := cmd.Wait(); err != nil || n == 0 {
		t.Fatalf("%v: %v, with %d bytes", cmd.Args, err, n)
	}
	return n
}

// EndAt sends a running program a signal once it has read and written n bytes, and waits for
// its end, which may come earlier.
func EndAt(cmd *exec.Cmd, n int64, s os.Signal) error {
	end := make(chan error, 1)
	go func() { end <- cmd.Wait() }()
	for Moved(cmd.Process.Pid) < n {
		select {
		case err := <-end:
			return err
		case <-time.After(200 * time.Microsecond):
		}
	}
	cmd.Process.Signal(s)
	return <-end
}
