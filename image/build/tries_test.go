package build_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"imgtool/image/imagetest"
)

// unit is a machine with U-Boot, with or without the boot method for RAUC, and the part of
// Linux that marks slots good.
type unit struct {
	*machine
	uboot  string // debian, or the version with the method
	rootB  bool   // rootfs-b has a file system
	bootB  bool   // boot-b has a file system
	args   string // of the kernel that runs
	broken map[string]bool
}

const (
	debianUBoot = "2023.01 of Debian" // has no method, and its environment on the SD card
	uboot2025   = "2025.10"           // the method needs a file system in all partitions
	uboot2026   = "2026.01"           // a file system in one slot is enough
)

// newUnit returns a unit after a flash, before its first boot.
func newUnit(t *testing.T, text, uboot, slots string) *unit {
	u := &unit{machine: newMachine(t, text, slots), uboot: uboot, bootB: slots == "AB", rootB: slots == "AB", broken: map[string]bool{}}
	if uboot == debianUBoot {
		u.write("noenv", "")
	}
	u.write("env.config", u.path("disk.img")+" 0x3F8000 0x8000\n")
	// The files that the starter's mark-good reads on a Rock64.
	u.write("sys/devices/mmcblk1/mmcblk1p2/partition", "")
	u.write("sys/devices/mmcblk1/mmcblk1p4/partition", "")
	u.write("dev/.keep", "")
	u.write("etc/.keep", "")
	u.write("sys/class/block/.keep", "")
	for link, to := range map[string]string{"dev/mmcblk1": "../disk.img", "sys/class/block/mmcblk1p2": "../../devices/mmcblk1/mmcblk1p2", "sys/class/block/mmcblk1p4": "../../devices/mmcblk1/mmcblk1p4"} {
		if err := os.Symlink(to, u.path(link)); err != nil {
			t.Fatal(err)
		}
	}
	for _, tool := range []string{"fw_printenv", "fw_setenv"} {
		u.write("bin/"+tool, fmt.Sprintf("#!/bin/sh\n[ ${0##*/} != fw_setenv ] || echo \"fw_setenv $*\" >>%s\nexec %s -c %s -f %s \"$@\"\n",
			u.path("trace"), imagetest.Need(t, tool), u.path("etc/fw_env.config"), u.path("etc/u-boot-initial-env")))
	}
	return u
}

// environment is U-Boot's environment on the disk, or its defaults.
func (u *unit) environment() map[string]string {
	vars := map[string]string{"BOOT_ORDER": "A B", "BOOT_A_LEFT": "3", "BOOT_B_LEFT": "3"}
	out, err := exec.Command(imagetest.Need(u.t, "fw_printenv"), "-c", u.path("env.config")).Output()
	if err != nil {
		return vars
	}
	clear(vars)
	for line := range strings.Lines(string(out)) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		vars[name] = value
	}
	return vars
}

// save saves the environment, as U-Boot's method does before it runs the script.
func (u *unit) save(vars map[string]string) {
	u.t.Helper()
	text := ""
	for name, value := range vars {
		text += name + "=" + value + "\n"
	}
	u.write("vars", text)
	imagetest.Run(u.t, "mkenvimage", "-p", "0", "-s", "0x8000", "-o", u.path("env.bin"), u.path("vars"))
	imagetest.Run(u.t, "dd", "status=none", "if="+u.path("env.bin"), "of="+u.path("disk.img"), "bs=512", "seek=8128", "conv=notrunc")
}

