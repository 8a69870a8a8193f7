//go:build linux

package main

import (
	"io"
	"os/exec"
	"strings"
	"testing"

	"imgtool/image/imagetest"
)

// The log names the addresses of the device, when it gets them.
func TestAddressesAreLogged(t *testing.T) {
	b := newBox(t)
	file, err := program()
	if err != nil {
		t.Fatal(err)
	}
	imagetest.Need(t, "ip")
	b.cmd = exec.Command(imagetest.Need(t, "unshare"), "--net", "sh", "-c", `"$0" -root "$1" & read x; ip address add 10.9.9.9/24 dev lo; read x; ip address add 10.9.9.10/24 dev lo; read x; kill $!`, file, b.root)
	b.cmd.Stdout, b.cmd.Stderr = b, b
	in, err := b.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b.says("the console is on port 8080; the network has no address yet\n")
	for _, address := range []string{"10.9.9.9", "10.9.9.10"} {
		io.WriteString(in, "\n")
		b.says("the console is at http://" + address + ":8080\n")
	}
	io.WriteString(in, "\n")
	b.cmd.Wait()
	b.cmd = nil
	if n := strings.Count(b.said(), "the console is at"); n != 2 || strings.Contains(b.said(), "0.0.0.0") {
		t.Errorf("the log says\n%s", b.said())
	}
}
