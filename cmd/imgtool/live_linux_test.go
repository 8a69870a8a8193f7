package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"imgtool/cmd/imgtool/exit"
	"imgtool/image/edit/edittest"
	"imgtool/image/ext4"
	"imgtool/image/imagetest"
	"imgtool/image/tree"
	"imgtool/image/tree/hostfs"
)

// liveConf has the settings of upstream's factory_provision.conf.
const provisionConf = `#!/bin/bash -e
PROVISION_STATE_FILE=/etc/waggle/factory_provision
KERNEL_DTB=/boot/dtb/tegra194-xavier-nx-cti-NGX003-WAGGLE-WS.dtb
NXCORE="1"
NVME_DEVICE=/dev/nvme0n1
NVME_PART_SIZE_SYSTEM=256G
SD_DEVICE=/dev/mmcblk1
SSH_ADDRESSES=(127.0.0.1)
CHECK_NODEID_FILES=(/etc/waggle/node-id)
CHECK_KEY_FILES=(/etc/waggle/sage_registration /etc/waggle/sage_registration-cert.pub)
CHECK_REG_FILES=(/etc/waggle/bk_pubkey.pem /etc/waggle/bk_key.pem-cert.pub /etc/waggle/bk_key.pem)
CHECK_DEVICES=($SD_DEVICE $NVME_DEVICE)
`

// plantLive writes the root of a unit to a directory.
func plantLive(t *testing.T, root string) {
	t.Helper()
	if err := makeLive(root); err != nil {
		t.Fatal(err)
	}
}

// words describes a tree as text, without the parts that differ between runs: times of
// directories, dates and builds in the state file, and the backups of changed files.
func words(t *tree.Tree, not ...string) string {
	t = t.Without(func(p string) bool { return slices.Contains(not, p) || strings.HasSuffix(p, ".bck") })
	text := regexp.MustCompile(`(?m)^(/\S* 04\d+ \S+) @\d+`).ReplaceAllString(edittest.Dump(t), "$1")
	text = regexp.MustCompile(`(?m)^(/etc/waggle/(?:factory/)?factory_provision .*?) @\d+\n(?:\t.*\n)*`).ReplaceAllString(text, "$1\n")
	return regexp.MustCompile(`(?m)^\t.*: \(\d/6\) .*\n`).ReplaceAllString(text, "")
}

