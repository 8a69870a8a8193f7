//go:build unix

package authopen_test

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"imgtool/flash/disk/authopen"
	"imgtool/image/imagetest"
)

// fake is a program in place of authopen. It passes a descriptor as authopen does.
func fake(t *testing.T, body string) string {
	t.Helper()
	python := imagetest.Need(t, "python3")
	path := filepath.Join(t.TempDir(), "authopen")
	script := "#!" + python + "\nimport array, os, socket, sys, time\n" +
		"assert sys.argv[1:3] == ['-stdoutpipe', '-o'], sys.argv\n" + body
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

const pass = `
fd = os.open(sys.argv[4], int(sys.argv[3]))
s = socket.socket(fileno=os.dup(1))
s.sendmsg([b'\0'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [fd]))])
`

func TestOpenReceivesDescriptor(t *testing.T) {
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, []byte("before"), 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := authopen.Open(t.Context(), fake(t, pass), file, os.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("after!"), 0); err != nil {
		t.Errorf("the descriptor cannot be written to: %v", err)
	}
	if b, err := io.ReadAll(f); err != nil || string(b) != "after!" {
		t.Errorf("read %q, %v", b, err)
	}
}

func TestOpenErrors(t *testing.T) {
	for _, c := range []struct{ name, body, want string }{
		{"refused", "sys.stderr.write('authopen: not authorized\\n'); sys.exit(1)", "exit status 1 authopen: not authorized"},
		{"nothing passed", "", "passed no descriptor"},
		{"only text", "os.write(1, b'3')", "passed no descriptor"},
	} {
		f, err := authopen.Open(t.Context(), fake(t, c.body), "/dev/null", os.O_RDWR)
		if f != nil || err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v and %v, want an error with %q", c.name, f, err, c.want)
		}
	}
	if _, err := authopen.Open(t.Context(), "/nonexistent/authopen", "/dev/null", os.O_RDWR); !os.IsNotExist(err) {
		t.Errorf("without the program: %v", err)
	}
}

func TestOpenEndsWithContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := authopen.Open(ctx, fake(t, "time.sleep(20)"), "/dev/null", os.O_RDWR); err != context.DeadlineExceeded {
		t.Errorf("got %v, want the end of the context", err)
	}
}
