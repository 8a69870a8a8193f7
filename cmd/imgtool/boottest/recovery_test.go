package boottest

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/cavaliergopher/cpio"

	"imgtool/image/imagetest"
	"imgtool/image/source"
	"imgtool/image/tree"
	"imgtool/image/xz"
)

// A virtual machine is both the user's computer and the board at its USB cable:
// the kernel's gadget driver simulates U-Boot's USB mass storage, and dummy_hcd the
// cable. The flashed disk then boots on an emulated arm64 machine.
func TestARock64InRecoveryModeIsFoundAndFlashed(t *testing.T) {
	t.Parallel()
	needVM(t)
	dir := t.TempDir()
	vm := newMachine(t, dir, "testdata/gadget/init.sh", "virtio_pci", "virtio_blk", "xhci_pci", "usb_storage", "sd_mod", "dummy_hcd", "usb_f_mass_storage")
	x := filepath.Join(dir, "x.img.zst")
	imgtool(t, "build", "--board", "rock64", "--build-id", "recovery-1", "-o", x)
	vm.put("x.img.zst", 0o644, imagetest.Read(t, x))
	// The board has an older image that boots.
	emmc := sparseFile(t, filepath.Join(dir, "emmc"), 2500<<20)
	imgtool(t, "flash", "--yes", "--image", starter(t, "boot-1"), emmc)
	stick := innocentStick(t, filepath.Join(dir, "stick"))
	before := hashFile(t, stick)

	log := vm.run("-drive", "if=none,id=emmc,format=raw,cache=unsafe,file="+emmc, "-device", "virtio-blk-pci,drive=emmc",
		"-drive", "if=none,id=stick,format=raw,file="+stick, "-device", "qemu-xhci", "-device", "usb-storage,drive=stick,removable=on")
	for _, want := range []string{
		`(?m)^table before: there$`,
		`(?m)^found 2\.4 GiB Linux UMS disk 0 at /dev/sdb \(usb, serial rock64-0001, port 3-1\)`,
		`(?m)^imgtool: /dev/sdb: the disk is gone`,
		`(?m)^imgtool: the content of /dev/sdb is not known, because it could not be read back; flash it again$`,
		fmt.Sprintf(`(?m)^status pulled %d `, 9),
		`(?m)^table pulled: none$`,
		fmt.Sprintf(`(?m)^status ejected %d `, 9),
		`(?m)^table ejected: none$`,
		`(?m)^/dev/sda .* QEMU HARDDISK `,
		`(?m)^/dev/sdb .* Linux UMS disk 0 `,
		`(?m)^status disks 0 `,
		`(?m)^status flashed 0 `,
		`(?m)^table flashed: there$`,
	} {
		if !regexp.MustCompile(want).MatchString(log) {
			t.Errorf("the machine did not print %s", want)
		}
	}
	if hashFile(t, stick) != before {
		t.Error("the stick beside the board was changed")
	}
	if t.Failed() {
		t.Fatalf("the machine printed:\n%s", log)
	}
	t.Log(log)
	imgtool(t, "verify", "--image", x, emmc)
	boot(t, emmc, `imgtool starter ready: slot a, build recovery-1, root overlay`)
}

