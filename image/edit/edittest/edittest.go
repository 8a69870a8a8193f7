// Package edittest has small root file systems for tests, with the files of NVIDIA's L4T and
// of the Photon that edits change. Their contents are short and made up.
package edittest

import (
	"crypto/sha256"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"

	"imgtool/image/tree"
)

// ModTime is the time of everything in the tree, in seconds since 1970.
const ModTime = 1600000000

// Kernel is the version of the kernel in /boot.
const Kernel = "4.9.140"

// Initrd is a cpio archive in the newc format with only Ubuntu's overlayroot script, which
// is empty.
const Initrd = "070701" + "00000001" + "000081ed" + zeros + zeros + "00000001" + zeros + zeros + zeros + zeros + zeros + zeros + "00000020" + zeros +
	"scripts/init-bottom/overlayroot\x00" + "\x00\x00" +
	"070701" + zeros + zeros + zeros + zeros + "00000001" + zeros + zeros + zeros + zeros + zeros + zeros + "0000000b" + zeros +
	"TRAILER!!!\x00" + "\x00\x00\x00"

const zeros = "00000000"

type file struct {
	mode  uint32
	owner uint32 // user and group
	path  string
	text  string // or the target of a link
}

const (
	dir  = tree.Dir | 0o755
	reg  = tree.Regular | 0o644
	key  = tree.Regular | 0o600
	prog = tree.Regular | 0o755
	link = tree.SymlinkMode
)

