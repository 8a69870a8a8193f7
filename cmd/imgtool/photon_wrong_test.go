package main

import (
	"archive/tar"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"imgtool/image/edit/edittest"
	"imgtool/image/tree"
)

// Errors in a root file system or command line for the Photon NX are reported in one
// sentence, before anything is written.
func TestPhotonErrors(t *testing.T) {
	put := func(path, text string) func(*tree.Tree) {
		return func(t *tree.Tree) {
			t.Put(path, &tree.Inode{Mode: tree.Regular | 0o644, ModTime: edittest.ModTime, Content: strings.NewReader(text)})
		}
	}
	gone := func(path string) func(*tree.Tree) { return func(t *tree.Tree) { t.Remove(path) } }
	const conf = "boot/extlinux/extlinux.conf"
	menu := func(change func(string) string) func(*tree.Tree) {
		return func(t *tree.Tree) { put(conf, change(edittest.Text(t, "/"+conf)))(t) }
	}
	replace := func(old, new string) func(*tree.Tree) {
		return menu(func(s string) string { return strings.ReplaceAll(s, old, new) })
	}
	labels := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "LABEL x%02d\n LINUX /boot/Image\n", i)
		}
		return b.String()
	}
	dir := t.TempDir()
	file := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	big := sparseFile(t, filepath.Join(dir, "big"), 65<<20)
	empty := filepath.Join(dir, "empty")
	if err := os.Mkdir(empty, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		change func(*tree.Tree)
		args   []string
		status int
		want   string
	}{
		{"no kernel", gone("boot/Image"), nil, 3, `no kernel: /boot/Image`},
		{"a kernel of another version", put("boot/Image", "Linux version 5.10.1 (x)"), nil, 3, `5\.10\.1`},
		{"no modules", gone("usr/lib/modules/" + edittest.Kernel), nil, 3, `the kernel is 4\.9\.140, but the root file system has no /lib/modules/4\.9\.140`},
		{"no initrd", gone("boot/initrd.img-" + edittest.Kernel), nil, 3, `/boot/initrd\.img-4\.9\.140`},
		{"an initrd without overlayroot", put("boot/initrd.img-"+edittest.Kernel, string(initrdWith("init"))), nil, 3, `has no overlayroot, .* --input initrd=FILE`},
		{"no menu", gone(conf), nil, 3, `/boot/extlinux/extlinux\.conf`},
		{"no device tree", gone("boot/dtb/tegra194-xavier-nx-cti-NGX003-WAGGLE-WS.dtb"), nil, 3, `/boot/dtb/tegra194-xavier-nx-cti-NGX003-WAGGLE-WS\.dtb`},
		{"a menu without a timeout", replace("TIMEOUT 30\n", ""), nil, 3, `extlinux\.conf: TIMEOUT is missing`},
		{"a menu that waits for ever", replace("TIMEOUT 30", "TIMEOUT 5"), nil, 3, `line 1: TIMEOUT 5 is less than 10`},
		{"a menu of 5000 bytes", menu(func(s string) string { return s + "#" + strings.Repeat("x", 5000) + "\n" }), nil, 3, `409[56]`},
		{"a menu of 21 labels", menu(func(s string) string { return s + labels(20) }), nil, 3, `2[012] labels`},
		{"a menu with another kernel", replace("LINUX /boot/Image", "LINUX /boot/vmlinuz"), nil, 3, `LINUX /boot/vmlinuz does not exist`},
		{"keywords in lower case", menu(strings.ToLower), nil, 3, `no label to copy`},
		{"no sshd_config", gone("etc/ssh/sshd_config"), nil, 3, `append-line: /etc/ssh/sshd_config: .*: the root file system must have it, or get it from --edits`},
		{"no production rules", gone("etc/waggle/firewall/rules.prod"), nil, 3, `rules\.prod`},
		{"no production config", gone("etc/waggle/config-prod.ini"), nil, 3, `config-prod\.ini`},
		{"no production keys", gone("root/.ssh/authorized_keys.prod"), nil, 3, `authorized_keys\.prod`},
		{"no docker", gone("usr/lib/systemd/system/docker.service"), nil, 3, `docker\.service`},
		{"a unit that cannot be enabled", put("etc/systemd/system/k3s.service", "[Service]\n"), nil, 3, `k3s\.service.*\[Install\]`},
		{"no fstab", gone("etc/fstab"), nil, 3, `/etc/fstab`},
		{"an fstab with a partition there is not", put("etc/fstab", "/dev/mmcblk0p1 / ext4 defaults 0 1\n/dev/mmcblk0p13 /x ext4 defaults 0 2\n"), nil, 3, `mounts /dev/mmcblk0p13 at /x, but no medium of photon-nx has that partition`},
		{"the shared key in the root", put("etc/waggle/sage_registration", "key"), nil, 3, `/etc/waggle/sage_registration exists`},
		{"a unit's key in the root", put("etc/waggle/bk_key.pem", "key"), nil, 3, `/etc/waggle/bk_key\.pem exists`},
		{"no overlayroot.conf", gone("etc/overlayroot.conf"), nil, 3, `/etc/overlayroot\.conf`},
		{"a medium there is not", nil, []string{"--medium", "usb"}, 2, `photon-nx has no medium "usb" \(it has emmc, sd, nvme\)`},
		{"a size for a medium there is not", nil, []string{"--size", "usb=16GiB"}, 2, `no medium "usb"`},
		{"a card that is too small", nil, []string{"--size", "sd=8GiB"}, 2, `sd: a disk of 8589934592 bytes is too small: the layout photon-sd needs 15500000256`},
		{"an NVMe that is too small", nil, []string{"--size", "nvme=500000000000"}, 2, `nvme: a disk of 500000000000 bytes is too small: .* 512000000000`},
		{"half a sector", nil, []string{"--size", "sd=16000000001"}, 2, `whole sectors`},
		{"a payload that is too large", nil, []string{"--input", "kernel.img=" + big}, 3, `kernel\.img: 68157440 bytes do not fit in the partition kernel, which has 67108864`},
		{"a profile there is not", nil, []string{"--profile", "test"}, 2, `--profile is "test"; it must be production or development`},
		{"a variable without a value", nil, []string{"--var", "KERNEL"}, 2, `--var "KERNEL": it must be NAME=VALUE`},
		{"an edit there is not", nil, []string{"--edits", file("e.toml", "[[edit]]\ndo = \"burn\"\n")}, 3, `e\.toml:\d: .*burn`},
		{"an edit of what is not there", nil, []string{"--edits", file("f.toml", "[[edit]]\ndo = \"chmod\"\npath = \"/none\"\nmode = \"0600\"\n")}, 3, `f\.toml:1: chmod: /none`},
		{"a conf that runs something", nil, []string{"--provision-conf", file("a.conf", "A=$(id)\n")}, 3, `a\.conf:1: .* nothing is run`},
		{"a conf with another device", nil, []string{"--provision-conf", file("b.conf", "SD_DEVICE=/dev/sda\n")}, 3, `b\.conf: SD_DEVICE: the value is \(/dev/sda\); only \(/dev/mmcblk1\) is supported`},
		{"a conf with an odd size", nil, []string{"--provision-conf", file("c.conf", "NVME_PART_SIZE_SWAP=16GB\n")}, 3, `c\.conf: NVME_PART_SIZE_SWAP: invalid size "16GB"`},
		{"a conf with a partition larger than the disk", nil, []string{"--provision-conf", file("d.conf", "NVME_PART_SIZE_SYSTEM=900G\n")}, 3, `nvme: `},
		{"an unknown partition", nil, []string{"--partition", "KERNEL=" + big}, 2, `photon-nx has no partition "KERNEL"; did you mean kernel\?`},
		{"an empty directory as the root file system", nil, []string{"--rootfs", empty}, 3, `no kernel`},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := edittest.L4T()
			if c.change != nil {
				c.change(root)
			}
			out := t.TempDir()
			path := filepath.Join(out, "l4t.tar")
			f, err := os.Create(path)
			if err != nil {
				t.Fatal(err)
			}
			w := tar.NewWriter(f)
			if err := writeTree(w, root); err != nil {
				t.Fatal(err)
			}
			w.Close()
			f.Close()
			status, words := ended(t, tool(t, append([]string{"build", "--board", "photon-nx", "--rootfs", path, "-o", filepath.Join(out, "p.img")}, c.args...)...))
			var said []string
			for line := range strings.Lines(words) {
				if strings.HasPrefix(line, "imgtool: ") && !strings.HasPrefix(line, "imgtool: warning: ") && !strings.HasPrefix(line, "imgtool: see ") {
					said = append(said, line)
				}
			}
			if status != c.status || len(said) == 0 || !regexp.MustCompile(c.want).MatchString(strings.Join(said, "")) {
				t.Errorf("exit status %d, want %d and %q: %s", status, c.status, c.want, words)
			}
			t.Log(strings.Join(said, ""))
			if left, _ := filepath.Glob(filepath.Join(out, "p*")); len(left) > 0 {
				t.Errorf("left behind: %s", left)
			}
		})
	}
}
