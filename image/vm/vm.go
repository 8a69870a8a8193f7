// Package vm runs emulated arm64 machines: QEMU's board virt with Debian's U-Boot. The board
// has no eMMC, so the disk of a board is a virtio disk.
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
	"regexp"
	"runtime"
	"strings"
	"sync"
	"time"

	"imgtool/image/fault"
)

const (
	program = "qemu-system-aarch64"
	uboot   = "/usr/lib/u-boot/qemu_arm64/u-boot.bin"
)

// EnvSize is the size of the flash with U-Boot's environment, in bytes: the second flash of
// the board virt.
const EnvSize = 64 << 20

// Machine is the configuration of a machine.
type Machine struct {
	Disks   []Disk
	Env     string    // file of EnvSize with U-Boot's environment; empty: the default environment
	Forward []Forward // through eth0; without any and without Network the machine has no network cards
	LAN     []Forward // through eth1, to GatewayOfLAN
	Network bool      // the machine can connect to other computers, and to this one at 10.0.2.2
	Once    bool      // end instead of restarting
}

// Disk is a disk of a machine. The disks of a bus keep their order.
type Disk struct {
	Path string
	File *os.File // instead of Path
	Bus  string   // virtio, nvme or usb
	Keep bool     // keep what is written; otherwise it goes to a file of QEMU's in TMPDIR, or to a temporary File
}

// GatewayOfLAN is the default address of AtomixOS on eth1.
const GatewayOfLAN = "172.20.30.1"

// Forward forwards a port of 127.0.0.1 to a port of the machine.
type Forward struct{ Host, Guest uint16 }

// Check returns an error if this computer lacks a program or file for the emulation.
func Check() error {
	var missing, packages []string
	if _, err := exec.LookPath(program); err != nil {
		missing, packages = append(missing, program), append(packages, "qemu-system-arm")
	}
	if _, err := os.Stat(uboot); err != nil {
		missing, packages = append(missing, uboot), append(packages, "u-boot-qemu")
	}
	if missing != nil {
		return fmt.Errorf("%s is missing: install %s", strings.Join(missing, " and "), strings.Join(packages, " and "))
	}
	return nil
}

// Running is a running machine.
type Running struct {
	Keyboard io.Writer // of its console

	console *os.File
	pending []byte // read and copied, but not searched yet
	cmd     *exec.Cmd
	wait    func() error // may be called several times, also concurrently
	faults  bytes.Buffer
}

// Start starts a machine. It ends when ctx is done.
func (m *Machine) Start(ctx context.Context) (*Running, error) {
	if err := Check(); err != nil {
		return nil, err
	}
	// Not KVM: it may be present without working.
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

// canSandbox reports whether QEMU and the kernel support the sandbox.
func canSandbox(ctx context.Context) bool {
	return exec.CommandContext(ctx, program, "-sandbox", sandbox, "-machine", "help").Run() == nil
}

// network returns the options of the two network cards. On a restricted card the machine gets
// an address, and accepts connections through forwarded ports. QEMU drops other packets of the
// machine, also those to its gateway, which stands for 127.0.0.1 of this computer.
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

// escape returns a path for a list of QEMU's options.
func escape(path string) string {
	// A path with a colon could be taken for a protocol.
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	return strings.ReplaceAll(path, ",", ",,")
}

// Reply is text to type when another text appears on the console.
type Reply struct{ Seen, Type string }

// Watch copies the console to out, and types the replies in their order. It returns the first
// line after all replies for which done, which may be nil, is true. If the machine ends before
// that, the error is [io.EOF] or what QEMU printed. A line without an end, such as a prompt, is
// passed to done after a pause.
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

// pause is the time without output after which a line without an end counts as a prompt.
const pause = 200 * time.Millisecond

// Kill ends the machine as if its power were cut.
func (r *Running) Kill() {
	r.cmd.Process.Kill()
	r.wait()
	r.console.Close()
}

// end waits for the machine to end. The error has what QEMU printed.
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

type watcher struct {
	done     func(string) bool
	replies  []Reply
	keyboard io.Writer

	line   []byte // the last line
	ended  bool   // the line is complete
	unread []byte // since the last reply
}

// maxLine bounds the length of a line, and of the output since the last reply.
const maxLine = 1 << 16

// text returns the last line.
func (w *watcher) text() string { return strings.TrimSuffix(string(w.line), "\r") }

// found reports whether the line, complete or not, is the wanted one.
func (w *watcher) found() bool {
	return len(w.replies) == 0 && w.done != nil && w.done(w.text())
}

// see searches text up to the end of the wanted line. rest follows that line.
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

// RunUntil runs the machine until a line of its console matches, and returns the line. If
// until is nil, it runs until the machine powers off. The console is written to out.
func (m *Machine) RunUntil(ctx context.Context, until *regexp.Regexp, timeout time.Duration, out io.Writer, replies ...Reply) (line string, err error) {
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	late := fault.New(fault.Gone, "the machine did not power off in %s", timeout)
	var done func(string) bool
	if until != nil {
		late = fault.New(fault.Gone, "no line matched %q in %s", until, timeout)
		done = until.MatchString
	}
	r, err := m.Start(limited)
	if err == nil {
		line, err = r.Watch(out, done, replies...)
		if err == nil {
			r.Kill()
		}
	}
	switch {
	case err == nil:
		return line, nil
	case ctx.Err() != nil:
		return "", err
	case limited.Err() != nil:
		return "", late
	case err == io.EOF && until != nil:
		return "", fault.New(fault.Gone, "the machine ended, and no line matched %q", until)
	case err == io.EOF && r != nil:
		return "", nil
	}
	return "", err
}
