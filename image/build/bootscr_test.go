package build_test

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"imgtool/image/build"
	"imgtool/image/imagetest"
	"imgtool/image/uboot"
)

// bootScript is the text of boot.scr of a Rock64 image.
func bootScript(t *testing.T, slotSelect string) string {
	t.Helper()
	e := find(t, made(t, func(o *build.Options) {
		board := *o.Board
		board.Script.SlotSelect = slotSelect
		o.Board = &board
	}).Image, "boot-a/boot.scr")
	b := make([]byte, e.Size())
	if _, err := e.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	text, err := uboot.ParseScript(b)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// machine is a Rock64 that runs boot.scr: bash with U-Boot's commands, and the disk that
// they write to.
type machine struct {
	t        *testing.T
	dir      string
	text     string // of boot.scr
	commands string // U-Boot commands that Debian's build lacks
}

// newMachine has the files of the named slots, A or AB.
func newMachine(t *testing.T, text, slots string) *machine {
	t.Helper()
	for _, tool := range []string{"bash", "mkenvimage", "fw_printenv", "fw_setenv"} {
		imagetest.Need(t, tool)
	}
	m := &machine{t: t, dir: t.TempDir(), text: text}
	for _, slot := range slots {
		for _, file := range []string{"Image", "initrd", "dtbs/rockchip/rk3328-rock64.dtb", "boot.scr"} {
			m.write(fmt.Sprintf("part/%d/%s", 1+2*(slot-'A'), file), text)
		}
	}
	m.write("disk.img", "")
	if err := os.Truncate(m.path("disk.img"), 16<<20); err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *machine) path(name string) string { return filepath.Join(m.dir, name) }

func (m *machine) write(name, text string) {
	m.t.Helper()
	if err := os.MkdirAll(filepath.Dir(m.path(name)), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(m.path(name), []byte(text), 0o755); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) remove(name string) {
	m.t.Helper()
	if err := os.Remove(m.path(name)); err != nil {
		m.t.Fatal(err)
	}
}

// source runs boot.scr of the slot in distro_bootpart with the variables that U-Boot has,
// and returns the console's text. Its last line is BOOT and the kernel's arguments, RESET
// or PROMPT.
func (m *machine) source(vars map[string]string) string {
	m.t.Helper()
	prelude, err := os.ReadFile("testdata/uboot.bash")
	if err != nil {
		m.t.Fatal(err)
	}
	var all strings.Builder
	all.Write(prelude)
	all.WriteString(m.commands)
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		fmt.Fprintf(&all, "setenv %s '%s'\n", name, vars[name])
	}
	fmt.Fprintf(&all, "\n. ./part/${distro_bootpart:-1}/boot.scr\necho PROMPT\n")
	cmd := exec.Command("bash", "-c", all.String())
	cmd.Dir = m.dir
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		m.t.Fatalf("%v:\n%s%s", err, out, errs.String())
	}
	for line := range strings.Lines(errs.String()) {
		if !strings.Contains(line, ": command not found") {
			m.t.Fatalf("bash says %s", line)
		}
	}
	return string(out)
}

// trace returns the writes since the last call.
func (m *machine) trace() string {
	text, _ := os.ReadFile(m.path("trace"))
	os.Remove(m.path("trace"))
	return strings.ReplaceAll(strings.TrimSpace(string(text)), "\n", ", ")
}

// set sets variables in the sector of the script, by Debian's tool.
func (m *machine) set(vars ...string) {
	m.t.Helper()
	m.write("tries.config", m.path("disk.img")+" 0x3F0000 0x200\n")
	m.write("initial", "BOOT_ORDER=A B\n")
	for i := 0; i < len(vars); i += 2 {
		imagetest.Run(m.t, "fw_setenv", "-c", m.path("tries.config"), "-f", m.path("initial"), vars[i], vars[i+1])
	}
}

func (m *machine) sector() string { return readSector(m.t, m.path("disk.img")) }

func readSector(t *testing.T, disk string) string {
	t.Helper()
	f, err := os.Open(disk)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 512)
	if _, err := f.ReadAt(b, 0x3f0000); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

var bootLine = regexp.MustCompile(`(?m)^BOOT .* atomixos\.lowerdev=/dev/mmcblk1p([24]) .* rauc\.slot=boot\.([01])$`)

