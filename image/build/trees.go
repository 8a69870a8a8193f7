package build

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"imgtool/boards"
	"imgtool/image"
	"imgtool/image/edit"
	"imgtool/image/ext4"
	"imgtool/image/extlinux"
	"imgtool/image/fstab"
	"imgtool/image/initramfs"
	"imgtool/image/statefile"
	"imgtool/image/tree"
	"imgtool/layouts"
)

// plant makes the trees of the board, in the order of its definition, and looks
// whether what is to boot can.
func (b *builder) plant() error {
	if len(b.Board.Trees) == 0 {
		return nil
	}
	vars, err := b.variables()
	if err != nil {
		return err
	}
	if err := b.replaceInRoot(vars); err != nil {
		return err
	}
	for _, t := range b.Board.Trees {
		b.trees[t.Name], err = b.grow(t, vars)
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w: the root file system must have it, or get it from --edits", err)
		}
		if err != nil {
			return fmt.Errorf("tree %s: %w", t.Name, err)
		}
	}
	for _, t := range b.Board.Trees {
		if !b.used(func(p layouts.Part) bool { return p.Tree == t.Name }) {
			continue
		}
		if err := b.checkTree(t, vars); err != nil {
			return fmt.Errorf("tree %s: %w", t.Name, err)
		}
	}
	return nil
}

// grow makes one tree.
func (b *builder) grow(t boards.Tree, vars map[string]string) (made *tree.Tree, err error) {
	switch t.From {
	case "":
		made = tree.New(b.Time)
	case "rootfs":
		made = b.root.Tree
	default:
		made = b.trees[t.From]
	}
	if t.Sub != "" {
		if made.Lookup(strings.Trim(t.Sub, "/")) == nil {
			if b.used(func(p layouts.Part) bool { return p.Tree == t.Name }) {
				b.Warn(fmt.Sprintf("the root file system has no folder %s: the tree %s is empty", t.Sub, t.Name))
			}
			made = tree.New(b.Time)
		} else if made, err = edit.Sub(made, t.Sub); err != nil {
			return nil, err
		}
	}
	without := t.Without
	if t.Live {
		without = slices.Concat(without, edit.Live)
	}
	if len(without) > 0 {
		if made, err = edit.Derive(made, without); err != nil {
			return nil, err
		}
	}
	for _, s := range t.Steps {
		if s.Profile != "" && s.Profile != b.Profile || s.Unless != "" && b.Flags[s.Unless] {
			continue
		}
		if _, err := b.Board.Partition(s.Partition); s.Partition != "" && err != nil {
			continue
		}
		edits, err := edit.Parse("edits/"+s.Edits, s.Text)
		if err != nil {
			return nil, err
		}
		if made, err = edit.Apply(made, edits, vars, b.Time, b.Warn); err != nil {
			return nil, err
		}
	}
	return made, nil
}

// variables are what the edits of the board can name. Those of the board itself can
// have names of partitions in them.
func (b *builder) variables() (map[string]string, error) {
	vars := b.partitionVars()
	for name, value := range b.Board.Vars {
		for part, is := range b.partitionVars() {
			value = strings.ReplaceAll(value, "@"+part+"@", is)
		}
		vars[name] = value
	}
	vars["BOARD"], vars["BUILD_ID"], vars["PROFILE"] = b.Board.Name, b.buildID, b.Profile
	vars["STATE"] = b.state()
	vars["DATE"] = time.Unix(b.Time, 0).UTC().Format("20060102-150405")
	maps.Copy(vars, b.Vars)
	if b.root == nil {
		return vars, nil
	}
	var err error
	if vars["KERNEL"] == "" {
		if vars["KERNEL"], err = b.kernelVersion(); err != nil {
			return nil, err
		}
	}
	if vars["TFTP_ROOT"] == "" {
		vars["TFTP_ROOT"] = b.tftpRoot()
	}
	return vars, nil
}

// partitionVars are the names that the board's Linux has for its partitions, and the
// labels of what is in them: DEV_NVME_PLUGIN_DATA and LABEL_NVME_PLUGIN_DATA are those
// of nvme/plugin-data.
func (b *builder) partitionVars() map[string]string {
	vars := map[string]string{}
	for _, m := range b.Board.Media {
		for _, p := range m.Placing.Partitions {
			name := strings.ToUpper(strings.Map(func(r rune) rune {
				if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
					return r
				}
				return '_'
			}, m.Name+"_"+p.Name))
			if m.Device != "" {
				vars["DEV_"+name] = partitionDevice(m.Device, p.Number)
			}
			vars["LABEL_"+name] = p.Label
		}
	}
	return vars
}

