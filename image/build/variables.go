package build

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"regexp"
	"strings"
	"time"

	"imgtool/image/edit"
	"imgtool/image/statefile"
	"imgtool/image/tree"
)

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
