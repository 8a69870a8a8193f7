package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"imgtool/image/imagetest"
)

// soak returns the size of a large matrix with SOAK=1, else of its sample.
func soak(few, many int) int {
	if os.Getenv("SOAK") != "" {
		return many
	}
	return few
}

// random returns a random generator; its seed is logged, and can be set with SEED.
func random(t *testing.T) *rand.Rand {
	t.Helper()
	n := rand.Uint64()
	if s := os.Getenv("SEED"); s != "" {
		var err error
		if n, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("SEED=%d", n)
	return rand.New(rand.NewPCG(n, 0))
}

// moved returns how many bytes a process has read and written, which does not depend on the
// speed of the machine as the time does. It is 0 for a process that is no more.
func moved(pid int) int64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	var in, out int64
	fmt.Sscanf(string(text), "rchar: %d\nwchar: %d", &in, &out)
	return in + out
}

// movedBy runs a program, which must succeed, and returns how many bytes it has read and
// written.
func movedBy(t *testing.T, cmd *exec.Cmd) int64 {
	t.Helper()
	must(cmd.Start())
	pid := cmd.Process.Pid
	for unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
	n := moved(pid)
	if err := cmd.Wait(); err != nil || n == 0 {
		t.Fatalf("%v: %v, with %d bytes", cmd.Args, err, n)
	}
	return n
}

// endAt starts a program, sends it a signal once it has read and written n bytes, and waits
// for its end, which may come earlier.
func endAt(cmd *exec.Cmd, n int64, s os.Signal) error {
	must(cmd.Start())
	return endRunningAt(cmd, n, s)
}

func endRunningAt(cmd *exec.Cmd, n int64, s os.Signal) error {
	end := make(chan error, 1)
	go func() { end <- cmd.Wait() }()
	for moved(cmd.Process.Pid) < n {
		select {
		case err := <-end:
			return err
		case <-time.After(200 * time.Microsecond):
		}
	}
	cmd.Process.Signal(s)
	return <-end
}

// A feed is the standard input of a program.
type feed struct{ r, w *os.File }

// feedOf makes the standard input of a program.
func feedOf(t *testing.T, cmd *exec.Cmd) feed {
	t.Helper()
	r, w, err := os.Pipe()
	must(err)
	t.Cleanup(func() { r.Close(); w.Close() })
	cmd.Stdin = r
	return feed{r, w}
}

// eaten writes to the program, and waits until it has read everything.
func (f feed) eaten(t *testing.T, data []byte) {
	t.Helper()
	_, err := f.w.Write(data)
	must(err)
	imagetest.Wait(t, "it reads its standard input", func() bool {
		n, err := unix.IoctlGetInt(int(f.r.Fd()), unix.TIOCINQ)
		must(err)
		return n == 0
	})
}

// noise returns bytes that do not compress well, others for each call.
func noise(n int) []byte {
	var seed [32]byte
	for i := range seed {
		seed[i] = byte(rand.Uint32())
	}
	b := make([]byte, n)
	io.ReadFull(rand.NewChaCha8(seed), b)
	for i := range b {
		b[i] &= 0x7f
	}
	return b
}

// holds reports whether a process has opened a file below a directory, also one without a name.
func holds(pid int, dir string) bool {
	all, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	return slices.ContainsFunc(all, func(fd string) bool {
		to, _ := os.Readlink(fd)
		return strings.HasPrefix(to, dir)
	})
}

// said is what a program has printed so far.
type said struct {
	mu   sync.Mutex
	text strings.Builder
}

func (s *said) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(b)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}