// partitionDevice is Linux's name of a partition: /dev/sda1, /dev/nvme0n1p1.
func partitionDevice(disk string, number int) string {
	if last := disk[len(disk)-1]; last >= '0' && last <= '9' {
		disk += "p"
	}
	return fmt.Sprint(disk, number)
}

// state is the state file of a provisioned root file system: all steps, done at the build's
// time.
func (b *builder) state() string {
	var text strings.Builder
	steps := b.Board.State.Steps
	for i, name := range steps {
		e := statefile.Entry{Step: i + 1, Steps: len(steps), Name: name, Board: b.Board.Name, Build: b.buildID, Profile: b.Profile}
		text.WriteString(e.Line(time.Unix(b.Time, 0)))
	}
	return text.String()
}

var linuxVersion = regexp.MustCompile(`Linux version (\d[0-9A-Za-z.+_-]*) `)

// kernelVersion is that of /boot/Image by its own word; else of the one initrd.
func (b *builder) kernelVersion() (string, error) {
	root := b.root.Tree
	n, err := root.Open("/boot/Image")
	if err != nil {
		return "", fmt.Errorf("the root file system has no kernel: %w", err)
	}
	if v := findVersion(n); v != "" {
		return v, nil
	}
	var found []string
	for path, n := range root.All() {
		if v, ok := strings.CutPrefix(path, "boot/initrd.img-"); ok && n.Type() != tree.Dir && !strings.Contains(v, "/") {
			found = append(found, v)
		}
	}
	if len(found) != 1 {
		return "", fmt.Errorf("/boot/Image does not say its version, and there are %d files /boot/initrd.img-VERSION (%s): pass --var KERNEL=VERSION", len(found), strings.Join(found, ", "))
	}
	b.Warn(fmt.Sprintf("/boot/Image does not say its version: it is taken to be %s, of the initrd", found[0]))
	return found[0], nil
}

// findVersion reads a kernel that is not packed for the text it prints first.
func findVersion(n *tree.Inode) string {
	if n.Content == nil {
		return ""
	}
	const size, overlap = 1 << 20, 256
	buf := make([]byte, size)
	for at := int64(0); at < n.Size(); at += size - overlap {
		k, _ := n.Content.ReadAt(buf, at)
		if m := linuxVersion.FindSubmatch(buf[:k]); m != nil {
			return string(m[1])
		}
		if k < size {
			break
		}
	}
	return ""
}

// tftpRoot is where dnsmasq serves files from: it does not start without it.
func (b *builder) tftpRoot() string {
	for path, n := range b.root.Tree.All() {
		if !strings.HasPrefix(path, "etc/dnsmasq.d/") || !strings.HasSuffix(path, ".conf") || n.Type() != tree.Regular || n.Size() > edit.MaxText || n.Content == nil {
			continue
		}
		for lines := bufio.NewScanner(io.NewSectionReader(n.Content, 0, n.Size())); lines.Scan(); {
			key, value, ok := strings.Cut(strings.TrimSpace(lines.Text()), "=")
			if value, _, _ = strings.Cut(value, ","); ok && strings.TrimSpace(key) == "tftp-root" && strings.HasPrefix(strings.TrimSpace(value), "/") {
				return strings.TrimSpace(value)
			}
		}
	}
	b.Warn("no file in /etc/dnsmasq.d has tftp-root: no folder is made for it on the recovery card")
	return "/media"
}

// replaceInRoot puts optional inputs that have a path into the root.
func (b *builder) replaceInRoot(vars map[string]string) error {
	for _, o := range b.Board.Optional {
		f := b.files[o.Input]
		if o.Path == "" || f == nil {
			continue
		}
		path := o.Path
		for name, value := range vars {
			path = strings.ReplaceAll(path, "@"+name+"@", value)
		}
		root := b.root.Tree.Without(nil)
		if err := root.Put(strings.Trim(path, "/"), &tree.Inode{Mode: tree.Regular | 0o644, ModTime: b.Time, Content: f.Content}); err != nil {
			return fmt.Errorf("%s: %w", o.Input, err)
		}
		b.root.Tree = root
	}
	return nil
}