var files = []file{
	{dir, 0, "bin", ""},
	{prog, 0, "bin/ping", "\x7fELF ping"},
	{reg, 0, "boot/Image", "Linux version " + Kernel + " (made up)\n"},
	{reg, 0, "boot/initrd", "initrd of the factory"},
	{reg, 0, "boot/initrd.img-" + Kernel, Initrd},
	{reg, 0, "boot/dtb/tegra194-xavier-nx-cti-NGX003-WAGGLE-WS.dtb", "\xd0\x0d\xfe\xed"},
	{reg, 0, "boot/extlinux/extlinux.conf", `TIMEOUT 30
DEFAULT primary

MENU TITLE L4T boot options

LABEL primary
      MENU LABEL primary kernel
      LINUX /boot/Image
      INITRD /boot/initrd
      APPEND ${cbootargs} quiet root=/dev/mmcblk0p1 rw rootwait rootfstype=ext4 console=ttyTCU0,115200n8 console=tty0 fbcon=map:0 net.ifnames=0

# To try another kernel, add a label for it.
`},
	{dir, 0, "dev", ""},
	{tree.CharDev | 0o666, 0, "dev/null", ""},
	{reg, 0, "etc/dnsmasq.d/20-rpi.conf", "enable-tftp\ntftp-root=/media/rpi/boot\n"},
	{reg, 0, "etc/fstab", `# /etc/fstab: static file system information.
#
# <file system> <mount point>             <type>          <options>                               <dump> <pass>
/dev/mmcblk0p1            /                     ext4           defaults                                     0 1
/dev/mmcblk0p11 /media/rpi ext4 defaults,nofail,ro,x-systemd.after=local-fs-pre.target,x-systemd.before=local-fs.target 0 2
`},
	{reg, 0, "etc/group", "root:x:0:\nshadow:x:42:\nwaggle:x:1000:\n"},
	{reg, 0, "etc/hostname", "ws-nxcore-prereg\n"},
	{reg, 0, "etc/machine-id", "\n"},
	{tree.Dir | 0o700, 0, "etc/NetworkManager/system-connections", ""},
	{key, 0, "etc/NetworkManager/system-connections/wan0", "[connection]\nid=wan0\n"},
	{reg, 0, "etc/overlayroot.conf", "overlayroot_cfgdisk=\"disabled\"\noverlayroot=\"\"\n"},
	{reg, 0, "etc/passwd", "root:x:0:0:root:/root:/bin/bash\nwaggle:x:1000:1000::/home/waggle:/bin/bash\n"},
	{reg, 0, "etc/rancher/k3s/k3s.yaml", "apiVersion: v1\n"},
	{reg, 0, "etc/securetty", "console\ntty1\nttyTCU0\n"},
	{tree.Regular | 0o640, 0, "etc/shadow", "root:*:18000::::::\n"},
	{reg, 0, "etc/ssh/sshd_config", "Port 22\n#PermitRootLogin prohibit-password\nPermitRootLogin yes"},
	{tree.Regular | 0o440, 0, "etc/sudoers.d/waggle", "waggle ALL=(ALL) NOPASSWD: ALL\n"},
	{reg, 0, "etc/systemd/system/k3s.service", `[Unit]
Description=Lightweight Kubernetes

[Service]
ExecStart=/usr/local/bin/k3s server

[Install]
WantedBy=multi-user.target
`},
	{reg, 0, "etc/systemd/system/waggle-registry-local.service", registry},
	{reg, 0, "etc/systemd/system/waggle-registry-mirror-docker.service", registry},
	{reg, 0, "etc/systemd/system/waggle-registry-mirror-sage.service", registry},
	{dir, 0, "etc/waggle/factory", ""},
	{reg, 0, "etc/waggle/config-dev.ini", "devmode = true\n"},
	{reg, 0, "etc/waggle/config-prod.ini", "devmode = false\n"},
	{link, 0, "etc/waggle/config.ini", "config-dev.ini"},
	{key, 0, "etc/waggle/docker/certs/domain.key", "not a key\n"},
	{link, 0, "etc/waggle/firewall/rules", "rules.dev"},
	{reg, 0, "etc/waggle/firewall/rules.dev", "*filter\nCOMMIT\n"},
	{reg, 0, "etc/waggle/firewall/rules.prod", "*filter\n:INPUT DROP\nCOMMIT\n"},
	{dir, 1000, "home/waggle", ""},
	{link, 0, "lib", "usr/lib"},
	{dir, 0, "media/rpi", ""},
	{reg, 0, "media/rpi/boot/kernel8.img", "kernel of the Pi"},
	{dir, 0, "mnt", ""},
	{dir, 0, "proc", ""},
	{tree.Dir | 0o700, 0, "root", ""},
	{tree.Dir | 0o700, 0, "root/.ssh", ""},
	{link, 0, "root/.ssh/authorized_keys", "authorized_keys.dev"},
	{key, 0, "root/.ssh/authorized_keys.dev", "ssh-ed25519 dev\n"},
	{key, 0, "root/.ssh/authorized_keys.prod", "ssh-ed25519 prod\n"},
	{dir, 0, "run", ""},
	{tree.Fifo | 0o600, 0, "run/initctl", ""},
	{dir, 0, "sys", ""},
	{tree.Dir | 0o1777, 0, "tmp", ""},
	{reg, 0, "tmp/left", "over"},
	{reg, 0, "usr/lib/modules/" + Kernel + "/modules.dep", ""},
	{reg, 0, "usr/lib/systemd/system/docker.service", `[Unit]
Description=Docker
[Service]
ExecStart=/usr/bin/dockerd
[Install]
WantedBy=multi-user.target
`},
	{reg, 0, "usr/lib/systemd/system/systemd-fsck@.service", "[Unit]\nDescription=File System Check on %f\n[Service]\nType=oneshot\n"},
	{reg, 0, "usr/lib/systemd/system/serial-getty@.service", "[Service]\nType=idle\n[Install]\nWantedBy=getty.target\n"},
	{reg, 0, "usr/lib/systemd/system/ssh.service", "[Service]\n[Install]\nWantedBy=multi-user.target\nAlias=sshd.service\n"},
	{tree.Dir | 0o711, 0, "var/lib/docker", ""},
	{key, 0, "var/lib/docker/engine-id", "1\n"},
	{reg, 0, "var/lib/rancher/k3s/agent/images/base.tar", "images"},
	{tree.Dir | 0o2755, 0, "var/log/journal", ""},
	{reg, 0, "var/log/journal/1/system.journal", "LPKSHHRH"},
	{reg, 0, "var/log/syslog", ""},
}

const registry = "[Service]\nExecStart=/usr/bin/docker start registry\n[Install]\nWantedBy=default.target\n"

func put(t *tree.Tree, f file) {
	n := &tree.Inode{Mode: f.mode, UID: f.owner, GID: f.owner, ModTime: ModTime}
	switch n.Type() {
	case tree.Symlink:
		n.Target = f.text
	case tree.CharDev:
		n.Major, n.Minor = 1, 3
	case tree.Regular:
		n.Content = strings.NewReader(f.text)
	}
	if err := t.Put(f.path, n); err != nil {
		panic("edittest: internal error: " + err.Error())
	}
}

