// Package vm runs emulated arm64 machines: QEMU's board virt, with Debian's U-Boot
// for it and the disks it is given. Such a machine has no eMMC, so a board's disk is
// a virtio one.
package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"
)

const (
	program = "qemu-system-aarch64"
	uboot   = "/usr/lib/u-boot/qemu_arm64/u-boot.bin"
)

// EnvSize is the flash that U-Boot has its environment in, in bytes: the second of
// the board virt.
const EnvSize = 64 << 20

// Machine is what is emulated.
type Machine struct {
	Disks   []Disk
	Env     string    // file of EnvSize with U-Boot's environment; "" is the default one
	Forward []Forward // through eth0; with none in both and no Network there is no network
	LAN     []Forward // through eth1, to GatewayOfLAN
	Network bool      // the machine reaches other computers, and this one at 10.0.2.2; else only answers what is forwarded
	Once    bool      // it ends where it would restart
}

// Disk is one of a machine. Those of one bus keep their order.
type Disk struct {
	Path string
	File *os.File // in place of Path
	Bus  string   // virtio, nvme or usb
	Keep bool     // what is written stays; else it goes to a file of QEMU's in TMPDIR, or to a File that is not needed any more
}

// GatewayOfLAN is the address that AtomixOS has on eth1 if it is not told another.
const GatewayOfLAN = "172.20.30.1"

// Forward is a port of 127.0.0.1 that leads to one of the machine.
type Forward struct{ Host, Guest uint16 }

// MissingError names what emulation needs and this computer lacks.
type MissingError struct{ What, Packages []string }

func (e *MissingError) Error() string {
	return fmt.Sprintf("%s is missing: install %s", strings.Join(e.What, " and "), strings.Join(e.Packages, " and "))
}

// Check looks whether this computer has what emulation needs.
func Check() error {
	var e MissingError
	if _, err := exec.LookPath(program); err != nil {
		e.What, e.Packages = append(e.What, program), append(e.Packages, "qemu-system-arm")
	}
	if _, err := os.Stat(uboot); err != nil {
		e.What, e.Packages = append(e.What, uboot), append(e.Packages, "u-boot-qemu")
	}
	if e.What != nil {
		return &e
	}
	return nil
}

// Running is a machine that was started.
type Running struct {
	Keyboard io.Writer // of its console

	console *os.File
	pending []byte // read and copied, and not looked at
	cmd     *exec.Cmd
	wait    func() error // may be called by several, also at once
	faults  bytes.Buffer
}

// Start starts a machine, which ends with ctx at the latest.
func (m *Machine) Start(ctx context.Context) (*Running, error) {
	if err := Check(); err != nil {
		return nil, err
	}
	// KVM may be there and not work.
	args := []string{"-accel", "tcg", "-M", "virt", "-cpu", "cortex-a53", "-smp", fmt.Sprint(min(2, runtime.NumCPU())), "-m", "1024",
		"-nographic", "-bios", uboot}
	if m.Once {
		args = append(args, "-no-reboot")
	}
	if m.Env != "" {
		args = append(args, "-drive", "if=pflash,unit=1,format=raw,file="+escape(m.Env))
	}
	var files []*os.File
	usb := false
	for i, d := range m.Disks {
		options := fmt.Sprintf("if=none,id=disk%d,format=raw,discard=unmap,file=", i)
		if d.File != nil {
			set := 3 + len(files)
			files = append(files, d.File)
			args = append(args, "-add-fd", fmt.Sprintf("fd=%d,set=%d", set, set))
			options += fmt.Sprintf("/dev/fdset/%d,auto-read-only=off", set)
			if !d.Keep {
				options += ",cache=unsafe"
			}
		} else if options += escape(d.Path); !d.Keep {
			options += ",snapshot=on"
		}
		device := map[string]string{"virtio": "virtio-blk-pci", "nvme": "nvme,serial=nvme", "usb": "usb-storage,removable=on"}[d.Bus]
		if d.Bus == "usb" && !usb {
			usb = true
			args = append(args, "-device", "qemu-xhci")
		}
		args = append(args, "-drive", options, "-device", fmt.Sprintf("%s,drive=disk%d", device, i))
	}
	args = append(args, m.network()...)
	if canSandbox(ctx) {
		args = append(args, "-sandbox", sandbox)
	}
	r := &Running{cmd: exec.CommandContext(ctx, program, args...)}
	r.cmd.Stderr, r.cmd.ExtraFiles, r.cmd.WaitDelay = &r.faults, files, time.Second
	withParent(r.cmd)
	keyboard, err := r.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	console, stdout, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer stdout.Close()
	r.Keyboard, r.console, r.cmd.Stdout = keyboard, console, stdout
	if err := r.cmd.Start(); err != nil {
		console.Close()
		return nil, err
	}
	r.wait = sync.OnceValue(r.cmd.Wait)
	return r, nil
}

// sandbox forbids QEMU system calls that a machine does not need.
const sandbox = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