// debian boots as Debian's U-Boot does, from the first boot partition that has a boot.scr,
// again after each reset, and returns the slot that runs, or what else happened.
func (m *machine) debian() (slot, log string) {
	m.t.Helper()
	part := "1"
	if _, err := os.Stat(m.path("part/1/boot.scr")); err != nil {
		part = "3"
	}
	for range 20 {
		out := m.source(map[string]string{"devtype": "mmc", "devnum": "0", "distro_bootpart": part})
		log += out
		if !strings.HasSuffix(out, "RESET\n") {
			return running(m.t, out), log
		}
	}
	m.t.Fatalf("it resets for ever:\n%s", log)
	return "", ""
}

// running returns the slot at the end of the console's text.
func running(t *testing.T, log string) string {
	t.Helper()
	if strings.HasSuffix(log, "PROMPT\n") {
		return "prompt"
	}
	switch at := bootLine.FindStringSubmatch(log); {
	case at == nil:
		t.Fatalf("nothing boots:\n%s", log)
	case at[1]+at[2] == "20":
		return "A"
	case at[1]+at[2] == "41":
		return "B"
	default:
		t.Fatalf("a slot boots with the root of the other:\n%s", log)
	}
	return ""
}

// Each slot has its own root file system, however the slot is chosen.
func TestBootScriptRootOfEachSlot(t *testing.T) {
	for _, by := range []string{"bootmeth", "script"} {
		m := newMachine(t, bootScript(t, by), "AB")
		for part, want := range map[string]string{"1": "p2 atomixos.lowerfstype=squashfs init=/sbin/init rauc.slot=boot.0", "3": "p4 atomixos.lowerfstype=squashfs init=/sbin/init rauc.slot=boot.1"} {
			for board, disk := range map[string]string{"rock64": "/dev/mmcblk1", "qemu-arm": "/dev/mmcblk0"} {
				// Variables that a failed boot of the other slot left do not count.
				out := m.source(map[string]string{"devtype": "mmc", "devnum": "0", "distro_bootpart": part, "distro_rootpart": "2", "raucargs": "rauc.slot=A", "board": board})
				if want := " atomixos.lowerdev=" + disk + want + "\n"; !strings.HasSuffix(out, want) {
					t.Errorf("%s, partition %s on %s: the end is not %q:\n%s", by, part, board, want, out)
				}
			}
		}
	}
}

// If U-Boot's boot method chooses the slot, the script does not choose: it
// boots the slot that it is loaded from, and saves nothing.
func TestBootScriptWithBootMethod(t *testing.T) {
	m := newMachine(t, bootScript(t, "bootmeth"), "AB")
	m.set("BOOT_A_LEFT", "0", "BOOT_ORDER", "B A")
	before := m.sector()
	for _, raucargs := range []string{"", "rauc.slot=A"} {
		out := m.source(map[string]string{"devtype": "mmc", "devnum": "0", "distro_bootpart": "1", "raucargs": raucargs, "BOOT_ORDER": "A B", "BOOT_A_LEFT": "0"})
		if running(t, out) != "A" || strings.Contains(out, "panic=") || strings.Contains(out, "imgtool.") {
			t.Errorf("it does not boot A as ever:\n%s", out)
		}
		m.remove("part/1/Image")
		if out := m.source(map[string]string{"distro_bootpart": "1", "raucargs": raucargs}); running(t, out) != "prompt" {
			t.Errorf("without a kernel it does not stop:\n%s", out)
		}
		m.write("part/1/Image", "")
		os.RemoveAll(m.path("part/3"))
	}
	if trace := m.trace(); trace != "" || m.sector() != before {
		t.Errorf("it wrote: %s", trace)
	}
}

