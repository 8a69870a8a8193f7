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

// endAt is imagetest.EndAt of a program that it starts.
func endAt(cmd *exec.Cmd, n int64, s os.Signal) error {
	must(cmd.Start())
	return imagetest.EndAt(cmd, n, s)
}

// interrupt sends a signal to a program, which must end within minutes.
func interrupt(t *testing.T, cmd *exec.Cmd, s os.Signal) error {
	t.Helper()
	must(cmd.Process.Signal(s))
	late := time.AfterFunc(3*time.Minute, func() { cmd.Process.Kill() })
	err := cmd.Wait()
	if !late.Stop() {
		t.Errorf("%v: it did not end within 3 minutes of the signal %v", cmd.Args, s)
	}
	return err
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
