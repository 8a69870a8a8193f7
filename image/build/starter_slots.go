package build

import (
	"bytes"
	"context"
	_ "embed"
	"slices"
	"strings"

	"imgtool/boards"
	"imgtool/image/source"
	"imgtool/image/tree/sums"
)

var (
	//go:embed starter/disk.sh
	initrdDisk string
	//go:embed starter/mark-good.sh
	markGood string
	//go:embed starter/udhcpc.sh
	udhcpc string
	//go:embed starter/boot-to-ums.sh
	bootToUMS string
)

// openStarterInitrd is an initrd that makes the partitions the image leaves to the
// device, mounts the slot and the data, and hands over.
func (b *builder) openStarterInitrd(ctx context.Context) (*source.File, error) {
	s := b.Board.Starter
	from, err := b.packages.gather(ctx, []string{s.Busybox, s.Kernel})
	if err != nil {
		return nil, err
	}
	modules, err := moduleClosure(from[1], s.Modules)
	if err != nil {
		return nil, err
	}
	p := starterInitrd(from[0], modules, map[string]string{"init": initrdInit}, b.Time)
	p.text("disk", initrdDisk)
	p.dirs(0o755, "etc etc/repart.d")
	for _, d := range b.Board.Repart() {
		p.text("etc/repart.d/"+d.Name, d.Text)
	}
	more, err := p.programs(ctx, &b.packages, "bin", programsIn(s, "initrd"))
	if err != nil {
		return nil, err
	}
	data, err := p.pack()
	if err != nil {
		return nil, err
	}
	return fileOf(bytes.NewReader(data), origin(append(from, more...)))
}

// openStarterRoot is a root file system of busybox with an init that runs rcS, says
// which slot and build it is and gives a console.
func (b *builder) openStarterRoot(ctx context.Context) (*source.Root, error) {
	busybox, err := b.packages.get(ctx, b.Board.Starter.Busybox)
	if err != nil {
		return nil, err
	}
	var services []string
	provisioning := firstBoot()
	if provisioning != nil {
		services = []string{"/sbin/first-boot"}
	}
	p := busyboxRoot(busybox, b.Board.Name, rcS, b.Time, services...)
	p.dirs(0o755, "data lib etc/ssh")
	p.program("etc/udhcpc.sh", udhcpc)
	// The services that first-boot runs give up their rights to these.
	p.text("etc/passwd", "root::0:0:root:/root:/bin/sh\nsshd:x:74:74::/run/sshd:/bin/false\ndnsmasq:x:75:75::/var:/bin/false\n_chrony:x:76:76::/var:/bin/false\n")
	p.text("etc/group", "root:x:0:\nsshd:x:74:\ndnsmasq:x:75:\n_chrony:x:76:\n")
	p.program("sbin/boot_to_ums", bootToUMS)
	if provisioning != nil {
		p.file("sbin/first-boot", 0o755, provisioning)
	}
	p.program("sbin/mark-good", markGood)
	more, err := p.programs(ctx, &b.packages, "usr/bin", programsIn(b.Board.Starter, "rootfs"))
	if err != nil {
		return nil, err
	}
	digest, known, err := sums.Digest(ctx, p.tree, sums.Options{})
	return &source.Root{Tree: p.tree, Digest: digest, Sums: known, Origin: origin(append([]*source.Package{busybox}, more...))}, err
}

// origin names packages with their versions.
func origin(packages []*source.Package) string {
	var all []string
	for _, p := range packages {
		all = append(all, p.Name+" "+p.Version)
	}
	return strings.Join(all, ", ")
}

func programsIn(s boards.Starter, in string) []boards.Program {
	return slices.DeleteFunc(slices.Clone(s.Programs), func(p boards.Program) bool { return p.In != in })
}
