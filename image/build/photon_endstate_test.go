package build_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"imgtool/image"
	"imgtool/image/build"
	"imgtool/image/edit"
	"imgtool/image/edit/edittest"
	"imgtool/image/squashfs"
	"imgtool/image/tree"
)

func squashed(t *testing.T, root *tree.Tree) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "root.squashfs")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := squashfs.Write(t.Context(), f, root, squashfs.Options{BlockSize: 1 << 20}, image.Phases(nil).Start("", 0)); err != nil {
		t.Fatal(err)
	}
	return path
}

var (
	stamp   = regexp.MustCompile(`\.\d{8}-\d{6}\.`)
	section = regexp.MustCompile(`(?m)^\[(.*)\]\n`)
)

// became returns the changes from one tree to another, a path a line.
func became(before, after *tree.Tree) (lines []string) {
	types := map[uint32]string{tree.Dir: "dir", tree.Regular: "file", tree.Symlink: "link", tree.CharDev: "device", tree.Fifo: "fifo"}
	content := func(n *tree.Inode) string {
		if n.Content == nil {
			return ""
		}
		b, err := io.ReadAll(io.NewSectionReader(n.Content, 0, n.Size()))
		if err != nil {
			panic(err)
		}
		return string(b)
	}
	for path, n := range after.All() {
		if path == "" || path == "lost+found" {
			continue
		}
		line := fmt.Sprintf("/%s  %s %04o %d:%d", path, types[n.Type()], n.Mode&0o7777, n.UID, n.GID)
		if n.Type() == tree.Symlink {
			line += " -> " + n.Target
		}
		old := before.Lookup(path)
		switch {
		case old == nil:
			line = "+ " + line
		case n.Type() == tree.Regular && old.Type() == tree.Regular && content(n) != content(old):
			line = "~ " + line + " (content)"
		case old.Mode != n.Mode || old.UID != n.UID || old.GID != n.GID || old.Target != n.Target || fmt.Sprint(old.Xattrs) != fmt.Sprint(n.Xattrs):
			line = "~ " + line
		default:
			continue
		}
		lines = append(lines, strings.ReplaceAll(stamp.ReplaceAllString(line, ".DATE."), edittest.Kernel, "KERNEL"))
	}
	for path := range before.All() {
		if path != "" && after.Lookup(path) == nil {
			lines = append(lines, "- /"+path)
		}
	}
	return lines
}

// upstreams returns the sections of a golden file of upstream's changes, without its backups
// of changed files.
func upstreams(t *testing.T, name string) map[string][]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name+".txt"))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]string{}
	at := section.FindAllSubmatchIndex(text, -1)
	for i, m := range at {
		end := len(text)
		if i+1 < len(at) {
			end = at[i+1][0]
		}
		lines := strings.Split(strings.TrimSpace(string(text[m[1]:end])), "\n")
		all[string(text[m[2]:m[3]])] = slices.DeleteFunc(lines, func(line string) bool { return strings.Contains(line, ".DATE.bck ") })
	}
	return all
}

// difference is a change that upstream does not make, with the reason.
type difference struct{ part, but, why string }

func checkEndState(t *testing.T, golden string, before *tree.Tree, r *build.Result, differences []difference) {
	t.Helper()
	media := map[string]string{"APP": "emmc", "recovery-root": "sd", "plugin-data": "nvme"}
	for part, want := range upstreams(t, golden) {
		for _, d := range differences {
			if d.part == part {
				want = append(want, d.but)
			}
		}
		was := before
		if part == "plugin-data" {
			was = tree.New(0)
		}
		got := became(was, readBack(t, r, media[part], part))
		slices.Sort(want)
		slices.Sort(got)
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s of %s is not as upstream leaves it:\n%s", part, golden, d)
		}
	}
}

const alsoGuide = "the guide has the state file there, and the script in another place"

