// Package starter makes small systems from Debian's kernel and busybox, for boards whose
// inputs are not given. They boot in QEMU; the system of a Rock64 also boots on the board.
//
// A definition names their parts as references below [Scheme]: starter:rootfs,
// starter:initrd and starter:dtb are for a board with slots, starter:photon is the root file
// system of a Photon NX. [System] opens them.
package starter

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"imgtool/boards"
	"imgtool/image/source"
	"imgtool/image/tree"
)

// Scheme begins references to what this package makes.
const Scheme = "starter:"

// photonName is the starter's name in /etc/os-release.
const photonName = "imgtool starter for Photon NX, not an L4T"

// Options are what a starter system is made of.
type Options struct {
	Board *boards.Board
	Vars  map[string]string // of edits, over the board's
	Time  int64             // of all files, in seconds since 1970

	// Packages opens Debian packages by their names.
	Packages func(ctx context.Context, names ...string) ([]*source.Package, error)
}

// System is a starter system for one board.
type System struct {
	Options
	packages packages
}

// New returns the starter system for a board. It opens nothing.
func New(opt Options) *System {
	return &System{opt, packages{open: opt.Packages, loaded: map[string]*source.Package{}}}
}

// Root returns a root file system by its reference, such as starter:rootfs.
func (s *System) Root(ctx context.Context, ref string) (*source.Root, error) {
	switch ref {
	case Scheme + "rootfs":
		return s.slotRoot(ctx)
	case Scheme + "photon":
		return s.photonRoot(ctx)
	}
	return nil, fmt.Errorf("unknown root file system %q", ref)
}

// File returns a file by its reference, such as starter:initrd.
func (s *System) File(ctx context.Context, ref string) (*source.File, error) {
	switch ref {
	case Scheme + "initrd":
		return s.slotInitrd(ctx)
	case Scheme + "dtb":
		return source.NewFile(bytes.NewReader(deviceTree(photonName)), "made for QEMU, and describes no board")
	}
	return nil, fmt.Errorf("unknown file %q", ref)
}

// Stamp writes the name of the starter system and the build ID into /etc/os-release of a
// root file system that came from [System.Root]. It does nothing for other references.
func (s *System) Stamp(ref string, root *tree.Tree, buildID string) error {
	name := "imgtool starter"
	switch ref {
	case Scheme + "rootfs":
	case Scheme + "photon":
		name = photonName
	default:
		return nil
	}
	return root.Put("etc/os-release", &tree.Inode{Mode: tree.Regular | 0o644, ModTime: s.Time,
		Content: strings.NewReader("NAME=\"" + name + "\"\nID=imgtool-starter\nBUILD_ID=" + buildID + "\n")})
}
