package build_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"imgtool/image/build"
	"imgtool/image/edit/edittest"
	"imgtool/image/imagetest"
	"imgtool/image/tree"
)

// used returns a root file system like that of a unit in use.
func used() *tree.Tree {
	t := edittest.L4T()
	for path, text := range map[string]string{
		"etc/ssh/ssh_host_rsa_key":     "-----BEGIN OPENSSH PRIVATE KEY-----\n",
		"etc/ssh/ssh_host_rsa_key.pub": "ssh-rsa AAAA\n",
		"etc/machine-id":               "0123456789abcdef0123456789abcdef\n",
		"var/lib/systemd/random-seed":  "seed",
		"etc/waggle/vsn":               "W123\n",
		"etc/waggle/bk_key.pem":        "-----BEGIN PRIVATE KEY-----\n",
		"etc/waggle/sage_registration": "-----BEGIN PRIVATE KEY-----\n",
		"root/.ssh/id_rsa":             "-----BEGIN RSA PRIVATE KEY-----\n",
		"usr/bin/ssh-keygen":           "\x7fELF",
		"usr/lib/systemd/systemd":      "\x7fELF",
	} {
		t.Put(path, &tree.Inode{Mode: tree.Regular | 0o600, ModTime: edittest.ModTime, Content: strings.NewReader(text)})
	}
	return t
}

func TestPerUnitWarnings(t *testing.T) {
	root := used()
	root.Remove("etc/waggle/bk_key.pem") // which a core's image refuses
	root.Remove("etc/waggle/sage_registration")
	var said []string
	if _, err := buildBoard(t, "photon-nx", squashed(t, root), func(o *build.Options) { o.Warn = func(text string) { said = append(said, text) } }); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"all units would share per-unit data: SSH host keys (/etc/ssh/ssh_host_rsa_key and 1 more), machine IDs (/etc/machine-id), random seeds (/var/lib/systemd/random-seed), " +
			"identities of services (/var/lib/docker/engine-id), files of one unit (/etc/waggle/vsn): --generalize removes it",
		"all units share private keys (/root/.ssh/id_rsa)",
	} {
		if !slices.Contains(said, want) {
			t.Errorf("it did not say %q:\n%s", want, strings.Join(said, "\n"))
		}
	}
}

// Only per-unit data is removed, and the device makes new SSH host keys.
func TestGeneralize(t *testing.T) {
	var said []string
	plain := edittest.L4T()
	generalize := func(o *build.Options) {
		o.Generalize = true
		o.Warn = func(text string) { said = append(said, text) }
	}
	r, err := buildBoard(t, "photon-nx", squashed(t, used()), generalize)
	if err != nil {
		t.Fatal(err)
	}
	without, err := buildBoard(t, "photon-nx", squashed(t, plain), nil)
	if err != nil {
		t.Fatal(err)
	}
	app := readBack(t, r, "emmc", "APP")
	want := []string{
		"+ /etc/systemd/system/imgtool-ssh-host-keys.service  file 0644 0:0",
		"+ /etc/systemd/system/multi-user.target.wants/imgtool-ssh-host-keys.service  link 0777 0:0 -> /etc/systemd/system/imgtool-ssh-host-keys.service",
		"+ /root/.ssh/id_rsa  file 0600 0:0",
		"+ /usr/bin  dir 0755 0:0",
		"+ /usr/bin/ssh-keygen  file 0600 0:0",
		"+ /usr/lib/systemd/systemd  file 0600 0:0",
		"+ /var/lib/systemd  dir 0755 0:0",
		"~ /etc/machine-id  file 0600 0:0 (content)",
	}
	got := became(readBack(t, without, "emmc", "APP"), app)
	slices.Sort(got)
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if n := app.Lookup("etc/machine-id"); n.Size() != 0 {
		t.Errorf("/etc/machine-id has %d bytes", n.Size())
	}
	if n := readBack(t, r, "nvme", "plugin-data").Lookup("docker/engine-id"); n != nil {
		t.Error("docker's engine id is there")
	}
	for _, want := range []string{"removed from the root file system: SSH host keys (/etc/ssh/ssh_host_rsa_key and 1 more), machine IDs", "all units share private keys (/root/.ssh/id_rsa)"} {
		if !slices.ContainsFunc(said, func(text string) bool { return strings.HasPrefix(text, want) }) {
			t.Errorf("it did not say %q:\n%s", want, strings.Join(said, "\n"))
		}
	}

	// systemd accepts the unit.
	dir := t.TempDir()
	unit := filepath.Join(dir, "imgtool-ssh-host-keys.service")
	text := edittest.Text(app, "/etc/systemd/system/imgtool-ssh-host-keys.service")
	if err := os.WriteFile(unit, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if out := imagetest.Run(t, imagetest.Need(t, "systemd-analyze"), "verify", "--recursive-errors=no", unit); strings.Contains(out, "imgtool-ssh-host-keys.service") {
		t.Errorf("systemd-analyze says %s", out)
	}

	// A warning if nothing can make the keys.
	root := used()
	root.Remove("usr/bin/ssh-keygen")
	said = nil
	if _, err := buildBoard(t, "photon-nx", squashed(t, root), generalize); err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(said, func(text string) bool {
		return strings.Contains(text, "sshd needs SSH host keys")
	}) {
		t.Errorf("it said\n%s", strings.Join(said, "\n"))
	}
}
