package build

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"imgtool/boards"
	"imgtool/image/statefile"
	"imgtool/image/tree"
)

// variables returns the variables of the board's edits. Values of the board's own variables
// can refer to the variables of partitions.
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
	if vars["KERNEL"] == "" && (b.uses("KERNEL") || slices.ContainsFunc(b.Board.Trees, func(t boards.Tree) bool { return t.Boots })) {
		if vars["KERNEL"], err = b.kernelVersion(); err != nil {
			return nil, err
		}
	}
	if vars["TFTP_ROOT"] == "" && b.uses("TFTP_ROOT") {
		vars["TFTP_ROOT"] = b.tftpRoot()
	}
	return vars, nil
}

// uses reports whether edits or paths of the build have a variable.
func (b *builder) uses(name string) bool {
	mark := "@" + name + "@"
	texts := []string{string(b.EditsText)}
	for _, t := range b.Board.Trees {
		for _, s := range t.Steps {
			texts = append(texts, string(s.Text))
		}
	}
	for _, o := range b.Board.Optional {
		texts = append(texts, o.Path)
	}
	texts = slices.AppendSeq(slices.AppendSeq(texts, maps.Values(b.Board.Vars)), maps.Values(b.Vars))
	return slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(text, mark) })
}

// partitionVars returns the device names of the partitions in the board's Linux, and their
// labels: DEV_NVME_PLUGIN_DATA and LABEL_NVME_PLUGIN_DATA for nvme/plugin-data.
func (b *builder) partitionVars() map[string]string {
	vars := map[string]string{}
	for _, m := range b.Board.Media {
		for _, p := range m.Layout.Partitions {
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

// partitionDevice returns Linux's name of a partition, such as /dev/sda1 or /dev/nvme0n1p1.
func partitionDevice(disk string, number int) string {
	if strings.TrimRight(disk, "0123456789") != disk {
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

// kernelVersion returns the version in /boot/Image, or else in the name of the only initrd.
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
		return "", fmt.Errorf("the version of /boot/Image was not found, and there are %d files /boot/initrd.img-VERSION (%s): pass --var KERNEL=VERSION", len(found), strings.Join(found, ", "))
	}
	b.Warn(fmt.Sprintf("the version of /boot/Image was not found: %s of the initrd is used", found[0]))
	return found[0], nil
}

// findVersion returns the version in the banner of an uncompressed kernel, or "".
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

// tftpRoot returns the directory from which dnsmasq serves files. It does not start if the
// directory is missing.
func (b *builder) tftpRoot() string {
	for path, n := range b.root.Tree.All() {
		if !strings.HasPrefix(path, "etc/dnsmasq.d/") || !strings.HasSuffix(path, ".conf") || n.Type() != tree.Regular {
			continue
		}
		text, _ := readText(b.root.Tree, "/"+path)
		for line := range strings.Lines(text) {
			key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
			if value, _, _ = strings.Cut(value, ","); ok && strings.TrimSpace(key) == "tftp-root" && strings.HasPrefix(strings.TrimSpace(value), "/") {
				return strings.TrimSpace(value)
			}
		}
	}
	b.Warn("no file in /etc/dnsmasq.d has tftp-root: no directory is made for it on the recovery card")
	return "/media"
}
