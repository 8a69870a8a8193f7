package boottest

import (
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"imgtool/image/imagetest"
)

// desktop is an emulated PC with Debian 12, D-Bus, logind, polkit and UDisks2, and imgtool from
// its package. See testdata/desktop.
type desktop struct {
	t           *testing.T
	root        *console
	ssh         *console // of the user pi, in a session without a seat, as over SSH
	card, fixed string   // files of the disks /dev/sda, on USB, and of the one with the serial number FIXED
}

const (
	cardSize  = 300 << 20
	fixedSize = 200 << 20
)

// newDesktop starts a machine with files in /home/pi.
func newDesktop(t *testing.T, files ...string) *desktop {
	t.Helper()
	imagetest.NeedRoot(t)
	if runtime.GOARCH != "amd64" {
		imagetest.Skip(t, "the machine runs this computer's imgtool, and is a PC")
	}
	for _, program := range []string{"qemu-system-x86_64", "mmdebstrap", "cpio", "busybox", "mke2fs", "dpkg-deb"} {
		imagetest.Need(t, program)
	}
	dir := t.TempDir()
	begin := time.Now()
	deb := filepath.Join(dir, "imgtool.deb")
	imagetest.Run(t, "../../../packaging/deb", deb, filepath.Join(scratch, "imgtool"))
	imagetest.Run(t, "testdata/desktop", append([]string{dir, deb}, files...)...)
	t.Logf("made the machine in %s", time.Since(begin).Round(time.Second))
	d := &desktop{t: t, card: sparseFile(t, filepath.Join(dir, "card"), cardSize), fixed: sparseFile(t, filepath.Join(dir, "fixed"), fixedSize)}
	d.start(dir)
	return d
}

// start starts the machine, and waits until pi and root are logged in.
func (d *desktop) start(dir string) {
	d.t.Helper()
	at := func(name string) string { return filepath.Join(dir, name) }
	// Not KVM: it may be present without working.
	args := []string{"-accel", "tcg,thread=multi", "-m", "1024", "-smp", "2", "-nodefaults", "-vga", "std", "-display", "none", "-no-reboot",
		"-kernel", at("vmlinuz"), "-initrd", at("initrd"), "-append", "console=ttyS2 mitigations=off", "-device", "qemu-xhci",
		"-chardev", "null,id=adapter", "-device", "usb-serial,always-plugged=on,chardev=adapter",
		"-serial", "unix:" + at("pi") + ",server=on,wait=off", "-serial", "unix:" + at("root") + ",server=on,wait=off", "-serial", "file:" + at("log")}
	for _, disk := range []struct{ name, file, device string }{
		{"root", at("root.img"), "virtio-blk-pci,serial=ROOT"},
		{"fixed", d.fixed, "virtio-blk-pci,serial=FIXED"},
		{"card", d.card, "usb-storage,removable=on,serial=CARD"},
	} {
		args = append(args, "-drive", fmt.Sprintf("if=none,id=%s,format=raw,file=%s", disk.name, disk.file), "-device", disk.device+",drive="+disk.name)
	}
	qemu := exec.Command("qemu-system-x86_64", args...)
	if err := qemu.Start(); err != nil {
		d.t.Fatal(err)
	}
	t := d.t
	t.Cleanup(func() {
		qemu.Process.Kill()
		qemu.Wait()
		if t.Failed() {
			log := imagetest.Read(t, at("log"))
			t.Logf("the machine's console ends with\n%s", log[max(0, len(log)-500):])
		}
	})
	begin := time.Now()
	d.root, d.ssh = dial(d.t, at("root")), dial(d.t, at("pi"))
	for _, c := range []*console{d.root, d.ssh} {
		c.until("Last login|permitted by applicable law", 15*time.Minute)
	}
	d.root.want(0, "seat0 tty1", "export SYSTEMD_PAGER=cat; until [ -b /dev/sda ] && loginctl list-sessions | grep seat0; do sleep 0.2; done")
	d.t.Logf("booted after %s", time.Since(begin).Round(time.Second))
}

// use makes t report the faults.
func (d *desktop) use(t *testing.T) { d.t, d.root.t, d.ssh.t = t, t, t }

// desk runs a command of the user pi on tty1, in an active session of seat0.
func (d *desktop) desk(command string) (output string, status int) {
	d.t.Helper()
	output, _ = d.root.run("tty1 '" + strings.ReplaceAll(command, "'", `'\''`) + "'")
	text, end, _ := strings.Cut(output, "[exit status ")
	status, err := strconv.Atoi(strings.TrimRight(end, "]\n"))
	if err != nil {
		d.t.Fatalf("%s: no exit status in %q", command, output)
	}
	return text, status
}

// wantDesk is like console.want for desk.
func (d *desktop) wantDesk(status int, text, command string) string {
	d.t.Helper()
	out, got := d.desk(command)
	check(d.t, "at the desk", command, out, got, status, text)
	return out
}

// console is a serial line with a shell.
type console struct {
	t    *testing.T
	name string
	conn net.Conn
	seen string
}

func dial(t *testing.T, socket string) *console {
	t.Helper()
	for range 2000 {
		if conn, err := net.Dial("unix", socket); err == nil {
			t.Cleanup(func() { conn.Close() })
			return &console{t: t, name: filepath.Base(socket), conn: conn}
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("QEMU does not listen on %s", socket)
	return nil
}

// until returns the text up to and including a match, and forgets it.
func (c *console) until(pattern string, limit time.Duration) string {
	c.t.Helper()
	match := regexp.MustCompile(pattern)
	c.conn.SetReadDeadline(time.Now().Add(limit))
	for buf := make([]byte, 4096); ; {
		if at := match.FindStringIndex(c.seen); at != nil {
			text := c.seen[:at[1]]
			c.seen = c.seen[at[1]:]
			return text
		}
		n, err := c.conn.Read(buf)
		if err != nil {
			c.t.Fatalf("%s: %v before %q was seen, after\n%s", c.name, err, pattern, c.seen)
		}
		c.seen += strings.ReplaceAll(string(buf[:n]), "\r", "")
	}
}

func (c *console) send(text string) {
	c.t.Helper()
	if _, err := c.conn.Write([]byte(text)); err != nil {
		c.t.Fatal(err)
	}
}

// run runs a command.
func (c *console) run(command string) (output string, status int) {
	c.t.Helper()
	c.send("echo be''gin; " + command + "; echo \"<end \"\"$?>\"\n")
	c.until(`begin\n`, 5*time.Minute)
	text := c.until(`<end \d+>\n`, 10*time.Minute)
	at := strings.LastIndex(text, "<end ")
	status, _ = strconv.Atoi(strings.TrimRight(text[at+len("<end "):], ">\n"))
	return text[:at], status
}

// want runs a command and checks its exit status and that its output contains a text.
func (c *console) want(status int, text, command string) string {
	c.t.Helper()
	out, got := c.run(command)
	check(c.t, "as "+c.name, command, out, got, status, text)
	return out
}

func check(t *testing.T, who, command, out string, got, status int, text string) {
	t.Helper()
	if got != status || !regexp.MustCompile(text).MatchString(out) {
		t.Errorf("%s, %s\nends with %d, want %d and %q:\n%s", who, command, got, status, text, out)
	}
}
