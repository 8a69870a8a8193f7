package imagetest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"testing"
	"time"
)

// Boot runs an emulated arm64 machine with Debian's U-Boot and the disks that
// args give it, until ready is seen, and returns the console's text. What is in
// send is typed in its order, when the text before it is seen.
func Boot(t testing.TB, args []string, ready string, send ...[2]string) string {
	t.Helper()
	uboot := "/usr/lib/u-boot/qemu_arm64/u-boot.bin"
	if _, err := os.Stat(uboot); err != nil {
		Skip(t, "%s is missing: install u-boot-qemu", uboot)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	// KVM may be there and not work.
	cmd := exec.CommandContext(ctx, Need(t, "qemu-system-aarch64"), append([]string{"-accel", "tcg", "-M", "virt", "-cpu", "cortex-a53",
		"-smp", fmt.Sprint(min(2, runtime.NumCPU())), "-m", "1024", "-nographic", "-no-reboot", "-nic", "none", "-bios", uboot}, args...)...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var faults bytes.Buffer
	cmd.Stderr = &faults
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	var log bytes.Buffer
	begin := time.Now()
	unseen := 0
	for buf := make([]byte, 4096); ; {
		n, err := out.Read(buf)
		log.Write(buf[:n])
		for len(send) > 0 && bytes.Contains(log.Bytes()[unseen:], []byte(send[0][0])) {
			io.WriteString(in, send[0][1])
			unseen = log.Len()
			send = send[1:]
		}
		if len(send) == 0 && regexp.MustCompile(ready).Match(log.Bytes()) {
			t.Logf("ready after %s", time.Since(begin).Round(100*time.Millisecond))
			return log.String()
		}
		if err != nil {
			cmd.Wait()
			t.Fatalf("%v before %q was seen:\n%s%s", err, ready, log.String(), faults.String())
		}
	}
}