// method does what U-Boot's boot method for RAUC does, and returns the variables that it runs
// the script with, or nil if it boots nothing. It stops if the slot has no script.
func (u *unit) method() (vars map[string]string, stops, resets bool) {
	vars = u.environment()
	has := map[string]bool{"A": true, "B": u.bootB && (u.rootB || u.uboot == uboot2026)}
	all, any := true, false
	for slot := range strings.FieldsSeq(vars["BOOT_ORDER"]) {
		all, any = all && has[slot], any || has[slot]
	}
	if u.uboot == debianUBoot || u.uboot == uboot2025 && !all || !any {
		return nil, false, false
	}
	for slot := range strings.FieldsSeq(vars["BOOT_ORDER"]) {
		left, _ := strconv.Atoi(vars["BOOT_"+slot+"_LEFT"])
		if left <= 0 {
			continue
		}
		vars["BOOT_"+slot+"_LEFT"] = strconv.Itoa(left - 1)
		vars["devtype"], vars["devnum"], vars["raucargs"] = "mmc", "0", "rauc.slot="+slot
		vars["distro_bootpart"] = map[string]string{"A": "1", "B": "3"}[slot]
		u.save(vars)
		_, err := os.Stat(u.path("part/" + vars["distro_bootpart"] + "/boot.scr"))
		return vars, err != nil, false
	}
	vars["BOOT_A_LEFT"], vars["BOOT_B_LEFT"] = "3", "3"
	u.save(vars)
	return vars, false, true
}

// powerOn boots until Linux runs, and returns the slot, or prompt. A broken slot resets.
func (u *unit) powerOn() (slot, log string) {
	u.t.Helper()
	for range 20 {
		vars, stops, resets := u.method()
		switch {
		case stops:
			return "prompt", log + "Boot failed (err=-2)\n"
		case resets:
			log += "Resetting all slot tries\n"
			continue
		case vars == nil:
			vars = u.environment()
			vars["devtype"], vars["devnum"], vars["distro_bootpart"] = "mmc", "0", "1"
		}
		out := u.source(vars)
		log += out
		if strings.HasSuffix(out, "RESET\n") {
			continue
		}
		slot := running(u.t, out)
		if slot == "prompt" || !u.broken[slot] {
			_, u.args, _ = strings.Cut(strings.TrimSpace(out[strings.LastIndex(out, "\nBOOT "):]), " ")
			return slot, log
		}
		if !strings.Contains(out, "panic=5") && vars["raucargs"] == "" {
			return "hangs", log
		}
		log += "a panic\n"
	}
	return "loops", log
}

// linux makes the partitions on the first boot, and runs mark-good of the starter.
func (u *unit) linux(args ...string) {
	u.t.Helper()
	script, err := os.ReadFile("../starter/scripts/mark-good.sh")
	if err != nil {
		u.t.Fatal(err)
	}
	u.write("cmdline", u.args+"\n")
	text := string(script)
	for _, r := range [][2]string{{"export PATH=", "export PATH=" + u.path("bin") + ":"}, {"/proc/cmdline", u.path("cmdline")}, {"/sys/class/block", u.path("sys/class/block")},
		{`"/dev/$disk`, `"` + u.path("dev/$disk")}, {">/etc/", ">" + u.dir + "/etc/"}} {
		if !strings.Contains(text, r[0]) {
			u.t.Fatalf("mark-good has no %s", r[0])
		}
		text = strings.ReplaceAll(text, r[0], r[1])
	}
	u.write("mark-good", text)
	os.Remove(u.path("etc/u-boot-initial-env")) // /etc is in memory
	if out, err := exec.Command("sh", append([]string{u.path("mark-good")}, args...)...).CombinedOutput(); err != nil {
		u.t.Fatalf("mark-good %v: %v: %s", args, err, out)
	}
}

// setTries sets the tries as an update does, in the place where this U-Boot has them.
func (u *unit) setTries(vars ...string) {
	u.t.Helper()
	if !strings.Contains(u.args, "imgtool.tries=") {
		for i := 0; i < len(vars); i += 2 {
			imagetest.Run(u.t, "fw_setenv", "-c", u.path("env.config"), vars[i], vars[i+1])
		}
		return
	}
	u.set(vars...)
}