func dirTree(t *testing.T, dir string) *tree.Tree {
	t.Helper()
	all, err := hostfs.Read(dir, true, 0)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func partTree(t *testing.T, file, name string) *tree.Tree {
	t.Helper()
	part := partOf(t, file, name)
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	all, _, err := ext4.Read(io.NewSectionReader(f, part.Off, part.Len), part.Len)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return all
}

func newLive(t *testing.T) (b *bench, root, conf string) {
	b = newBench(t)
	t.Setenv("SOURCE_DATE_EPOCH", "1780000000")
	root, conf = filepath.Join(b.dir, "root"), filepath.Join(b.dir, "factory_provision.conf")
	if err := os.WriteFile(conf, []byte(provisionConf), 0o644); err != nil {
		t.Fatal(err)
	}
	return b, root, conf
}

func (b *bench) live(root, conf string, args ...string) (int, string) {
	b.t.Helper()
	cmd := tool(b.t, append([]string{"factory", "--live", "-y", "-c", conf, "--root", root, "--sd", b.disks["sd"], "--nvme", b.disks["nvme"]}, args...)...)
	if b.wrap != nil {
		cmd = exec.Command(b.wrap[0], slices.Concat(b.wrap[1:], []string{cmd.Path}, cmd.Args[1:])...)
	}
	return ended(b.t, cmd)
}

// A unit that provisions itself gets the same files as one that is provisioned offline, also
// if it is killed at any moment and run again.
func TestLiveUnitEqualsTheOfflineOne(t *testing.T) {
	imagetest.Long(t)
	b, root, conf := newLive(t)
	// The same root file system, offline, without the key, which must not be in an image.
	all := liveTree()
	f, err := os.Create(filepath.Join(b.dir, "l4t.tar"))
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(f)
	if err := writeTree(w, all); err != nil {
		t.Fatal(err)
	}
	w.Close()
	f.Close()
	b.build()
	image := func(medium string) string { return filepath.Join(b.dir, "p-"+medium+".img") }
	const key = "etc/waggle/bk_key.pem"
	want := map[string]string{"APP": words(partTree(t, image("emmc"), "APP"), "lost+found"), "recovery-root": words(partTree(t, image("sd"), "recovery-root"))}
	for _, name := range []string{"backup-root", "system-data", "plugin-data"} {
		want[name] = words(partTree(t, image("nvme"), name))
	}
	same := func(when string) {
		t.Helper()
		got := map[string]string{"APP": words(dirTree(t, root), key), "recovery-root": words(partTree(t, b.files["sd"], "recovery-root"))}
		for _, name := range []string{"backup-root", "system-data", "plugin-data"} {
			got[name] = words(partTree(t, b.files["nvme"], name))
		}
		for name := range want {
			if d := cmp.Diff(want[name], got[name]); d != "" {
				t.Errorf("%s: %s is not as it is offline: %s", when, name, d)
			}
		}
		for _, dev := range b.disks {
			imagetest.Run(t, "blockdev", "--flushbufs", dev)
		}
		if b, err := os.ReadFile(filepath.Join(root, key)); err != nil || string(b) != "not a private key\n" {
			t.Errorf("%s: the unit's key: %q, %v", when, b, err)
		}
		for _, of := range []string{"etc/ssh/sshd_config", "boot/initrd", "boot/extlinux/extlinux.conf"} {
			kept, _ := filepath.Glob(filepath.Join(root, of+".*.bck"))
			if len(kept) != 1 {
				t.Errorf("%s: kept of %s: %v", when, of, kept)
				continue
			}
			old, _ := os.ReadFile(kept[0])
			if string(old) != edittest.Text(all, "/"+of) {
				t.Errorf("%s: kept of %s is %q", when, of, old)
			}
		}
		left := imagetest.Run(t, "find", root, "-name", "*imgtool*", "-o", "-name", "*.todo")
		if left != "" {
			t.Errorf("%s: left is %s", when, left)
		}
	}
	once := func(when string) {
		t.Helper()
		before := words(dirTree(t, root))
		if status, out := b.live(root, conf); status != exit.Refused || !strings.Contains(out, "factory_provision: the unit is provisioned: remove this file") {
			t.Errorf("%s, once more: exit status %d: %s", when, status, out)
		}
		if d := cmp.Diff(before, words(dirTree(t, root))); d != "" {
			t.Errorf("%s, once more: %s", when, d)
		}
	}

	plantLive(t, root)
	status, out := b.live(root, conf, "--dry-run")
	if d := cmp.Diff(words(dirTree(t, root)), words(liveTree().Without(func(p string) bool { return strings.HasPrefix(p, "media/rpi/") }), "none")); status != exit.OK || !strings.Contains(d, key) {
		t.Errorf("dry run: exit status %d: %s%s", status, out, d)
	}
	plantLive(t, root)
	if status, out = b.live(root, conf); status != exit.OK {
		t.Fatalf("exit status %d: %s", status, out)
	}
	t.Logf("%s", out)
	state, _ := os.ReadFile(filepath.Join(root, "etc/waggle/factory_provision"))
	t.Logf("%s", state)
	same("not interrupted")
	once("not interrupted")

	r := random(t)
	phases := map[string]int{}
	run := func() *exec.Cmd {
		return tool(t, "factory", "--live", "-y", "-c", conf, "--root", root, "--sd", b.disks["sd"], "--nvme", b.disks["nvme"])
	}
	plantLive(t, root)
	b.blank()
	whole := imagetest.MovedBy(t, run())
	plantLive(t, root)
	b.blank()
	const changes = "(5/6)"
	last := max(whole-killed(t, run(), changes, whole), 1)
	t.Logf("a whole one reads and writes %d bytes, %d of them from %s on", whole, last, changes)
	for i := range soak(4, 100) {
		plantLive(t, root)
		if r.IntN(2) == 0 {
			b.blank()
		}
		kills := ""
		for range 1 + r.IntN(2) {
			cmd := run()
			// The changes of the root take little time: half of the kills happen during them.
			from, long := "", whole
			if i%2 == 0 {
				from, long = changes, last
			}
			after := r.Int64N(long)
			killed(t, cmd, from, after)
			kills += fmt.Sprintf(" %d bytes after %q", after, from)
			text, _ := os.ReadFile(filepath.Join(root, "etc/waggle/factory_provision"))
			phases[fmt.Sprintf("%d lines", bytes.Count(text, []byte("\n")))]++
		}
		status, out := b.live(root, conf)
		if status != exit.OK && !(status == exit.Refused && strings.Contains(out, "the unit is provisioned")) {
			t.Fatalf("killed%s: the next ended with %d: %s", kills, status, out)
		}
		same("killed" + kills)
		once("killed" + kills)
	}
	t.Logf("killed with the state file at %v", phases)
}

// killed runs a program and kills it once it has read and written some bytes after a line of
// its output. It returns how many it had read and written at that line.
func killed(t *testing.T, cmd *exec.Cmd, from string, after int64) (before int64) {
	t.Helper()
	said, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if from != "" {
		for lines := bufio.NewScanner(said); lines.Scan() && !strings.HasPrefix(lines.Text(), from); {
		}
		before = imagetest.Moved(cmd.Process.Pid)
	}
	go io.Copy(io.Discard, said)
	imagetest.EndAt(cmd, before+after, os.Kill)
	return before
}

// Every step is logged to the journal, under the identifier that the guide uses.
func TestLiveUnitLogsToTheJournal(t *testing.T) {
	imagetest.Long(t)
	b, root, conf := newLive(t)
	socket := filepath.Join(t.TempDir(), "socket")
	in, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	const logs = "/run/systemd/journal"
	if err := os.MkdirAll(logs, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(socket, logs+"/socket"); err == nil {
		defer os.Remove(logs + "/socket")
	} else {
		// This machine has a journal: only imgtool uses the one of the test.
		b.wrap = []string{imagetest.Need(t, "unshare"), "--mount", "sh", "-c", "mount -t tmpfs journal " + logs + " && ln -s " + socket + " " + logs + `/socket && exec "$@"`, "sh"}
	}
	got := make(chan string, 1000)
	go func() {
		defer close(got)
		for buf := make([]byte, 1<<16); ; {
			n, err := in.Read(buf)
			if err != nil {
				return
			}
			got <- string(buf[:n])
		}
	}()
	plantLive(t, root)
	if status, out := b.live(root, conf); status != exit.OK {
		t.Fatalf("exit status %d: %s", status, out)
	}
	b.live(root, conf)
	in.Close()
	var all []string
	for text := range got {
		if strings.Contains(text, "SYSLOG_IDENTIFIER=waggle-factory-provision\n") {
			all = append(all, text)
		}
	}
	for _, want := range []string{"MESSAGE=(1/6) ", "MESSAGE=(2/6) ", "MESSAGE=(3/6) ", "MESSAGE=(4/6) ", "MESSAGE=(5/6) ", "MESSAGE=(6/6) ",
		"MESSAGE=changed /etc/fstab\n", "the unit is provisioned: remove this file"} {
		if !slices.ContainsFunc(all, func(text string) bool { return strings.Contains(text, want) }) {
			t.Errorf("%q is not in the journal:\n%q", want, all)
		}
	}
}

// The program leaves another root unchanged to which directories of the root are linked.
func TestLiveUnitStaysInItsRoot(t *testing.T) {
	b, root, conf := newLive(t)
	other := filepath.Join(b.dir, "other")
	plantLive(t, other)
	before := words(dirTree(t, other))
	for _, dir := range []string{"etc", "etc/waggle", "etc/ssh", "var/lib", "boot"} {
		os.RemoveAll(root)
		plantLive(t, root)
		must(os.RemoveAll(filepath.Join(root, dir)))
		must(os.Symlink(filepath.Join(other, dir), filepath.Join(root, dir)))
		b.blank()
		status, out := b.live(root, conf)
		if d := cmp.Diff(before, words(dirTree(t, other))); d != "" {
			t.Fatalf("%s: exit status %d: %s\n%s", dir, status, out, d)
		}
		if status == 0 && strings.HasPrefix(dir, "etc") {
			t.Errorf("%s: it is provisioned without its own files", dir)
		}
	}
}
