package edit_test

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"imgtool/image/edit"
	"imgtool/image/edit/edittest"
	"imgtool/image/tree"
)

const buildTime = 1700000000

var photonVars = map[string]string{
	"KERNEL":     edittest.Kernel,
	"KERNEL_DTB": "/boot/dtb/tegra194-xavier-nx-cti-NGX003-WAGGLE-WS.dtb",
	"TFTP_ROOT":  "/media/rpi/boot",
	"BUILD":      "imgtool photon-nx 1234",
}

func applyFile(t *testing.T, tr *tree.Tree, name string) *tree.Tree {
	t.Helper()
	text, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	edits, err := edit.Parse(name, text)
	if err != nil {
		t.Fatal(err)
	}
	out, err := edit.Apply(tr, edits, photonVars, buildTime)
	if err != nil {
		t.Fatal(err)
	}
	again, err := edit.Apply(out, edits, photonVars, buildTime+1)
	if err != nil {
		t.Fatalf("again: %v", err)
	}
	if d := cmp.Diff(edittest.Dump(out), edittest.Dump(again)); d != "" {
		t.Errorf("%s twice is not %s once:\n%s", name, name, d)
	}
	return out
}

// photon is what the factory leaves on the three media.
func photon(t *testing.T) (emmc, sd, plugin *tree.Tree) {
	t.Helper()
	common := applyFile(t, edittest.L4T(), "photon-common.toml")
	derived, err := edit.Derive(common, edit.Live)
	if err != nil {
		t.Fatal(err)
	}
	sd = applyFile(t, derived, "photon-sd.toml")
	full := applyFile(t, common, "photon-emmc.toml")
	if plugin, err = edit.Sub(full, "/media/plugin-data"); err != nil {
		t.Fatal(err)
	}
	if emmc, err = edit.Derive(full, []string{"/media/plugin-data/*", "/media/rpi/*"}); err != nil {
		t.Fatal(err)
	}
	return emmc, sd, plugin
}

func wantText(t *testing.T, tr *tree.Tree, path, want string) {
	t.Helper()
	if d := cmp.Diff(want, edittest.Text(tr, path)); d != "" {
		t.Errorf("%s:\n%s", path, d)
	}
}

func wantLinks(t *testing.T, tr *tree.Tree, links map[string]string) {
	t.Helper()
	for path, target := range links {
		if n := tr.Lookup(path[1:]); n == nil || n.Type() != tree.Symlink || n.Target != target {
			t.Errorf("%s is %+v, not a link to %s", path, n, target)
		}
	}
}

const (
	fstabHead = `# /etc/fstab: static file system information.
#
# <file system> <mount point>             <type>          <options>                               <dump> <pass>
`
	mountOptions = "defaults,nofail,x-systemd.after=local-fs-pre.target,x-systemd.before=local-fs.target"
	rpi          = "/dev/mmcblk0p11 /media/rpi ext4 defaults,nofail,ro,x-systemd.after=local-fs-pre.target,x-systemd.before=local-fs.target 0 2\n"
	args         = "rootwait rootfstype=ext4 console=ttyTCU0,115200n8 console=tty0 fbcon=map:0 net.ifnames=0\n"
)

func extlinuxConf(name, menu, root string) string {
	return "TIMEOUT 30\nDEFAULT " + name + `

MENU TITLE L4T boot options

LABEL primary
      MENU LABEL primary kernel
      LINUX /boot/Image
      INITRD /boot/initrd
      APPEND ${cbootargs} quiet root=/dev/mmcblk0p1 rw ` + args + `
# To try another kernel, add a label for it.

LABEL ` + name + `
      MENU LABEL ` + menu + `
      LINUX /boot/Image
      INITRD /boot/initrd
      FDT /boot/dtb/tegra194-xavier-nx-cti-NGX003-WAGGLE-WS.dtb
      APPEND ${cbootargs} quiet root=` + root + " ro " + args
}

