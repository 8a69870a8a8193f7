package starter

import (
	"bytes"
	"cmp"
	"context"
	"embed"
	"fmt"
	"slices"
	"strings"

	"imgtool/boards"
	"imgtool/image/source"
	"imgtool/image/tree"
	"imgtool/image/tree/sums"
)

var (
	//go:embed scripts/photon-init.sh
	photonInit string
	//go:embed scripts/overlayroot.sh
	photonOverlayroot string
	//go:embed scripts/photon-rcS.sh
	photonRcS string
	//go:embed scripts/photon-rcK.sh
	photonRcK string

	// Files that the boot loader and edits expect. The console of QEMU is ttyAMA0.
	//go:embed photon
	photonFiles embed.FS
)

// photonRoot returns a root file system with the paths that the provisioning of a Photon
// NX changes. It has Debian's kernel and busybox, is not an L4T and boots in QEMU only. A
// script in its initrd takes the place of Ubuntu's overlayroot.
func (s *System) photonRoot(ctx context.Context) (*source.Root, error) {
	from, err := s.packages.gather(ctx, []string{s.Board.Starter.Busybox, s.Board.Starter.Kernel})
	if err != nil {
		return nil, err
	}
	busybox, kernel := from[0], from[1]
	modules, err := modulesWithDependencies(kernel, s.Board.Starter.Modules)
	if err != nil {
		return nil, err
	}
	initrd, err := newInitrd(busybox, modules, map[string]string{"init": photonInit, "scripts/init-bottom/overlayroot": photonOverlayroot}, s.Time).initrd()
	if err != nil {
		return nil, err
	}

	b := newRoot(busybox, s.Board.Name, photonRcS, s.Time)
	b.script("etc/init.d/rcK", photonRcK)
	b.text("etc/inittab", "::sysinit:/etc/init.d/rcS\n::respawn:-/bin/sh\n::ctrlaltdel:/bin/reboot\n::shutdown:/etc/init.d/rcK\n")
	version, err := b.kernel(kernel)
	if err != nil {
		return nil, err
	}
	for _, m := range modules {
		b.file("lib/modules/"+version+"/"+m.name+".ko", 0o644, bytes.NewReader(m.data))
	}
	b.file("boot/initrd.img-"+version, 0o644, bytes.NewReader(initrd))
	b.link("boot/initrd", "initrd.img-"+version)
	// QEMU has another device tree.
	if path := strings.Trim(cmp.Or(s.Vars["KERNEL_DTB"], s.Board.Vars["KERNEL_DTB"]), "/"); path != "" {
		b.file(path, 0o644, bytes.NewReader(deviceTree(photonName)))
	}
	b.files(photonFiles, "photon")
	b.text("etc/fstab", photonFstab)
	if slices.ContainsFunc(s.Board.Trees, func(t boards.Tree) bool { return t.Sub == "/media/rpi" }) {
		b.text("etc/fstab", photonFstab+photonFstabRPi)
		b.text("media/rpi/boot/README", "The files that a Raspberry Pi boots from would be here.\n")
	}
	b.keys()
	if b.err != nil {
		return nil, b.err
	}
	digest, known, err := sums.Digest(ctx, b.tree, sums.Options{})
	return &source.Root{Tree: b.tree, Digest: digest, Sums: known, Origin: origin(from), Debs: debs(from)}, err
}

// kernel adds the kernel of a Debian package as /boot/Image, as in an L4T.
func (b *treeBuilder) kernel(pkg *source.Package) (version string, err error) {
	for path, n := range pkg.Tree.All() {
		if v, ok := strings.CutPrefix(path, "boot/vmlinuz-"); ok && n.Type() == tree.Regular {
			b.file("boot/Image", 0o644, n.Content)
			return v, nil
		}
	}
	return "", fmt.Errorf("package %s: no /boot/vmlinuz-VERSION", pkg.Name)
}

// keys adds the files that only root may read, and the links of an image that is not locked
// down yet.
func (b *treeBuilder) keys() {
	b.dirs(0o700, "root root/.ssh etc/NetworkManager/system-connections")
	b.file("root/.ssh/authorized_keys.dev", 0o600, nil)
	b.file("root/.ssh/authorized_keys.prod", 0o600, nil)
	b.link("root/.ssh/authorized_keys", "authorized_keys.dev")
	b.link("etc/waggle/config.ini", "config-dev.ini")
	b.link("etc/waggle/firewall/rules", "rules.dev")
	b.dirs(0o755, "etc/rancher etc/waggle/factory media var/lib/kubelet var/lib/rancher")
	b.dirs(0o711, "var/lib/docker")
}

const (
	photonFstab = "# <file system> <mount point> <type> <options> <dump> <pass>\n/dev/mmcblk0p1 / ext4 defaults 0 1\n"
	// The root file system of the Raspberry Pi is on the eMMC.
	photonFstabRPi = "/dev/mmcblk0p11 /media/rpi ext4 defaults,nofail,ro,x-systemd.after=local-fs-pre.target,x-systemd.before=local-fs.target 0 2\n"
)