// canSandbox says whether QEMU was built with the sandbox, and the kernel allows it.
func canSandbox(ctx context.Context) bool {
	return exec.CommandContext(ctx, program, "-sandbox", sandbox, "-machine", "help").Run() == nil
}

// network is the options of the two network cards. A restricted card gives the machine
// an address and lets connections in through the forwarded ports; QEMU drops all else
// that the machine sends, also to the services of this computer's 127.0.0.1, which it
// would find at the address of its gateway.
func (m *Machine) network() []string {
	if len(m.Forward)+len(m.LAN) == 0 && !m.Network {
		return []string{"-nic", "none"}
	}
	card := "user,model=virtio-net-pci,restrict=on"
	if m.Network {
		card = "user,model=virtio-net-pci"
	}
	return []string{"-nic", card + forwards(m.Forward, ""),
		"-nic", card + ",net=" + GatewayOfLAN + "/24,host=172.20.30.2,dns=172.20.30.3" + forwards(m.LAN, GatewayOfLAN)}
}

func forwards(all []Forward, to string) (options string) {
	for _, f := range all {
		options += fmt.Sprintf(",hostfwd=tcp:127.0.0.1:%d-%s:%d", f.Host, to, f.Guest)
	}
	return options
}

// escape is a path as QEMU reads it in a list of options.
func escape(path string) string {
	// A path with a colon could be taken for a protocol.
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	return strings.ReplaceAll(path, ",", ",,")
}

// Reply is typed when a text is seen on the console.
type Reply struct{ Seen, Type string }

// Watch copies the console to out, and types replies, each when its text comes after
// that of the one before. It ends with the first line for which done, which may be
// nil, is true, and all replies typed: that line is returned. Otherwise it ends with
// the machine, with io.EOF or what QEMU complains about. A line that goes on no more is
// seen without its end, as that of a prompt is.
func (r *Running) Watch(out io.Writer, done func(line string) bool, replies ...Reply) (line string, err error) {
	w := &watcher{done: done, replies: replies, keyboard: r.Keyboard}
	for buf := make([]byte, 4096); ; {
		rest, ended := w.see(r.pending)
		r.pending = rest
		if ended {
			return w.text(), nil
		}
		r.console.SetReadDeadline(time.Time{})
		if w.found() {
			r.console.SetReadDeadline(time.Now().Add(pause))
		}
		n, err := r.console.Read(buf)
		r.pending = buf[:n]
		if _, werr := out.Write(buf[:n]); werr != nil {
			return "", werr
		}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return w.text(), nil
		case n == 0 && err != nil:
			return "", r.end()
		}
	}
}

// pause is how long nothing comes after a line that waits for somebody.
const pause = 200 * time.Millisecond

// Kill ends the machine as if its power were cut.
func (r *Running) Kill() {
	r.cmd.Process.Kill()
	r.wait()
	r.console.Close()
}

// end waits for the machine to end. What QEMU complains about is its error.
func (r *Running) end() error {
	err := r.wait()
	r.console.Close()
	if err == nil {
		return io.EOF
	}
	if text := strings.TrimSpace(r.faults.String()); text != "" {
		return errors.New(strings.ReplaceAll(text, "\n", "; "))
	}
	return fmt.Errorf("%s: %w", program, err)
}

// watcher reads a console.
type watcher struct {
	done     func(string) bool
	replies  []Reply
	keyboard io.Writer

	line   []byte // the last
	ended  bool   // it has its end
	unread []byte // since the last reply
}

// maxLine bounds what is kept of a line, and of what no reply came to.
const maxLine = 1 << 16

// text is the line that was seen.
func (w *watcher) text() string { return strings.TrimSuffix(string(w.line), "\r") }

// found says whether the line, as far as it is there, is what is waited for.
func (w *watcher) found() bool {
	return len(w.replies) == 0 && w.done != nil && w.done(w.text())
}

// see reads on to the end of a line that is waited for. rest comes after it.
func (w *watcher) see(text []byte) (rest []byte, ended bool) {
	for len(text) > 0 {
		if w.ended {
			w.line, w.ended = w.line[:0], false
		}
		var part []byte
		part, text, w.ended = bytes.Cut(text, []byte("\n"))
		w.line = append(w.line, part...)
		w.unread = append(w.unread, part...)
		for len(w.replies) > 0 {
			_, after, seen := bytes.Cut(w.unread, []byte(w.replies[0].Seen))
			if !seen {
				break
			}
			io.WriteString(w.keyboard, w.replies[0].Type)
			w.replies, w.unread = w.replies[1:], after
		}
		if w.ended {
			if w.found() {
				return text, true
			}
			w.unread = append(w.unread, '\n')
		}
		if len(w.line) > maxLine {
			w.line = w.line[:0]
		}
		if n := len(w.unread) - maxLine; n > 0 {
			w.unread = w.unread[n:]
		}
	}
	return nil, false
}