// innocentStick makes a USB stick of 4 GiB with some data.
func innocentStick(t *testing.T, path string) string {
	t.Helper()
	sparseFile(t, path, 4<<30)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	noise := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{1}).Read(noise)
	for _, at := range []int64{0, 16 << 20, 1 << 30, 4<<30 - 1<<20} {
		if _, err := f.WriteAt(noise, at); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// machine is a virtual amd64 machine with Debian's kernel that runs a script from its
// initrd.
type machine struct {
	t      *testing.T
	dir    string
	qemu   string
	initrd bytes.Buffer
	w      *cpio.Writer
}

// newMachine writes the kernel to dir, and adds imgtool and the files that the script needs to
// the initrd.
func newMachine(t *testing.T, dir, script string, modules ...string) *machine {
	t.Helper()
	m := &machine{t: t, dir: dir, qemu: imagetest.Need(t, "qemu-system-x86_64")}
	m.w = cpio.NewWriter(&m.initrd)
	for _, d := range []string{"bin", "dev", "modules"} {
		m.put(d, cpio.TypeDir|0o755, nil)
	}

	program := filepath.Join(dir, "imgtool")
	build := exec.Command(imagetest.Need(t, "go"), "build", "-buildvcs=false", "-o", program, "imgtool/cmd/imgtool")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building imgtool: %v\n%s", err, out)
	}
	m.put("bin/imgtool", 0o755, imagetest.Read(t, program))
	m.put("init", 0o755, imagetest.Read(t, script))

	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	debs := source.NewOpener(source.Options{Arch: "amd64", CacheDir: filepath.Join(cache, "imgtool")})
	t.Cleanup(func() { debs.Close() })
	deb := func(name string) *tree.Tree {
		t.Helper()
		p, err := debs.Package(t.Context(), name)
		if none := (*source.NoAptError)(nil); errors.As(err, &none) {
			imagetest.Skip(t, "%v", err)
		}
		if err != nil {
			t.Fatal(err)
		}
		return p.Tree
	}
	busybox, err := deb("busybox-static").Open("bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	m.put("bin/busybox", 0o755, content(t, busybox))
	// Debian's cloud kernel supports neither USB disks nor gadgets.
	kernel := deb("linux-image-amd64")
	for p, n := range kernel.All() {
		if strings.HasPrefix(p, "boot/vmlinuz-") {
			m.putKernel(content(t, n))
		}
	}
	m.putModules(kernel, modules...)
	return m
}

func content(t *testing.T, n *tree.Inode) []byte {
	t.Helper()
	data, err := io.ReadAll(io.NewSectionReader(n.Content, 0, n.Size()))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func (m *machine) put(name string, mode cpio.FileMode, data []byte) {
	m.t.Helper()
	err := m.w.WriteHeader(&cpio.Header{Name: name, Mode: mode, Size: int64(len(data)), Links: 1})
	if err == nil {
		_, err = m.w.Write(data)
	}
	if err != nil {
		m.t.Fatal(err)
	}
}

// putKernel extracts the ELF kernel from a bzImage, because unpacking it in the emulator
// would take longer than the rest of the boot. The header gives its offset (Linux,
// Documentation/arch/x86/boot.rst).
func (m *machine) putKernel(b []byte) {
	m.t.Helper()
	le := binary.LittleEndian
	if len(b) < 0x250 || string(b[0x202:0x206]) != "HdrS" {
		m.t.Fatal("the kernel is not a bzImage")
	}
	off := (int(b[0x1f1])+1)*512 + int(le.Uint32(b[0x248:]))
	payload := b[off : off+int(le.Uint32(b[0x24c:]))]
	if !bytes.HasPrefix(payload, []byte("\xfd7zXZ")) {
		m.t.Fatalf("the kernel is not compressed with xz: it starts with % x", payload[:6])
	}
	// The size of the kernel follows the xz stream.
	cmd := exec.Command(imagetest.Need(m.t, "xz"), "--decompress", "--stdout", "--single-stream")
	cmd.Stdin = bytes.NewReader(payload)
	vmlinux, err := cmd.Output()
	if err == nil {
		err = os.WriteFile(filepath.Join(m.dir, "vmlinux"), vmlinux, 0o644)
	}
	if err != nil {
		m.t.Fatalf("unpacking the kernel: %v", err)
	}
}

// putModules adds modules and their dependencies to the initrd, and a list of
// them in load order. Missing modules are assumed to be built in.
func (m *machine) putModules(kernel *tree.Tree, names ...string) {
	m.t.Helper()
	files := map[string]*tree.Inode{}
	packed := map[string]bool{}
	for p, n := range kernel.All() {
		if name, ext, ok := strings.Cut(path.Base(p), ".ko"); ok && n.Type() == tree.Regular {
			name = strings.ReplaceAll(name, "-", "_")
			files[name], packed[name] = n, ext == ".xz"
		}
	}
	var list bytes.Buffer
	var add func(name string)
	add = func(name string) {
		name = strings.ReplaceAll(name, "-", "_")
		n := files[name]
		if n == nil {
			return
		}
		delete(files, name)
		data := content(m.t, n)
		if packed[name] {
			r, err := xz.NewReader(bytes.NewReader(data), xz.MaxDict)
			if err == nil {
				data, err = io.ReadAll(r)
			}
			if err != nil {
				m.t.Fatalf("module %s: %v", name, err)
			}
		}
		f, err := elf.NewFile(bytes.NewReader(data))
		if err != nil {
			m.t.Fatalf("module %s: %v", name, err)
		}
		info, err := f.Section(".modinfo").Data()
		if err != nil {
			m.t.Fatalf("module %s: %v", name, err)
		}
		for field := range strings.SplitSeq(string(info), "\x00") {
			if needs, ok := strings.CutPrefix(field, "depends="); ok && needs != "" {
				for need := range strings.SplitSeq(needs, ",") {
					add(need)
				}
			}
		}
		m.put("modules/"+name, 0o644, data)
		fmt.Fprintf(&list, "/modules/%s\n", name)
	}
	for _, name := range names {
		add(name)
	}
	m.put("modules.order", 0o644, list.Bytes())
}

// run runs the machine until it powers off, and returns the text of its console.
func (m *machine) run(args ...string) string {
	m.t.Helper()
	if err := m.w.Close(); err != nil {
		m.t.Fatal(err)
	}
	initrd := filepath.Join(m.dir, "initrd")
	if err := os.WriteFile(initrd, m.initrd.Bytes(), 0o644); err != nil {
		m.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(m.t.Context(), 15*time.Minute)
	defer cancel()
	// KVM may be present but not work. Kernel messages would interrupt the script's lines.
	cmd := exec.CommandContext(ctx, m.qemu, append([]string{"-accel", "tcg", "-cpu", "max", "-M", "q35", "-smp", "1", "-m", "768",
		"-nographic", "-no-reboot", "-nic", "none", "-kernel", filepath.Join(m.dir, "vmlinux"), "-initrd", initrd,
		"-append", "console=ttyS0 loglevel=1 panic=-1 mitigations=off"}, args...)...)
	begin := time.Now()
	out, err := cmd.CombinedOutput()
	log := strings.ReplaceAll(string(out), "\r", "")
	// The firmware clears the screen.
	if _, after, ok := strings.Cut(log, "Booting from ROM.."); ok {
		log = "\n" + after
	}
	if err != nil || !strings.Contains(log, "\ndone ") {
		m.t.Fatalf("the machine did not finish (%v):\n%s", err, log)
	}
	m.t.Logf("off after %s", time.Since(begin).Round(100*time.Millisecond))
	return log
}
