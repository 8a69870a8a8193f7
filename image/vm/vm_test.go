package vm_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"imgtool/image/imagetest"
	"imgtool/image/vm"
)

// pretend starts a script instead of QEMU.
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

func TestWatchLinesAndPrompts(t *testing.T) {
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
func TestRepliesInOrder(t *testing.T) {
	r := pretend(t, t.Context(), `printf '=> \nHit any key: '; read a; printf "\n=> "; read b; echo "got $a and $b"; sleep 60`, vm.Machine{})
	defer r.Kill()
	line, err := r.Watch(io.Discard, func(line string) bool { return strings.Contains(line, "got") },
		vm.Reply{Seen: "any key", Type: "x\n"}, vm.Reply{Seen: "=> ", Type: "boot\n"})
	if line != "=> got x and boot" || err != nil {
		t.Errorf("%q, %v", line, err)
	}
}

func TestWatchReportsEnd(t *testing.T) {
	never := func(string) bool { return false }
	r := pretend(t, t.Context(), `echo bye`, vm.Machine{})
	if _, err := r.Watch(io.Discard, never); err != io.EOF {
		t.Errorf("it powered off: %v", err)
	}
	r = pretend(t, t.Context(), `echo 'no such disk' >&2; exit 1`, vm.Machine{})
	if _, err := r.Watch(io.Discard, never); err == nil || err.Error() != "no such disk" {
		t.Errorf("it printed an error: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r = pretend(t, ctx, `exec sleep 600`, vm.Machine{})
	cancel()
	if _, err := r.Watch(io.Discard, never); err == nil || err == io.EOF {
		t.Errorf("its context ended: %v", err)
	}
}

// A comma in a path does not end an option of QEMU, and a colon does not end a protocol.
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

// The sandbox is used if QEMU supports it, and a machine starts without that too.
func TestSandbox(t *testing.T) {
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