func TestThePhotonIsAsItsFactoryLeavesIt(t *testing.T) {
	emmc, sd, plugin := photon(t)

	wantText(t, emmc, "/etc/fstab", fstabHead+
		"/dev/mmcblk0p1            /                     ext4           defaults                                     0 1\n"+rpi+
		"# nvme swap\n/dev/nvme0n1p1 swap swap defaults,nofail,pri=100 0 0\n"+
		"# plugin-data\n/dev/nvme0n1p4 /media/plugin-data ext4 "+mountOptions+" 0 2\n")
	wantText(t, sd, "/etc/fstab", fstabHead+
		"/dev/mmcblk1p1            /                     ext4           defaults                                     0 1\n"+rpi+
		"# scratch\n/dev/mmcblk1p2 /media/scratch ext4 "+mountOptions+" 0 2\n")

	wantText(t, emmc, edit.ExtlinuxConf, extlinuxConf("waggle", "waggle kernel", "/dev/mmcblk0p1"))
	wantText(t, sd, edit.ExtlinuxConf, extlinuxConf("wagglerecovery", "waggle recovery kernel", "/dev/mmcblk1p1"))

	const overlay = "overlayroot_cfgdisk=\"disabled\"\noverlayroot="
	wantText(t, emmc, "/etc/overlayroot.conf", overlay+`"device:dev=/dev/nvme0n1p3,timeout=180,recurse=0,swap=1"`+"\n")
	wantText(t, sd, "/etc/overlayroot.conf", overlay+"\"tmpfs:recurse=0\"\n")

	for _, tr := range []*tree.Tree{emmc, sd} {
		wantText(t, tr, "/etc/ssh/sshd_config", "Port 22\n#PermitRootLogin prohibit-password\nPermitRootLogin yes\nListenAddress 127.0.0.1\n")
		wantText(t, tr, "/etc/waggle/factory_provision", "imgtool photon-nx 1234\n")
		wantText(t, tr, "/etc/waggle/factory/factory_provision", "imgtool photon-nx 1234\n")
		wantText(t, tr, "/boot/initrd", "initrd with overlayroot")
		wantLinks(t, tr, map[string]string{
			"/etc/waggle/config.ini":     "config-prod.ini",
			"/etc/waggle/firewall/rules": "rules.prod",
			"/root/.ssh/authorized_keys": "authorized_keys.prod",
			"/boot/initrd":               "/boot/initrd.img-" + edittest.Kernel,
		})
		for path, mode := range map[string]uint32{
			"root/.ssh":                                  tree.Dir | 0o700,
			"root/.ssh/authorized_keys.prod":             tree.Regular | 0o600,
			"etc/NetworkManager/system-connections/wan0": tree.Regular | 0o600,
			"etc/sudoers.d/waggle":                       tree.Regular | 0o440,
			"etc/waggle/docker/certs/domain.key":         tree.Regular | 0o600,
		} {
			if n := tr.Lookup(path); n == nil || n.Mode != mode {
				t.Errorf("%s: %+v, want mode %o", path, n, mode)
			}
		}
		if ping := tr.Lookup("bin/ping"); ping != tr.Lookup("bin/ping4") || len(ping.Xattrs) != 1 {
			t.Errorf("ping: %+v", ping)
		}
	}
	wantLinks(t, emmc, map[string]string{
		"/var/lib/docker":  "/media/plugin-data/docker",
		"/etc/rancher":     "/media/plugin-data/k3s/etc/rancher",
		"/var/lib/kubelet": "/media/plugin-data/k3s/kubelet",
		"/var/lib/rancher": "/media/plugin-data/k3s/rancher",

		"/etc/systemd/system/multi-user.target.wants/docker.service":                     "/lib/systemd/system/docker.service",
		"/etc/systemd/system/multi-user.target.wants/k3s.service":                        "/etc/systemd/system/k3s.service",
		"/etc/systemd/system/default.target.wants/waggle-registry-mirror-docker.service": "/etc/systemd/system/waggle-registry-mirror-docker.service",
		"/etc/systemd/system/default.target.wants/waggle-registry-mirror-sage.service":   "/etc/systemd/system/waggle-registry-mirror-sage.service",
		"/etc/systemd/system/default.target.wants/waggle-registry-local.service":         "/etc/systemd/system/waggle-registry-local.service",
	})

	wantPlugin := `/ 040755 0:0 @1700000000
/docker 040711 0:0 @1600000000
/docker/engine-id 100600 0:0 @1600000000
	1
/docker_registry 040755 0:0 @1700000000
/docker_registry/local 040755 0:0 @1700000000
/docker_registry/mirrors 040755 0:0 @1700000000
/docker_registry/mirrors/docker 040755 0:0 @1700000000
/docker_registry/mirrors/sage 040755 0:0 @1700000000
/k3s 040755 0:0 @1700000000
/k3s/etc 040755 0:0 @1700000000
/k3s/etc/rancher 040755 0:0 @1600000000
/k3s/etc/rancher/k3s 040755 0:0 @1600000000
/k3s/etc/rancher/k3s/k3s.yaml 100644 0:0 @1600000000
	apiVersion: v1
/k3s/kubelet 040755 0:0 @1700000000
/k3s/rancher 040755 0:0 @1600000000
/k3s/rancher/k3s 040755 0:0 @1600000000
/k3s/rancher/k3s/agent 040755 0:0 @1600000000
/k3s/rancher/k3s/agent/images 040755 0:0 @1600000000
/k3s/rancher/k3s/agent/images/base.tar 100644 0:0 @1600000000
	images
`
	if d := cmp.Diff(wantPlugin, edittest.Dump(plugin)); d != "" {
		t.Error(d)
	}
}

