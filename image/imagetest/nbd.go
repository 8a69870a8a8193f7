package imagetest

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// NBD runs nbdkit with the given arguments and returns a block device of what it serves.
func NBD(t testing.TB, args ...string) (dev string, nbdkit *exec.Cmd) {
	t.Helper()
	file, nbdkit := NBDFile(t, args...)
	return Loop(t, file), nbdkit
}

// NBDFile is like NBD, but returns a file.
func NBDFile(t testing.TB, args ...string) (file string, nbdkit *exec.Cmd) {
	t.Helper()
	NeedRoot(t)
	Need(t, "fusermount3")
	dir := t.TempDir()
	socket, fuse := filepath.Join(dir, "s"), filepath.Join(dir, "disk")
	start := func(program string, args ...string) *exec.Cmd {
		cmd := exec.Command(Need(t, program), args...)
		var said bytes.Buffer
		cmd.Stderr = &said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			cmd.Process.Kill()
			cmd.Wait()
			if t.Failed() {
				t.Logf("%s: %s", program, said.String())
			}
		})
		return cmd
	}
	nbdkit = start("nbdkit", append([]string{"--foreground", "--unix", socket}, args...)...)
	// The socket exists before nbdkit listens on it.
	Wait(t, "nbdkit starts", func() bool {
		c, err := net.Dial("unix", socket)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	if err := os.WriteFile(fuse, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	start("nbdfuse", fuse, "--unix", socket)
	t.Cleanup(func() { exec.Command("fusermount3", "-u", "-z", fuse).Run() })
	Wait(t, "nbdfuse starts", func() bool { info, err := os.Stat(fuse); return err == nil && info.Size() > 0 })
	return fuse, nbdkit
}
