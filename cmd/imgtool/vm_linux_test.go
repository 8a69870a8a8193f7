package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"imgtool/image/imagetest"
	"imgtool/image/vm"
)

// Every key reaches the machine but Ctrl-A x, and the terminal is as before.
func TestTheTerminalIsTheConsoleOfAMachine(t *testing.T) {
	needVM(t)
	p := newPerson(t)
	before, err := unix.IoctlGetTermios(int(p.screen.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	cmd := p.starts("vm", tiny(t, "1"))
	p.sees("type Ctrl-A x to leave")
	p.sees("Hit any key")
	p.types(" ")
	p.sees("=> ")
	p.types("printenv board\r")
	p.sees("board=qemu-arm")
	p.types("\x03")
	p.sees("<INTERRUPT>")
	p.types("\x01x")
	if status := p.ends(cmd); status != exitOK {
		t.Errorf("exit status %d:\n%s", status, p.text())
	}
	after, err := unix.IoctlGetTermios(int(p.screen.Fd()), unix.TCGETS)
	if diff := cmp.Diff(before, after); err != nil || diff != "" {
		t.Errorf("the terminal: %v %s", err, diff)
	}
}

// U-Boot boots by what its flash says.
func TestTheEnvironmentOfUBootIsAFile(t *testing.T) {
	needVM(t)
	dir := t.TempDir()
	text, env := filepath.Join(dir, "env.txt"), filepath.Join(dir, "env")
	if err := os.WriteFile(text, []byte("bootdelay=0\nbootcmd=echo this is from the ${what}; poweroff\nwhat=flash\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	imagetest.Run(t, "mkenvimage", "-s", "0x40000", "-o", env, text)
	if err := os.Truncate(env, vm.EnvSize); err != nil {
		t.Fatal(err)
	}
	imgtool(t, "vm", "--headless", "--env", env, "--until", "^this is from the flash", tiny(t, "1"))
}

func TestAPortThatIsTakenIsRefused(t *testing.T) {
	needVM(t)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	status, out := ended(t, tool(t, "vm", "--headless", "--forward", fmt.Sprint(port), tiny(t, "1")))
	if status != exitInput || !strings.Contains(out, "address already in use") || !strings.Contains(out, fmt.Sprintf("--forward %d:%d", port+1, port)) {
		t.Errorf("exit status %d: %s", status, out)
	}
}