// L4T returns a new tree. /bin/ping has a capability and a second hard link.
func L4T() *tree.Tree {
	t := tree.New(ModTime)
	for _, f := range files {
		put(t, f)
	}
	ping := t.Lookup("bin/ping")
	ping.Xattrs = []tree.Xattr{{Name: "security.capability", Value: "\x01\x00\x00\x02\x00\x20\x00\x00"}}
	t.Put("bin/ping4", ping)
	return t
}

// Agent returns a new tree of an agent as upstream builds it: with a first-boot script that
// partitions the SD card and the NVMe, with its configuration, and without a Raspberry Pi.
func Agent() *tree.Tree {
	t := L4T().Without(func(path string) bool {
		return slices.Contains([]string{"media/rpi", "etc/rancher/k3s", "var/lib/docker/engine-id", "var/lib/rancher/k3s", "var/log/journal",
			"etc/systemd/system/k3s.service", "run/initctl", "tmp/left", "dev/null"}, path)
	})
	for _, f := range []file{
		{prog, 0, "etc/rc.local", "#!/bin/bash -e\n/etc/waggle/factory/nvme_overlay.sh\n"},
		{reg, 0, "etc/waggle/config-agent.ini", "[k3s]\nagent = true\n"},
		{link, 0, "etc/waggle/config.ini", "/etc/waggle/config-agent.ini"},
		{reg, 0, "etc/dnsmasq.d/20-rpi.conf", "tftp-root=/media/rpi/sage-rpi/boot\n"},
		{reg, 0, "etc/fstab", "# <file system> <mount point> <type> <options> <dump> <pass>\n/dev/mmcblk0p1 / ext4 defaults 0 1\n"},
		{reg, 0, "usr/lib/systemd/system/k3s-agent.service", "[Service]\n[Install]\nWantedBy=multi-user.target\n"},
		{dir, 0, "etc/systemd/system/multi-user.target.wants", ""},
		{key, 0, "etc/rancher/node/password", "made up\n"},
		{reg, 0, "var/lib/docker/overlay2/l/x", "x"},
		{link, 0, "var/lib/kubelet/link", "../x"},
		{reg, 0, "var/lib/kubelet/pods/z", "z"},
		{reg, 0, "var/lib/rancher/k3s/agent/y", "y"},
		{dir, 0, "var/log/journal", ""},
		{reg, 0, "var/log/journal/0123/system.journal", "LPKSHHRH"},
		{dir, 0, "media", ""},
		{reg, 0, "mnt/m", "m"},
		{reg, 0, "run/r", "r"},
		{reg, 0, "tmp/t", "t"},
	} {
		put(t, f)
	}
	return t
}

// Dump describes a tree in text: a line for each path with mode, owner, time, and target or
// first hard link, then the text of the file, or its checksum if it is long or binary.
func Dump(t *tree.Tree) string {
	var b strings.Builder
	first := map[*tree.Inode]string{}
	for path, n := range t.All() {
		fmt.Fprintf(&b, "/%s %06o %d:%d @%d", path, n.Mode, n.UID, n.GID, n.ModTime)
		if n.Type() == tree.Symlink {
			fmt.Fprintf(&b, " -> %s", n.Target)
		}
		for _, x := range n.Xattrs {
			fmt.Fprintf(&b, " %s=%q", x.Name, x.Value)
		}
		if same, ok := first[n]; ok && n.Type() != tree.Dir {
			fmt.Fprintf(&b, " = /%s\n", same)
			continue
		}
		first[n] = path
		b.WriteByte('\n')
		if n.Type() != tree.Regular {
			continue
		}
		text := Text(t, "/"+path)
		if len(text) > 4096 || strings.ContainsFunc(text, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) {
			text = fmt.Sprintf("%d bytes, SHA-256 %x", len(text), sha256.Sum256([]byte(text)))
		}
		for line := range strings.Lines(text) {
			fmt.Fprintf(&b, "\t%s\n", strings.TrimSuffix(line, "\n"))
		}
	}
	return b.String()
}

// Text returns the content of the file that path leads to, or "" if it does not exist.
func Text(t *tree.Tree, path string) string {
	n, err := t.Open(path)
	if err != nil || n.Type() != tree.Regular || n.Content == nil {
		return ""
	}
	data, err := io.ReadAll(io.NewSectionReader(n.Content, 0, n.Size()))
	if err != nil {
		panic("edittest: internal error: " + err.Error())
	}
	return string(data)
}
