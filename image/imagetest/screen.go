package imagetest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// Screen is a terminal of tmux with a program in it. Its locale is UTF-8.
type Screen struct {
	// Draw, which may be nil, makes the program draw again. A new size of the window reaches
	// it late.
	Draw func()

	History bool // what was scrolled off the screen counts as well

	t      testing.TB
	socket string
}

// StartScreen runs a shell command in a terminal of some columns and rows.
func StartScreen(t testing.TB, width, height int, command string) *Screen {
	t.Helper()
	Need(t, "tmux")
	s := &Screen{t: t, socket: filepath.Join(t.TempDir(), "tmux")}
	// The shell stays when the program has ended: tmux would scroll the screen by a line.
	s.tmux("-f", "/dev/null", "new-session", "-d", "-x", fmt.Sprint(width), "-y", fmt.Sprint(height), "trap : INT; env LC_ALL=C.UTF-8 "+command+"; exec sleep 600")
	t.Cleanup(func() { exec.Command("tmux", "-S", s.socket, "kill-server").Run() })
	return s
}

func (s *Screen) tmux(args ...string) string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "tmux", append([]string{"-S", s.socket}, args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.t.Fatalf("tmux %q: %v: %s", args, err, out)
	}
	return string(out)
}

// Resize makes the terminal larger or smaller.
func (s *Screen) Resize(width, height int) {
	s.t.Helper()
	s.tmux("resize-window", "-x", fmt.Sprint(width), "-y", fmt.Sprint(height))
}

// Keys presses keys by tmux's names, such as Enter and Down.
func (s *Screen) Keys(keys ...string) {
	s.t.Helper()
	s.tmux(append([]string{"send-keys"}, keys...)...)
}

// Sees waits until all that the screen shows matches a pattern, and returns it.
func (s *Screen) Sees(pattern string) string {
	s.t.Helper()
	re := regexp.MustCompile("(?s)^" + strings.TrimSpace(pattern) + "$")
	got, show := "", []string{"capture-pane", "-p"}
	if s.History {
		show = append(show, "-S", "-")
	}
	for end := time.Now().Add(3 * time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if s.Draw != nil {
			s.Draw()
		}
		if got = strings.TrimSpace(s.tmux(show...)); re.MatchString(got) {
			return got
		}
	}
	s.t.Fatalf("the screen does not match %s:\n%s", pattern, got)
	return ""
}