// An agent is as upstream's first-boot script leaves it, file by file, and cannot
// provision itself again, from the recovery card neither.
func TestAgentEndState(t *testing.T) {
	before := edittest.Agent()
	r, err := buildBoard(t, "photon-nx-agent", squashed(t, before), nil)
	if err != nil {
		t.Fatal(err)
	}
	checkEndState(t, "photon-agent", before, r, []difference{
		{"APP", "+ /etc/waggle/factory_provision  file 0644 0:0", "an agent has no state file: imgtool refuses a provisioned disk by it"},
		{"recovery-root", "+ /etc/waggle/factory_provision  file 0644 0:0", "the same"},
		{"APP", "+ /etc/waggle/factory/factory_provision  file 0644 0:0", alsoGuide},
		{"recovery-root", "+ /etc/waggle/factory/factory_provision  file 0644 0:0", alsoGuide},
		{"recovery-root", "- /etc/rc.local", "upstream leaves it: booted from the card it would format the NVMe and the card"},
		{"recovery-root", "+ /etc/rc.local.DATE.done  file 0755 0:0", "the same"},
	})
	const plugin = "/dev/nvme0n1p3 /media/plugin-data ext4 defaults,nofail,x-systemd.after=local-fs-pre.target,x-systemd.before=local-fs.target 0 2\n"
	const head = "# <file system> <mount point> <type> <options> <dump> <pass>\n"
	app, card := readBack(t, r, "emmc", "APP"), readBack(t, r, "sd", "recovery-root")
	for _, c := range []struct {
		of   string
		root *tree.Tree
		path string
		want string
	}{
		{"APP", app, "/etc/fstab", head + "/dev/mmcblk0p1 / ext4 defaults 0 1\n# nvme swap\n/dev/nvme0n1p1 swap swap defaults,nofail,pri=100 0 0\n# plugin-data\n" + plugin},
		{"APP", app, "/etc/overlayroot.conf", "overlayroot_cfgdisk=\"disabled\"\noverlayroot=\"tmpfs:recurse=0,swap=1\"\n"},
		{"APP", app, edit.ExtlinuxConf, photonFiles["emmc"][edit.ExtlinuxConf]},
		{"recovery-root", card, "/etc/fstab", head + "/dev/mmcblk1p1 / ext4 defaults 0 1\n# scratch\n/dev/mmcblk1p2 /media/scratch ext4 defaults,nofail,x-systemd.after=local-fs-pre.target,x-systemd.before=local-fs.target 0 2\n"},
		{"recovery-root", card, "/etc/overlayroot.conf", "overlayroot_cfgdisk=\"disabled\"\noverlayroot=\"tmpfs:recurse=0\"\n"},
		{"recovery-root", card, edit.ExtlinuxConf, photonFiles["sd"][edit.ExtlinuxConf]},
	} {
		if d := cmp.Diff(c.want, edittest.Text(c.root, c.path)); d != "" {
			t.Errorf("%s: %s:\n%s", c.of, c.path, d)
		}
	}
	for name, root := range map[string]*tree.Tree{"APP": app, "recovery-root": card} {
		// Not locked down: it has no tunnel, and would be out of reach.
		if text := edittest.Text(root, "/etc/ssh/sshd_config"); strings.Contains(text, "ListenAddress") {
			t.Errorf("%s: sshd_config is %q", name, text)
		}
		if n := root.Lookup("etc/waggle/config.ini"); n == nil || n.Target != "/etc/waggle/config-agent.ini" {
			t.Errorf("%s: config.ini is %+v", name, n)
		}
		if text := edittest.Text(root, "/etc/rc.local.20260101-000000.done"); !strings.Contains(text, "nvme_overlay") {
			t.Errorf("%s: the first-boot script is %q", name, text)
		}
		if text := edittest.Text(root, "/etc/waggle/factory_provision"); !strings.Contains(text, "(5/5) Provisioned: board photon-nx-agent") || strings.Contains(text, "lock") {
			t.Errorf("%s: the state file is %q", name, text)
		}
	}
}

// Agents whose trees differ from upstream's get the same end state.
func TestOddAgents(t *testing.T) {
	for name, change := range map[string]func(*tree.Tree){
		"a link to another configuration": func(t *tree.Tree) {
			t.Put("etc/waggle/config.ini", &tree.Inode{Mode: tree.Symlink | 0o777, Target: "config-dev.ini"})
		},
		"a plain file for the configuration": func(t *tree.Tree) {
			t.Put("etc/waggle/config.ini", &tree.Inode{Mode: tree.Regular | 0o644, Content: strings.NewReader("x")})
		},
		"no first-boot script": func(t *tree.Tree) { t.Remove("etc/rc.local") },
		"no journal":           func(t *tree.Tree) { t.Remove("var/log/journal") },
	} {
		root := edittest.Agent()
		change(root)
		r, err := buildBoard(t, "photon-nx-agent", squashed(t, root), func(*build.Options) {})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for medium, part := range map[string]string{"emmc": "APP", "sd": "recovery-root"} {
			root := readBack(t, r, medium, part)
			if n := root.Lookup("etc/rc.local"); n != nil {
				t.Errorf("%s: %s has /etc/rc.local", name, part)
			}
			if n := root.Lookup("etc/waggle/config.ini"); n == nil || n.Target != "/etc/waggle/config-agent.ini" {
				t.Errorf("%s: config.ini of %s is %+v", name, part, n)
			}
		}
		if n := readBack(t, r, "nvme", "plugin-data").Lookup("var/log/journal"); n == nil || n.Type() != tree.Dir {
			t.Errorf("%s: the journal is %+v", name, n)
		}
	}
}

// A core is as upstream's provisioning leaves it, file by file.
func TestCoreEndState(t *testing.T) {
	before := edittest.L4T()
	r, err := buildBoard(t, "photon-nx", squashed(t, before), nil)
	if err != nil {
		t.Fatal(err)
	}
	// Upstream's image has the files of /media/rpi on a partition.
	before = before.Without(func(path string) bool { return strings.HasPrefix(path, "media/rpi/") })
	var differences []difference
	for _, part := range []string{"APP", "recovery-root"} {
		differences = append(differences,
			difference{part, "+ /etc/waggle/factory/factory_provision  file 0644 0:0", alsoGuide},
			difference{part, "~ /etc/securetty  file 0644 0:0 (content)", "the guide has the serial console closed"},
			difference{part, "+ /etc/systemd/system/serial-getty@ttyTCU0.service  link 0777 0:0 -> /dev/null", "the same"},
			difference{part, "+ /etc/systemd/system/serial-getty@ttyGS0.service  link 0777 0:0 -> /dev/null", "the same"})
	}
	checkEndState(t, "photon-core", before, r, differences)
}
