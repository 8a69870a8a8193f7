package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"imgtool/cmd/imgtool/exit"
	"imgtool/cmd/imgtool/terminal"
	"imgtool/image/imagetest"
)

// person simulates a user at a terminal.
type person struct {
	t      *testing.T
	hands  *os.File // the other end of the terminal
	screen *os.File // the terminal

	mu   sync.Mutex
	seen bytes.Buffer
}

func newPerson(t *testing.T) *person {
	t.Helper()
	hands, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fd := int(hands.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	screen, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	p := &person{t: t, hands: hands, screen: screen}
	t.Cleanup(func() { screen.Close(); hands.Close() })
	go func() {
		for b := make([]byte, 4096); ; {
			k, err := hands.Read(b)
			p.mu.Lock()
			p.seen.Write(b[:k])
			p.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return p
}

func (p *person) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.ReplaceAll(p.seen.String(), "\r", "")
}

// inOneLine removes all white space from text that may be wrapped.
func inOneLine(text string) string { return strings.Join(strings.Fields(text), "") }

// sees waits until a text is on the screen, possibly wrapped.
func (p *person) sees(text string) {
	p.t.Helper()
	for range 20_000 {
		if strings.Contains(inOneLine(p.text()), inOneLine(text)) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	p.t.Fatalf("%q is not to be seen:\n%s", text, p.text())
}

func (p *person) types(text string) { p.hands.WriteString(text) }

// starts runs imgtool on the terminal.
func (p *person) starts(args ...string) *exec.Cmd {
	p.t.Helper()
	cmd := tool(p.t, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = p.screen, p.screen, p.screen
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd
}

// ends waits for imgtool and returns its exit status.
func (p *person) ends(cmd *exec.Cmd) int {
	p.t.Helper()
	err := cmd.Wait()
	if failed := (*exec.ExitError)(nil); err != nil && !errors.As(err, &failed) {
		p.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode()
}

// tiny builds an image of a few MiB.
func tiny(t *testing.T, id string) string {
	t.Helper()
	dir := t.TempDir()
	if err := makeInputs(filepath.Join(dir, "in")); err != nil {
		t.Fatal(err)
	}
	x := filepath.Join(dir, "x.img.zst")
	imgtool(t, "build", "--board", filepath.Join(dir, "in/tiny.toml"), "--inputs", filepath.Join(dir, "in"), "--build-id", id, "-o", x)
	return x
}

func TestQuestionBeforeWriting(t *testing.T) {
	x := tiny(t, "ask")
	disk := sparseFile(t, filepath.Join(t.TempDir(), "disk"), 64<<20)
	before := hashFile(t, disk)
	for _, answer := range []string{"no\n", "\n", "N\n", "maybe\nno\n", "\x04"} {
		p := newPerson(t)
		cmd := p.starts("flash", "-i", x, disk)
		p.sees("[y/N] ")
		if want := "64.0 MiB file at " + disk + ", which has no partition table"; !strings.Contains(inOneLine(p.text()), inOneLine(want)) {
			t.Errorf("it does not say %q:\n%s", want, p.text())
		}
		p.types(answer)
		if status := p.ends(cmd); status != exit.Refused || hashFile(t, disk) != before {
			t.Errorf("%q: exit status %d:\n%s", answer, status, p.text())
		}
	}
	for _, answer := range []string{"y\n", "perhaps\nYes\n"} {
		p := newPerson(t)
		cmd := p.starts("flash", "-i", x, disk)
		p.sees("[y/N] ")
		p.types(answer)
		if status := p.ends(cmd); status != exit.OK || strings.HasPrefix(answer, "p") != strings.Contains(p.text(), "Answer y for yes, or n for no: ") {
			t.Errorf("%q: exit status %d:\n%s", answer, status, p.text())
		}
		imgtool(t, "verify", "--image", x, disk)
	}
}

// While the question waits for an answer, the disk is replaced by another of the same name.
func TestDiskReplacedDuringTheQuestionIsNotWritten(t *testing.T) {
	imagetest.NeedRoot(t)
	x := tiny(t, "swap")
	dir := t.TempDir()
	one, other := sparseFile(t, filepath.Join(dir, "one"), 64<<20), sparseFile(t, filepath.Join(dir, "other"), 64<<20)
	dev := imagetest.Loop(t, one)
	p := newPerson(t)
	cmd := p.starts("flash", "-i", x, dev)
	p.sees("[y/N] ")
	imagetest.Run(t, "losetup", "--detach", dev)
	imagetest.Run(t, "losetup", dev, other)
	p.types("yes\n")
	p.sees("another disk has its name")
	if status := p.ends(cmd); status != exit.Refused {
		t.Errorf("exit status %d:\n%s", status, p.text())
	}
	for _, file := range []string{one, other} {
		if blocks := imagetest.Run(t, "stat", "-c", "%b", file); strings.TrimSpace(blocks) != "0" {
			t.Errorf("%s was written", file)
		}
	}
}

func TestChoosingADisk(t *testing.T) {
	for line, want := range map[string]int{"1\n": 0, " 3 \n": 2, "0\n2\n": 1, "4\none\n3\n": 2, "\n": -1, "9\n\n": -1} {
		p := newPerson(t)
		u := terminal.New(p.screen, p.screen, p.screen)
		p.types(line)
		n, err := u.Choose(t.Context(), "Disks:", []string{"a", "b", "c"})
		if want < 0 && exit.Status(err) != exit.Refused || want >= 0 && (err != nil || n != want) {
			t.Errorf("%q: %d, %v", line, n, err)
		}
		p.sees("  3  c\n")
	}
	u := terminal.New(strings.NewReader("1\n"), io.Discard, &bytes.Buffer{})
	if _, err := u.Choose(t.Context(), "Disks:", []string{"a disk"}); exit.Status(err) != exit.Usage || !strings.Contains(err.Error(), "a disk") {
		t.Error(err)
	}
}

// login simulates the part of systemd's logind that inhibits sleep.
type login struct {
	mu    sync.Mutex
	locks []string
	ends  []*os.File // closed by who let go of its lock
	given []int      // descriptors of which the messages took duplicates
}

func (l *login) Inhibit(what, who, why, mode string) (dbus.UnixFD, *dbus.Error) {
	r, w, err := os.Pipe()
	if err != nil {
		return 0, dbus.MakeFailedError(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.locks, l.ends = append(l.locks, strings.Join([]string{what, who, why, mode}, "|")), append(l.ends, r)
	// The message takes a duplicate of the descriptor.
	fd, err := syscall.Dup(int(w.Fd()))
	w.Close()
	if err != nil {
		return 0, dbus.MakeFailedError(err)
	}
	l.given = append(l.given, fd)
	return dbus.UnixFD(fd), nil
}

// On a real bus with a simulated logind, the inhibitor lock is held exactly while a disk
// is written.
func TestTheComputerIsKeptAwakeWhileADiskIsWritten(t *testing.T) {
	dir := t.TempDir()
	config, socket := filepath.Join(dir, "bus.conf"), filepath.Join(dir, "bus")
	err := os.WriteFile(config, []byte(`<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path=`+socket+`</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>`), 0o644)
	if err != nil {
		t.Fatal(err)
	}
	daemon := exec.Command(imagetest.Need(t, "dbus-daemon"), "--config-file", config, "--nofork", "--nopidfile")
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { daemon.Process.Kill(); daemon.Wait() }()
	var bus *dbus.Conn
	for try := 0; ; try++ {
		if bus, err = dbus.Connect("unix:path=" + socket); err == nil {
			break
		}
		if try == 20_000 {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	defer bus.Close()
	x := tiny(t, "awake")
	disk := sparseFile(t, filepath.Join(dir, "disk"), 64<<20)
	flash := func(args ...string) string {
		t.Helper()
		cmd := tool(t, append([]string{"flash", "--yes", "-i", x, disk}, args...)...)
		cmd.Env = append(cmd.Environ(), "DBUS_SYSTEM_BUS_ADDRESS=unix:path="+socket)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	// A bus without logind is not an error.
	if out := flash(); strings.Contains(out, "warning") {
		t.Error(out)
	}
	l := &login{}
	if err := bus.Export(l, "/org/freedesktop/login1", "org.freedesktop.login1.Manager"); err != nil {
		t.Fatal(err)
	}
	if _, err := bus.RequestName("org.freedesktop.login1", 0); err != nil {
		t.Fatal(err)
	}
	flash("--dry-run")
	if len(l.locks) != 0 {
		t.Errorf("a dry run holds %q", l.locks)
	}
	flash("--delta", "no")
	if want := "sleep:idle|imgtool|writing " + disk + "|block"; len(l.locks) != 1 || l.locks[0] != want {
		t.Fatalf("held were %q, want %q", l.locks, want)
	}
	// All descriptors of the pipe are closed.
	for _, fd := range l.given {
		syscall.Close(fd)
	}
	l.ends[0].SetReadDeadline(time.Now().Add(3 * time.Minute))
	if _, err := l.ends[0].Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
		t.Errorf("the lock is still held: %v", err)
	}
}
