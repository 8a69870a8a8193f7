package build

import (
	"bytes"
	"cmp"
	"context"
	"embed"
	"encoding/binary"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"imgtool/boards"
	"imgtool/image/source"
	"imgtool/image/tree"
	"imgtool/image/tree/sums"
)

var (
	//go:embed starter/photon-init.sh
	photonInit string
	//go:embed starter/overlayroot.sh
	photonOverlayroot string
	//go:embed starter/photon-rcS.sh
	photonRcS string
	//go:embed starter/photon-rcK.sh
	photonRcK string

	// What a boot loader and edits look for. QEMU shows the console ttyAMA0, which
	// no Tegra has.
	//go:embed starter/photon
	photonFiles embed.FS
)

// photonStarter is its name in /etc/os-release.
const photonStarter = "imgtool starter for Photon NX, not an L4T"

// openStarterPhoton is a root file system with the paths that the provisioning of
// a Photon NX is about, of Debian's kernel and busybox: no L4T, and for QEMU. Its
// initrd has a script of ours in the place of Ubuntu's overlayroot.
func (b *builder) openStarterPhoton(ctx context.Context) (*source.Root, error) {
	busybox, err := b.packages.get(ctx, b.Board.Starter.Busybox)
	if err != nil {
		return nil, err
	}
	kernel, err := b.packages.get(ctx, b.Board.Starter.Kernel)
	if err != nil {
		return nil, err
	}
	modules, err := moduleClosure(kernel, b.Board.Starter.Modules)
	if err != nil {
		return nil, err
	}
	initrd, err := starterInitrd(busybox, modules, map[string]string{"init": photonInit, "scripts/init-bottom/overlayroot": photonOverlayroot}, b.Time).pack()
	if err != nil {
		return nil, err
	}

	p := busyboxRoot(busybox, b.Board.Name, photonRcS, b.Time)
	p.program("etc/init.d/rcK", photonRcK)
	p.text("etc/inittab", "::sysinit:/etc/init.d/rcS\n::respawn:-/bin/sh\n::ctrlaltdel:/bin/reboot\n::shutdown:/etc/init.d/rcK\n")
	version, err := p.kernel(kernel)
	if err != nil {
		return nil, err
	}
	for _, m := range modules {
		p.file("lib/modules/"+version+"/"+m.name+".ko", 0o644, bytes.NewReader(m.data))
	}
	p.file("boot/initrd.img-"+version, 0o644, bytes.NewReader(initrd))
	p.link("boot/initrd", "initrd.img-"+version)
	// QEMU has a device tree of its own.
	if path := strings.Trim(cmp.Or(b.Vars["KERNEL_DTB"], b.Board.Vars["KERNEL_DTB"]), "/"); path != "" {
		p.file(path, 0o644, bytes.NewReader(deviceTree(photonStarter)))
	}
	p.files(photonFiles, "starter/photon")
	p.text("etc/fstab", photonFstab)
	if slices.ContainsFunc(b.Board.Trees, func(t boards.Tree) bool { return t.Sub == "/media/rpi" }) {
		p.text("etc/fstab", photonFstab+photonFstabRPi)
		p.text("media/rpi/boot/README", "The files that a Raspberry Pi boots from would be here.\n")
	}
	p.keys()
	if p.err != nil {
		return nil, p.err
	}
	digest, known, err := sums.Digest(ctx, p.tree, sums.Options{})
	return &source.Root{Tree: p.tree, Digest: digest, Sums: known,
		Origin: fmt.Sprintf("%s %s, %s %s", busybox.Name, busybox.Version, kernel.Name, kernel.Version)}, err
}

// kernel puts the one of a Debian package where an L4T has its own.
func (p *planter) kernel(pkg *source.Package) (version string, err error) {
	for path, n := range pkg.Tree.All() {
		if v, ok := strings.CutPrefix(path, "boot/vmlinuz-"); ok && n.Type() == tree.Regular {
			p.file("boot/Image", 0o644, n.Content)
			return v, nil
		}
	}
	return "", fmt.Errorf("package %s: there is no /boot/vmlinuz-VERSION", pkg.Name)
}

// files puts those of a folder that comes with the program.
func (p *planter) files(from embed.FS, folder string) {
	err := fs.WalkDir(from, folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := from.ReadFile(path)
		p.text(strings.TrimPrefix(path, folder+"/"), string(text))
		return err
	})
	p.err = cmp.Or(p.err, err)
}

// keys puts what only root may look into, and the links of an image that is not
// locked down yet.
func (p *planter) keys() {
	p.dirs(0o700, "root root/.ssh etc/NetworkManager/system-connections")
	p.file("root/.ssh/authorized_keys.dev", 0o600, nil)
	p.file("root/.ssh/authorized_keys.prod", 0o600, nil)
	p.link("root/.ssh/authorized_keys", "authorized_keys.dev")
	p.link("etc/waggle/config.ini", "config-dev.ini")
	p.link("etc/waggle/firewall/rules", "rules.dev")
	p.dirs(0o755, "etc/rancher etc/waggle/factory media var/lib/kubelet var/lib/rancher")
	p.dirs(0o711, "var/lib/docker")
}

const (
	photonFstab = "# <file system> <mount point> <type> <options> <dump> <pass>\n/dev/mmcblk0p1 / ext4 defaults 0 1\n"
	// Where the eMMC has the root of a Raspberry Pi.
	photonFstabRPi = "/dev/mmcblk0p11 /media/rpi ext4 defaults,nofail,ro,x-systemd.after=local-fs-pre.target,x-systemd.before=local-fs.target 0 2\n"
)

// deviceTree is one that says what it is and describes nothing, as of chapter 5
// of the devicetree specification.
func deviceTree(model string) []byte {
	const (
		beginNode, endNode, prop, end = 1, 2, 3, 9

		header  = 40
		reserve = 16 // one entry of zeros
	)
	be := binary.BigEndian
	names := "model\x00compatible\x00"
	nodes := be.AppendUint32(nil, beginNode)
	nodes = be.AppendUint32(nodes, 0) // the root has no name
	for _, p := range []struct {
		name  int
		value string
	}{{0, model}, {len("model") + 1, "imgtool,starter"}} {
		value := p.value + "\x00"
		nodes = be.AppendUint32(nodes, prop)
		nodes = be.AppendUint32(nodes, uint32(len(value)))
		nodes = be.AppendUint32(nodes, uint32(p.name))
		nodes = append(nodes, value...)
		nodes = append(nodes, make([]byte, -len(nodes)&3)...)
	}
	nodes = be.AppendUint32(nodes, endNode)
	nodes = be.AppendUint32(nodes, end)

	var b []byte
	for _, v := range []int{0xd00dfeed, header + reserve + len(nodes) + len(names), header + reserve, header + reserve + len(nodes), header,
		17, 16, 0, len(names), len(nodes)} { // versions 17 and 16, and the first processor
		b = be.AppendUint32(b, uint32(v))
	}
	b = append(b, make([]byte, reserve)...)
	b = append(b, nodes...)
	return append(b, names...)
}
