package build

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"imgtool/boards"
	"imgtool/image"
	"imgtool/image/edit"
	"imgtool/image/fstab"
	"imgtool/image/initramfs"
	"imgtool/image/tree"
)

// checkTree checks for forbidden paths, and whether a tree can boot.
func (b *builder) checkTree(t boards.Tree, vars map[string]string) error {
	made := b.trees[t.Name]
	for _, path := range t.Forbid {
		if made.Lookup(strings.Trim(path, "/")) != nil && !slices.Contains(b.Allow, path) {
			return fmt.Errorf("%s exists: a key in an image is in all units; remove it from the root file system", path)
		}
	}
	if !t.Boots {
		return nil
	}
	problems, err := edit.LintExtlinux(made)
	if err != nil {
		return err
	}
	var fatal []error
	for _, p := range problems {
		if p.Fatal {
			fatal = append(fatal, fmt.Errorf("%s: %s", edit.ExtlinuxConf, p))
		} else {
			b.Warn(fmt.Sprintf("%s of %s: %s", edit.ExtlinuxConf, t.Name, p))
		}
	}
	if err := errors.Join(fatal...); err != nil {
		return err
	}
	if err := b.checkKernel(made, vars["KERNEL"]); err != nil {
		return err
	}
	return b.checkFstab(made)
}

// checkKernel checks that kernel, modules and initrd have one version, and that the initrd
// can mount the overlay.
func (b *builder) checkKernel(made *tree.Tree, version string) error {
	if _, err := made.Open("/lib/modules/" + version); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the kernel is %s, but the root file system has no /lib/modules/%s: kernel and modules must have one version", version, version)
	}
	path, err := made.Resolve("/boot/initrd", true)
	if err != nil {
		return err
	}
	if want := "boot/initrd.img-" + version; strings.Trim(path, "/") != want {
		return fmt.Errorf("/boot/initrd is /%s; for this kernel it must be /%s", strings.Trim(path, "/"), want)
	}
	n, err := made.Open("/boot/initrd")
	if err != nil {
		return fmt.Errorf("the initrd: %w: give one with --input initrd=FILE", err)
	}
	switch has, err := initramfs.Has(n.Content, n.Size(), "scripts/init-bottom/overlayroot"); {
	case err != nil:
		b.Warn(fmt.Sprintf("reading the initrd: %v: whether it has overlayroot is unknown", err))
	case !has:
		return fmt.Errorf("/%s has no overlayroot, so the root would have no overlay: make an initrd with update-initramfs where the package overlayroot is installed, and pass it with --input initrd=FILE", strings.Trim(path, "/"))
	}
	return nil
}

// checkFstab checks that the board has the partitions that are mounted.
func (b *builder) checkFstab(made *tree.Tree) error {
	text, err := readText(made, "/etc/fstab")
	if err != nil {
		return err
	}
	var devices []string
	for _, m := range b.Board.Media {
		for _, p := range m.Layout.Partitions {
			devices = append(devices, partitionDevice(m.Device, p.Number))
		}
	}
	for _, e := range fstab.Parse(text).Entries() {
		if strings.HasPrefix(e.Spec, "/dev/") && !slices.Contains(devices, e.Spec) {
			return fmt.Errorf("/etc/fstab mounts %s at %s, but no medium of %s has that partition", e.Spec, e.Where, b.Board.Name)
		}
	}
	return nil
}

func readText(t *tree.Tree, path string) (string, error) {
	n, err := t.Open(path)
	if err != nil {
		return "", err
	}
	if n.Size() > edit.MaxText || n.Content == nil {
		return "", fmt.Errorf("%s has %d bytes; it must be a text of up to %d bytes", path, n.Size(), edit.MaxText)
	}
	text := make([]byte, n.Size())
	_, err = image.ReadFull(n.Content, text, 0)
	return string(text), err
}
