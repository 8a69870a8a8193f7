package main

import (
	"testing"

	"imgtool/cmd/imgtool/exit"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// Every key but Ctrl-A x reaches the machine, and the terminal settings are restored.
func TestTerminalIsTheConsoleOfAMachine(t *testing.T) {
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
	if status := p.ends(cmd); status != exit.OK {
		t.Errorf("exit status %d:\n%s", status, p.text())
	}
	after, err := unix.IoctlGetTermios(int(p.screen.Fd()), unix.TCGETS)
	if diff := cmp.Diff(before, after); err != nil || diff != "" {
		t.Errorf("the terminal: %v %s", err, diff)
	}
}