// Recovery by button and by command, and the messages of a U-Boot without these commands.
func TestBootScriptWithoutRecovery(t *testing.T) {
	const gpio, ums = "gpio() { [ \"$1\" = status ] || [ -e pressed ]; }\n", "ums() { echo \"UMS $*\"; }\n"
	const noGPIO, noUMS = "Recovery by the button is not possible: this U-Boot has no gpio command\n", "No USB mass storage here: booting on\n"
	m := newMachine(t, bootScript(t, "script"), "A")
	m.write("noenv", "") // as on Debian's U-Boot, which has its environment on the SD card
	for _, c := range []struct {
		commands, startUMS string
		pressed            bool
		want               []string
	}{
		{"", "", false, []string{noGPIO, "BOOT "}},
		{"", "1", false, []string{noUMS, "BOOT "}},
		{gpio, "", false, []string{"BOOT "}},
		{gpio, "", true, []string{noUMS, "BOOT "}},
		{gpio + ums, "", true, []string{"UMS 0 mmc 0\nRESET\n"}},
		{gpio + ums, "", false, []string{"BOOT "}},
		{ums, "1", false, []string{"UMS 0 mmc 0\nRESET\n"}},
	} {
		m.commands = c.commands
		os.Remove(m.path("pressed"))
		if c.pressed {
			m.write("pressed", "")
		}
		out := m.source(map[string]string{"devtype": "mmc", "devnum": "0", "distro_bootpart": "1", "START_UMS": c.startUMS})
		for _, text := range []string{noGPIO, noUMS, "BOOT ", "UMS 0 mmc 0\nRESET\n"} {
			if strings.Contains(out, text) != slices.Contains(c.want, text) {
				t.Errorf("%+v: %q is there: %v:\n%s", c, text, !slices.Contains(c.want, text), out)
			}
		}
	}
}

// A slot on trial has three boots, each of which is one write of one sector; then the
// other slot boots.
func TestTriesAreCountedOnTrialOnly(t *testing.T) {
	imagetest.Long(t)
	m := newMachine(t, bootScript(t, "script"), "AB")
	boots := func(slots, trace string) {
		t.Helper()
		for _, want := range strings.Fields(slots) {
			before := m.sector()
			got, log := m.debian()
			if got != want {
				t.Fatalf("slot %s runs, not %s:\n%s", got, want, log)
			}
			if got := m.trace(); got != trace || (trace == "") != (m.sector() == before) {
				t.Fatalf("slot %s wrote %q, not %q; the sector is as before: %v\n%s", want, got, trace, m.sector() == before, log)
			}
		}
	}
	const one = "write 0x1f80 1"
	boots("A A A B B B", one)
	_, log := m.debian()
	if !strings.Contains(log, "No slot has tries left: all have 3 again") || !strings.Contains(log, "Slot A is on trial; tries left after this one: 2") {
		t.Errorf("after all tries of both:\n%s", log)
	}
	m.trace()

	m.set("BOOT_A_LEFT", "good")
	boots("A A A A A", "")
	// An update of slot B fails.
	m.set("BOOT_B_LEFT", "3", "BOOT_ORDER", "B A")
	boots("B B B", one)
	boots("A A A A", "")
	// Another one works.
	m.set("BOOT_B_LEFT", "3")
	boots("B", one)
	m.set("BOOT_B_LEFT", "good")
	boots("B B B B", "")
	// More than three tries, or an invalid number, count as three.
	for _, odd := range []string{"7", "x", "-1"} {
		m.set("BOOT_B_LEFT", odd)
		boots("B B B", one)
		boots("A", "")
	}

	// A good slot that cannot be booted is on trial.
	m.set("BOOT_B_LEFT", "good", "BOOT_ORDER", "B A")
	m.remove("part/3/Image")
	if got, log := m.debian(); got != "A" || strings.Count(log, "Booting boot.1") != 4 || strings.Count(log, "\nRESET\n") != 4 {
		t.Errorf("slot %s runs after a slot B without a kernel:\n%s", got, log)
	}
	m.trace()
	boots("A A", "")

	// Without another slot nothing is counted.
	os.RemoveAll(m.path("part/3"))
	m.set("BOOT_A_LEFT", "2")
	boots("A A A A A", "")
	m.set("BOOT_A_LEFT", "0", "BOOT_B_LEFT", "0")
	boots("A A A A A", "")

	// A damaged sector, and a read-only sector.
	m = newMachine(t, bootScript(t, "script"), "AB")
	f, err := os.OpenFile(m.path("disk.img"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("damaged"), 0x3f0000); err != nil {
		t.Fatal(err)
	}
	boots("A A A B", one)
	m.write("protected", "")
	if got, log := m.debian(); got != "B" || !strings.Contains(log, "The tries cannot be saved: no slot falls back") || strings.Contains(log, "panic=5") {
		t.Errorf("slot %s runs on a disk that cannot be written:\n%s", got, log)
	}
}