// What the factory does not touch is as it was.
func TestNothingElseOfThePhotonChanges(t *testing.T) {
	emmc, sd, _ := photon(t)
	before := edittest.L4T()
	for name, c := range map[string]struct {
		tr   *tree.Tree
		want string
	}{
		"emmc": {emmc, "/boot/extlinux/extlinux.conf /boot/initrd /etc/fstab /etc/overlayroot.conf /etc/rancher -/etc/rancher/k3s -/etc/rancher/k3s/k3s.yaml " +
			"/etc/ssh/sshd_config +/etc/systemd/system/default.target.wants +/etc/systemd/system/default.target.wants/waggle-registry-local.service " +
			"+/etc/systemd/system/default.target.wants/waggle-registry-mirror-docker.service +/etc/systemd/system/default.target.wants/waggle-registry-mirror-sage.service " +
			"+/etc/systemd/system/multi-user.target.wants +/etc/systemd/system/multi-user.target.wants/docker.service +/etc/systemd/system/multi-user.target.wants/k3s.service " +
			"/etc/waggle/config.ini +/etc/waggle/factory/factory_provision +/etc/waggle/factory_provision /etc/waggle/firewall/rules +/media/plugin-data " +
			"-/media/rpi/boot -/media/rpi/boot/kernel8.img /root/.ssh/authorized_keys /var/lib/docker -/var/lib/docker/engine-id +/var/lib/kubelet /var/lib/rancher " +
			"-/var/lib/rancher/k3s -/var/lib/rancher/k3s/agent -/var/lib/rancher/k3s/agent/images -/var/lib/rancher/k3s/agent/images/base.tar"},
		"sd": {sd, "/boot/extlinux/extlinux.conf /boot/initrd -/dev/null /etc/fstab /etc/overlayroot.conf /etc/ssh/sshd_config /etc/waggle/config.ini " +
			"+/etc/waggle/factory/factory_provision +/etc/waggle/factory_provision /etc/waggle/firewall/rules /media/rpi /media/rpi/boot -/media/rpi/boot/kernel8.img " +
			"/root/.ssh/authorized_keys -/run/initctl -/tmp/left -/var/log/journal -/var/log/journal/1 -/var/log/journal/1/system.journal"},
	} {
		t.Run(name, func(t *testing.T) {
			if d := cmp.Diff(strings.Fields(c.want), changes(before, c.tr)); d != "" {
				t.Error(d)
			}
		})
	}
}

// changes are the paths that differ, new ones with a + and missing ones with a -.
func changes(before, after *tree.Tree) []string {
	both := before.Without(nil)
	for path, n := range after.All() {
		if both.Lookup(path) == nil {
			both.Put(path, n)
		}
	}
	var paths []string
	for path := range both.All() {
		a, b := before.Lookup(path), after.Lookup(path)
		switch {
		case a == nil:
			paths = append(paths, "+/"+path)
		case b == nil:
			paths = append(paths, "-/"+path)
		case !cmp.Equal(*a, *b, cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".Content" }, cmp.Ignore())) ||
			edittest.Text(before, "/"+path) != edittest.Text(after, "/"+path):
			paths = append(paths, "/"+path)
		}
	}
	return paths
}

func TestThePhotonBootsByCBootsRules(t *testing.T) {
	emmc, sd, _ := photon(t)
	for name, tr := range map[string]*tree.Tree{"emmc": emmc, "sd": sd} {
		problems, err := edit.LintExtlinux(tr)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range problems {
			if p.Fatal || !strings.Contains(p.Text, "label primary has no FDT") {
				t.Errorf("%s: %v", name, p)
			}
		}
		if len(problems) != 1 {
			t.Errorf("%s: %v", name, problems)
		}
	}
	sd.Remove("boot/initrd.img-" + edittest.Kernel)
	problems, _ := edit.LintExtlinux(sd)
	if len(problems) < 2 || !strings.Contains(problems[1].Text, "INITRD /boot/initrd does not exist") {
		t.Error(problems)
	}
	sd.Remove("boot/extlinux")
	if _, err := edit.LintExtlinux(sd); err == nil || err.Error() != "/boot/extlinux/extlinux.conf: boot/extlinux: file does not exist" {
		t.Error(err)
	}
}
