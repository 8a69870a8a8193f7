package boottest

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"os/exec"

	"imgtool/image/imagetest"
	"imgtool/image/vm"
)

// U-Boot boots according to the environment in the file of --env.
func TestEnvironmentOfUBoot(t *testing.T) {
	t.Parallel()
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
	imgtool(t, "vm", "--headless", "--env", env, "--until", "^this is from the flash", starter(t, "boot-1"))
}

// A port that another program listens on is refused, with a free one as a hint.
func TestForwardOfABusyPort(t *testing.T) {
	t.Parallel()
	needVM(t)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	status, _, out := end(t, exec.Command("imgtool", "vm", "--headless", "--forward", fmt.Sprint(port), starter(t, "boot-1")))
	if status != 2 || !strings.Contains(out, "another program uses it") || !strings.Contains(out, fmt.Sprintf("--forward %d:%d", port+1, port)) {
		t.Errorf("exit status %d: %s", status, out)
	}
}

// A machine that requests a file from a service on this computer's loopback gets no answer,
// unless it has the whole network.
func TestAMachineDoesNotReachThisComputer(t *testing.T) {
	needVM(t)
	for _, network := range []bool{false, true} {
		t.Run(fmt.Sprintf("network %v", network), func(t *testing.T) {
			service, err := net.ListenPacket("udp4", "127.0.0.1:69") // for U-Boot to ask by TFTP
			if err != nil {
				imagetest.Skip(t, "%v", err)
			}
			defer service.Close()
			m := vm.Machine{Network: network, Forward: []vm.Forward{{Host: freePort(t), Guest: 80}}}
			log := imagetest.Boot(t, m, "the end of it",
				vm.Reply{Seen: "Hit any key", Type: "\n"}, vm.Reply{Seen: "=> ", Type: "setenv autoload no; dhcp\n"},
				vm.Reply{Seen: "DHCP client bound", Type: "\n\nsetenv netretry no; setenv tftptimeout 1000; setenv tftptimeoutcountmax 2; tftpboot 0x40200000 127.0.0.1:secret; echo the end of it\n"},
				vm.Reply{Seen: "secret; echo", Type: ""}, vm.Reply{Seen: "\n", Type: ""})
			service.SetReadDeadline(time.Now().Add(time.Second))
			b := make([]byte, 512)
			n, _, err := service.ReadFrom(b)
			if asked := bytes.Contains(b[:n], []byte("secret")); asked != network {
				t.Errorf("the service of this computer was asked: %v (%q, %v)\n%s", asked, b[:n], err, log)
			}
		})
	}
}

// freePort is a port of 127.0.0.1 that is free now.
func freePort(t *testing.T) uint16 {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}
