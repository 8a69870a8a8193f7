package starter

import (
	"bytes"
	"compress/gzip"
	"context"
	"embed"
	"fmt"
	"io"
	"slices"
	"strings"

	"imgtool/boards"
	"imgtool/image"
	"imgtool/image/source"
	"imgtool/image/tree/sums"
)

var (
	//go:embed scripts/functions.sh
	initrdFunctions string
	//go:embed scripts/initrd-init.sh
	initrdInit string
	//go:embed scripts/rcS.sh
	rcS string
	//go:embed scripts/disk.sh
	initrdDisk string
	//go:embed scripts/mark-good.sh
	markGood string
	//go:embed scripts/udhcpc.sh
	udhcpc string
	//go:embed scripts/boot-to-ums.sh
	bootToUMS string
)

// slotInitrd returns an initrd that makes the deferred partitions, mounts the slot's root
// file system and the data partition, and starts init.
func (s *System) slotInitrd(ctx context.Context) (*source.File, error) {
	opt := s.Board.Starter
	from, err := s.packages.gather(ctx, []string{opt.Busybox, opt.Kernel})
	if err != nil {
		return nil, err
	}
	modules, err := modulesWithDependencies(from[1], opt.Modules)
	if err != nil {
		return nil, err
	}
	b := newInitrd(from[0], modules, map[string]string{"init": initrdInit}, s.Time)
	b.text("disk", initrdDisk)
	b.dirs(0o755, "etc etc/repart.d")
	for _, d := range s.Board.Repart() {
		b.text("etc/repart.d/"+d.Name, d.Text)
	}
	more, err := b.programs(ctx, &s.packages, "bin", s.programsIn("initrd"))
	if err != nil {
		return nil, err
	}
	data, err := b.initrd()
	if err != nil {
		return nil, err
	}
	from = append(from, more...)
	file, err := source.NewFile(bytes.NewReader(data), origin(from))
	if err != nil {
		return nil, err
	}
	file.Debs = debs(from)
	return file, nil
}

// slotRoot returns a root file system of busybox. Its init runs rcS, which prints the slot
// and the build, and gives a console.
func (s *System) slotRoot(ctx context.Context) (*source.Root, error) {
	busybox, err := s.packages.get(ctx, s.Board.Starter.Busybox)
	if err != nil {
		return nil, err
	}
	var services []string
	provisioning, err := firstBoot()
	if err != nil {
		return nil, err
	}
	if provisioning != nil {
		services = []string{"/sbin/first-boot"}
	}
	b := newRoot(busybox, s.Board.Name, rcS, s.Time, services...)
	b.dirs(0o755, "data lib etc/ssh")
	b.script("etc/udhcpc.sh", udhcpc)
	// The services that first-boot runs drop their privileges to these.
	b.text("etc/passwd", "root::0:0:root:/root:/bin/sh\nsshd:x:74:74::/run/sshd:/bin/false\ndnsmasq:x:75:75::/var:/bin/false\n_chrony:x:76:76::/var:/bin/false\n")
	b.text("etc/group", "root:x:0:\nsshd:x:74:\ndnsmasq:x:75:\n_chrony:x:76:\n")
	b.script("sbin/boot_to_ums", bootToUMS)
	if provisioning != nil {
		b.file("sbin/first-boot", 0o755, provisioning)
	}
	b.script("sbin/mark-good", markGood)
	more, err := b.programs(ctx, &s.packages, "usr/bin", s.programsIn("rootfs"))
	if err != nil {
		return nil, err
	}
	digest, known, err := sums.Digest(ctx, b.tree, sums.Options{})
	from := append([]*source.Package{busybox}, more...)
	return &source.Root{Tree: b.tree, Digest: digest, Sums: known, Origin: origin(from), Debs: debs(from)}, err
}

// origin returns the names and versions of packages.
func origin(packages []*source.Package) string {
	var all []string
	for _, p := range packages {
		all = append(all, p.Name+" "+p.Version)
	}
	return strings.Join(all, ", ")
}

func debs(packages []*source.Package) (all []source.Deb) {
	for _, p := range packages {
		all = append(all, p.Deb)
	}
	return all
}

func (s *System) programsIn(in string) []boards.Program {
	return slices.DeleteFunc(slices.Clone(s.Board.Starter.Programs), func(p boards.Program) bool {
		return p.In != in || p.If == "verity" && !s.Board.Verity
	})
}

// firstBootDir has the program first-boot of cmd/first-boot for arm64, compressed with gzip, if
// make built it.
//
//go:embed first-boot
var firstBootDir embed.FS

// firstBoot returns that program, or nil.
func firstBoot() (image.Content, error) {
	text, err := firstBootDir.ReadFile("first-boot/first-boot")
	if err != nil {
		return nil, nil
	}
	r, err := gzip.NewReader(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("the program first-boot inside imgtool: %w: run make first-boot again", err)
	}
	if text, err = io.ReadAll(r); err != nil {
		return nil, fmt.Errorf("the program first-boot inside imgtool: %w", err)
	}
	return bytes.NewReader(text), nil
}