// checkTree looks for what would not boot, or should not be there.
func (b *builder) checkTree(t boards.Tree, vars map[string]string) error {
	made := b.trees[t.Name]
	for _, path := range t.Forbid {
		if made.Lookup(strings.Trim(path, "/")) != nil && !slices.Contains(b.Allow, path) {
			return fmt.Errorf("%s is in it: a key that is in an image is in all units; take it out of the root file system", path)
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

// checkKernel looks whether kernel, modules and initrd are of one version, and
// whether the initrd can make the overlay.
func (b *builder) checkKernel(made *tree.Tree, version string) error {
	if _, err := made.Open("/lib/modules/" + version); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the kernel is %s and there is no /lib/modules/%s: kernel and modules must be of one version", version, version)
	}
	path, err := made.Resolve("/boot/initrd", true)
	if err != nil {
		return err
	}
	if want := "boot/initrd.img-" + version; strings.Trim(path, "/") != want {
		return fmt.Errorf("/boot/initrd is /%s, and the kernel wants /%s", strings.Trim(path, "/"), want)
	}
	n, err := made.Open("/boot/initrd")
	if err != nil {
		return fmt.Errorf("the initrd: %w: give one with --input initrd=FILE", err)
	}
	switch has, err := initramfs.Has(n.Content, n.Size(), "scripts/init-bottom/overlayroot"); {
	case err != nil:
		b.Warn(fmt.Sprintf("the initrd cannot be looked into (%v): whether it has overlayroot is not known", err))
	case !has:
		return fmt.Errorf("/%s has no overlayroot: the root would stay without its overlay; make it with update-initramfs where the package overlayroot is installed, and give it with --input initrd=FILE", strings.Trim(path, "/"))
	}
	return nil
}

var partitionName = regexp.MustCompile(`^(.*?)p?([0-9]+)$`)

// checkFstab looks whether what is mounted is there.
func (b *builder) checkFstab(made *tree.Tree) error {
	n, err := made.Open("/etc/fstab")
	if err != nil {
		return err
	}
	if n.Size() > edit.MaxText || n.Content == nil {
		return fmt.Errorf("/etc/fstab has %d bytes", n.Size())
	}
	text := make([]byte, n.Size())
	if _, err := n.Content.ReadAt(text, 0); err != nil && err != io.EOF {
		return err
	}
	for _, e := range fstab.Parse(string(text)).Entries() {
		if !strings.HasPrefix(e.Spec, "/dev/") {
			continue
		}
		if !b.hasPartition(e.Spec) {
			return fmt.Errorf("/etc/fstab mounts %s at %s, which no medium of %s has", e.Spec, e.Where, b.Board.Name)
		}
	}
	return nil
}

// hasPartition says whether a name of the board's Linux is a partition of ours.
func (b *builder) hasPartition(dev string) bool {
	m := partitionName.FindStringSubmatch(dev)
	if m == nil {
		return false
	}
	for _, medium := range b.Board.Media {
		if medium.Device != m[1] {
			continue
		}
		if slices.ContainsFunc(medium.Placing.Partitions, func(p layouts.Partition) bool { return fmt.Sprint(p.Number) == m[2] }) {
			return true
		}
	}
	return false
}

// ext4 is the file system of a partition.
func (b *builder) ext4(d *disk, p layouts.Part) (*image.Image, error) {
	t := b.trees[p.Tree]
	if t == nil {
		t = tree.New(b.Time)
	}
	b.warnTimes(p.Name, "ext4", t, ext4First, ext4Last)
	opt := ext4.Options{Label: p.Label, UUID: b.uuid("ext4 " + d.prefix + p.Name), HashSeed: b.uuid("ext4 hash " + d.prefix + p.Name), Time: b.Time, Size: p.Len}
	for _, made := range b.Board.Trees {
		if made.Name == p.Tree && made.Boots {
			opt.First = BootFiles(t)
		}
	}
	m, err := ext4.New(t, opt)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.Name, err)
	}
	return m, nil
}

// BootFiles are what a boot loader reads of a tree, which likes it in one piece.
func BootFiles(t *tree.Tree) []string {
	paths := []string{strings.Trim(edit.ExtlinuxConf, "/")}
	n, err := t.Open(edit.ExtlinuxConf)
	if err != nil || n.Content == nil || n.Size() > edit.MaxText {
		return nil
	}
	text := make([]byte, n.Size())
	if _, err := n.Content.ReadAt(text, 0); err != nil && err != io.EOF {
		return nil
	}
	conf := extlinux.Parse(string(text))
	for _, label := range conf.Labels() {
		for _, key := range []string{"LINUX", "INITRD", "FDT"} {
			value, ok, err := conf.Value(label, key)
			if err != nil || !ok {
				continue
			}
			if path, err := t.Resolve(value, true); err == nil && t.Lookup(strings.Trim(path, "/")) != nil && !slices.Contains(paths, strings.Trim(path, "/")) {
				paths = append(paths, strings.Trim(path, "/"))
			}
		}
	}
	return paths
}
