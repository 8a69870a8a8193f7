package vm_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"imgtool/image/imagetest"
	"imgtool/image/vm"
)

// pretend puts a script in the place of QEMU, and starts it.
func pretend(t *testing.T, ctx context.Context, script string, m vm.Machine) *vm.Running {
	t.Helper()
	if err := vm.Check(); err != nil {
		imagetest.Skip(t, "%v", err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "qemu-system-aarch64"), []byte("#!/bin/sh\n[ \"$4 $PROBE\" != \"help \" ] || exit 0\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	r, err := m.Start(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestALineIsSeenWholeAndAPromptAsItIs(t *testing.T) {
	r := pretend(t, t.Context(), `printf 'rea'; sleep 0.1; printf 'dy: sl'; sleep 0.1; printf 'ot a\r\nlogin: '; sleep 60`, vm.Machine{})
	defer r.Kill()
	var log bytes.Buffer
	for _, want := range []string{"ready: slot a", "login: "} {
		line, err := r.Watch(&log, func(line string) bool { return strings.Contains(line, want[:3]) })
		if line != want || err != nil {
			t.Errorf("%q, %v, want %q", line, err, want)
		}
	}
	if log.String() != "ready: slot a\r\nlogin: " {
		t.Errorf("the console was %q", log.String())
	}
}

// The second text comes before the first reply, and counts only after it.
func TestRepliesAreTypedInTheirOrder(t *testing.T) {
	r := pretend(t, t.Context(), `printf '=> \nHit any key: '; read a; printf "\n=> "; read b; echo "got $a and $b"; sleep 60`, vm.Machine{})
	defer r.Kill()
	line, err := r.Watch(io.Discard, func(line string) bool { return strings.Contains(line, "got") },
		vm.Reply{Seen: "any key", Type: "x\n"}, vm.Reply{Seen: "=> ", Type: "boot\n"})
	if line != "=> got x and boot" || err != nil {
		t.Errorf("%q, %v", line, err)
	}
}

func TestTheEndOfAMachineIsSaid(t *testing.T) {
	never := func(string) bool { return false }
	r := pretend(t, t.Context(), `echo bye`, vm.Machine{})
	if _, err := r.Watch(io.Discard, never); err != io.EOF {
		t.Errorf("it powered off: %v", err)
	}
	r = pretend(t, t.Context(), `echo 'no such disk' >&2; exit 1`, vm.Machine{})
	if _, err := r.Watch(io.Discard, never); err == nil || err.Error() != "no such disk" {
		t.Errorf("it complained: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	r = pretend(t, ctx, `exec sleep 60`, vm.Machine{})
	if _, err := r.Watch(io.Discard, never); err == nil || err == io.EOF {
		t.Errorf("its time was over: %v", err)
	}
}

// A comma in a path is no comma in QEMU's list, and a colon no protocol.
func TestPathsReachQEMU(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a,b")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	r := pretend(t, t.Context(), `for a; do echo "<$a>"; done`, vm.Machine{Env: "e", Disks: []vm.Disk{{Path: "nbd:x", Bus: "usb"}}})
	var log bytes.Buffer
	if _, err := r.Watch(&log, nil); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	twice := strings.ReplaceAll(dir, ",", ",,")
	for _, want := range []string{"<if=pflash,unit=1,format=raw,file=" + twice + "/e>",
		"<if=none,id=disk0,format=raw,discard=unmap,file=" + twice + "/nbd:x,snapshot=on>"} {
		if !slices.Contains(strings.Split(log.String(), "\n"), want) {
			t.Errorf("%s is missing in\n%s", want, log.String())
		}
	}
}

// A machine that asks a service of this computer's loopback for a file gets no answer,
// unless it has the whole network.
func TestAMachineDoesNotReachThisComputer(t *testing.T) {
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

// The sandbox is asked for where QEMU has it, and a machine starts where it does not.
func TestQEMUIsSandboxedWhereItCanBe(t *testing.T) {
	t.Setenv("PROBE", "yes")
	for refused, want := range map[string]bool{"-none": true, "-sandbox": false} {
		r := pretend(t, t.Context(), fmt.Sprintf(`for a; do [ "$a" != %s ] || exit 1; done; echo "$*"`, refused), vm.Machine{})
		var log bytes.Buffer
		if _, err := r.Watch(&log, nil); !errors.Is(err, io.EOF) {
			t.Fatalf("without %s: %v", refused, err)
		}
		if got := strings.Contains(log.String(), "-sandbox on,"); got != want {
			t.Errorf("%s is refused, and QEMU is sandboxed: %v\n%s", refused, got, log.String())
		}
	}
}