// A device without a configuration is switched off repeatedly, at any time. It stays in slot A;
// with two slots it must have reached the wait for a configuration. After it is provisioned it
// stays there too. An update of slot B that fails three times returns to A, a working one
// stays.
func TestTriesOverTime(t *testing.T) {
	imagetest.Long(t)
	text := bootScript(t, "script")
	lives := 1
	if os.Getenv("SOAK") != "" {
		lives = 100
	}
	for _, uboot := range []string{debianUBoot, uboot2025, uboot2026} {
		for _, slots := range []string{"A", "AB"} {
			t.Run(uboot+" "+slots, func(t *testing.T) {
				for range lives {
					seed := rand.Uint64()
					life(t, newUnit(t, text, uboot, slots), slots, rand.New(rand.NewPCG(seed, 0)))
					if t.Failed() {
						t.Fatalf("seed %d", seed)
					}
				}
			})
		}
	}
}

func life(t *testing.T, u *unit, slots string, rng *rand.Rand) {
	boots := func(want string) string {
		t.Helper()
		slot, log := u.powerOn()
		if slot != want {
			t.Fatalf("slot %s runs, not %s:\n%s", slot, want, log)
		}
		u.bootB = true // systemd-repart has made boot-b, if it came so far
		return log
	}
	// With one slot, Linux need not reach the wait.
	cuts := 5
	if slots == "AB" {
		cuts = 2
	}
	for range 3 + rng.IntN(3) {
		for range cuts {
			boots("A")
		}
		cuts = rng.IntN(cuts + 1)
		boots("A")
		u.linux("waiting")
		u.linux("waiting")
	}
	if trace := u.trace(); slots == "A" && u.uboot == debianUBoot && trace != "" {
		t.Fatalf("the only slot was counted: %s", trace)
	}
	boots("A")
	u.linux()
	for range 3 + rng.IntN(5) {
		u.trace()
		log := boots("A")
		u.linux()
		if trace := u.trace(); u.uboot == debianUBoot && trace != "" {
			t.Fatalf("a good slot was written, %s:\n%s", trace, log)
		}
	}

	// An update, which is whole before it is chosen.
	for _, file := range []string{"Image", "initrd", "dtbs/rockchip/rk3328-rock64.dtb", "boot.scr"} {
		u.write("part/3/"+file, u.text)
	}
	if u.rootB = true; slots == "A" && u.uboot == uboot2025 {
		boots("A") // its method counts from now on
	}
	update := []string{"BOOT_B_LEFT", "3", "BOOT_ORDER", "B A"}
	if rng.IntN(2) == 0 {
		u.broken["B"] = true
		u.setTries(update...)
		for range rng.IntN(3) {
			// The power is cut while it fails; a failure in the kernel resets by itself.
			u.broken["B"] = false
			boots("B")
			u.broken["B"] = true
		}
		boots("A")
		u.linux()
		for range 4 {
			boots("A")
			u.linux()
		}
		u.broken["B"] = false
	}
	u.setTries(update...)
	for range rng.IntN(3) {
		boots("B")
	}
	for range 5 {
		boots("B")
		u.linux()
	}
}

// An update that boots but cannot take the configuration is not marked good, and a good
// slot that waits for a first configuration again stays good.
func TestWaitingDoesNotMarkGood(t *testing.T) {
	u := newUnit(t, bootScript(t, "script"), debianUBoot, "AB")
	left := func(want string) {
		t.Helper()
		u.write("tries.config", u.path("disk.img")+" 0x3F0000 0x200\n")
		if got := imagetest.Run(t, "fw_printenv", "-c", u.path("tries.config"), "-n", "BOOT_A_LEFT"); got != want+"\n" {
			t.Errorf("BOOT_A_LEFT is %q, not %s", got, want)
		}
	}
	u.powerOn()
	left("2")
	u.linux("waiting")
	left("3")
	u.linux()
	left("good")
	u.trace()
	u.powerOn()
	u.linux("waiting")
	u.linux()
	left("good")
	if trace := u.trace(); trace != "" {
		t.Errorf("a good slot was written again: %s", trace)
	}
}
