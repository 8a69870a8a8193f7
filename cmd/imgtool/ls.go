package main

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/bits"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"imgtool/image/tree"
	"imgtool/layouts"
)

const placeHelp = `IMAGE is an image of any format, a disk, a file system alone (squashfs, ext4, FAT), or
- for standard input (after --, as in -- -:boot-a). PARTITION is a name or a number. A file system alone has no
partitions: IMAGE:/PATH. A file's name may have colons in it: of what stands before
any of them, or all of it, the longest that is the name of a file is the image.`

func newLsCommand(u *ui) *cobra.Command {
	var opt lsOptions
	cmd := &cobra.Command{
		Use:   "ls IMAGE[:PARTITION[/PATH]]",
		Short: "List what is in an image: partitions, folders, files",
		Long: `List the partitions of an image, or a folder or file on one of them, with type and
mode, owner, size (of a device its numbers), time in UTC, and where a link leads.
Nothing is mounted, and of an .img.zst only what is needed is unpacked.

` + placeHelp + `

Names of other than printable characters stand in quotes, as Go writes them.`,
		Example: `  imgtool ls x.img.zst
  imgtool ls x.img.zst:rootfs-a/etc
  imgtool ls -R --xattrs x.img:rootfs-a
  imgtool ls root.squashfs:/usr/bin`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return runLs(cmd.Context(), args[0], opt, u) },
	}
	cmd.Flags().BoolVarP(&opt.all, "recursive", "R", false, "also what is in folders, by its path")
	cmd.Flags().BoolVar(&opt.xattrs, "xattrs", false, "extended attributes and capabilities, a line each")
	return cmd
}

type lsOptions struct{ all, xattrs bool }

func runLs(ctx context.Context, arg string, opt lsOptions, u *ui) error {
	l, err := parsePlace(arg).open(ctx, u)
	if err != nil {
		return err
	}
	defer l.pic.Close()
	if !l.inside && !l.parts.none() {
		return listPartitions(l, u)
	}
	v, err := l.volume()
	if err != nil {
		return err
	}
	u.endPhase()
	at, err := v.find(l.path, strings.HasSuffix(l.path, "/"))
	if err != nil {
		return fmt.Errorf("%s: %w", l.name(), err)
	}
	n := v.tree.Lookup(at)
	found := func(yield func(string, *tree.Inode) bool) { yield(path.Base("/"+at), n) }
	if n.Type() == tree.Dir {
		found = v.tree.List(at)
		if opt.all {
			found = below(v.tree.Sub(at))
		}
	}
	if u.json {
		return printFiles(found, at, n.Type() == tree.Dir, opt, u)
	}
	out := u.listing()
	for name, n := range found {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		out.printf("%s\n", longLine(name, n))
		if opt.xattrs {
			for _, x := range n.Xattrs {
				out.printf("    %s=%s\n", readable(x.Name), xattrText(x))
			}
		}
	}
	return out.Flush()
}

// below is all in a tree but its root.
func below(t *tree.Tree) iter.Seq2[string, *tree.Inode] {
	return func(yield func(string, *tree.Inode) bool) {
		for p, n := range t.All() {
			if p != "" && !yield(p, n) {
				return
			}
		}
	}
}

// find is where something is in a volume; with follow, where a link leads.
func (v *volume) find(path string, follow bool) (string, error) {
	at, err := v.tree.Resolve(v.spelled(path), follow)
	if err != nil {
		return "", err
	}
	if at = strings.Trim(at, "/"); v.tree.Lookup(at) == nil {
		// Its error says what is missing.
		if _, err = v.tree.Open(v.spelled(path)); err == nil {
			err = errors.New("it is not there")
		}
		return "", err
	}
	return at, nil
}

// lsPartition is a partition as ls --json has it.
type lsPartition struct {
	Number int    `json:"number"`
	Name   string `json:"name"`
	Type   string `json:"type"`
	GUID   string `json:"guid,omitempty"`
	Off    int64  `json:"offset"`
	Len    int64  `json:"length"`
	Late   bool   `json:"late,omitempty"`
	Holds  string `json:"holds,omitempty"` // squashfs, ext4, FAT, swap
}

func listPartitions(l *located, u *ui) error {
	var all []lsPartition
	for _, p := range l.parts.list {
		row := lsPartition{Number: p.Number, Name: p.Name, Type: layouts.TypeName(p.Type), GUID: p.GUID, Off: p.Off, Len: p.Len}
		var err error
		if row.Holds, err = kindOf(io.NewSectionReader(l.pic.img, p.Off, p.Len)); err != nil {
			return fmt.Errorf("%s: %w", l.pic.name, err)
		}
		all = append(all, row)
	}
	if m := l.pic.manifest; m != nil {
		for _, p := range m.Partitions {
			if p.Late {
				all = append(all, lsPartition{Number: p.Number, Name: p.Name, Type: p.Type, Off: p.Off, Len: p.Len, Late: true})
			}
		}
	}
	u.endPhase()
	if u.json {
		return u.print(all)
	}
	wide := 0
	for _, p := range all {
		wide = max(wide, len(p.Name))
	}
	for _, p := range all {
		size, holds := human(p.Len), p.Holds
		if p.Late {
			holds = "made by the device on its first boot"
		}
		if p.Len == 0 {
			size = "the rest"
		}
		line := fmt.Sprintf("%3d %-*s %-14s %10s %10s  %s", p.Number, wide, p.Name, p.Type, mebibytes(p.Off), size, holds)
		if err := u.printf("%s\n", strings.TrimRight(line, " ")); err != nil {
			return err
		}
	}
	return nil
}

// lsFile is a file as ls --json has it.
type lsFile struct {
	Path   string            `json:"path"`               // from the root of the file system
	Raw    []byte            `json:"path_raw,omitempty"` // where the path is not UTF-8
	Type   string            `json:"type"`
	Mode   string            `json:"mode"` // permission bits in octal
	UID    uint32            `json:"uid"`
	GID    uint32            `json:"gid"`
	Size   int64             `json:"size"`
	Time   int64             `json:"time"` // seconds since 1970
	Target string            `json:"target,omitempty"`
	Major  uint32            `json:"major,omitempty"`
	Minor  uint32            `json:"minor,omitempty"`
	Xattrs map[string][]byte `json:"xattrs,omitempty"`
}

// typeNames are what an inode can be, and its letter.
var typeNames = map[uint32]struct {
	name   string
	letter byte
}{
	tree.Regular: {"file", '-'}, tree.Dir: {"folder", 'd'}, tree.Symlink: {"link", 'l'}, tree.CharDev: {"character device", 'c'},
	tree.BlockDev: {"block device", 'b'}, tree.Fifo: {"fifo", 'p'}, tree.Socket: {"socket", 's'},
}

// printFiles prints a list as it comes: there may be a million.
func printFiles(found iter.Seq2[string, *tree.Inode], at string, folder bool, opt lsOptions, u *ui) error {
	out := u.listing()
	any := false
	for name, n := range found {
		f := lsFile{Path: path.Join("/", at), Type: typeNames[n.Type()].name, Mode: octal(n.Mode), UID: n.UID, GID: n.GID, Size: n.Size(),
			Time: n.ModTime, Target: n.Target, Major: n.Major, Minor: n.Minor}
		if folder {
			f.Path = path.Join("/", at, name)
		}
		if !utf8.ValidString(f.Path) {
			f.Raw = []byte(f.Path)
		}
		if opt.xattrs {
			for _, x := range n.Xattrs {
				if f.Xattrs == nil {
					f.Xattrs = map[string][]byte{}
				}
				f.Xattrs[x.Name] = []byte(x.Value)
			}
		}
		line, err := encodeLine(f)
		if err != nil {
			return err
		}
		if any {
			out.printf(",\n%s", line)
		} else {
			out.printf("[\n%s", line)
		}
		any = true
	}
	if !any {
		out.printf("[")
	}
	out.printf("\n]\n")
	return out.Flush()
}

func octal(mode uint32) string { return fmt.Sprintf("%04o", mode&0o7777) }

// longLine is a line of ls -l, with numbers for owners and the time in UTC.
func longLine(name string, n *tree.Inode) string {
	size := strconv.FormatInt(n.Size(), 10)
	switch n.Type() {
	case tree.CharDev, tree.BlockDev:
		size = fmt.Sprintf("%d,%d", n.Major, n.Minor)
	case tree.Symlink:
		size = strconv.Itoa(len(n.Target))
	}
	line := fmt.Sprintf("%s %9s %11s %s %s", modeText(n.Mode), fmt.Sprintf("%d:%d", n.UID, n.GID), size, timeText(n.ModTime), readable(name))
	if n.Type() == tree.Symlink {
		line += " -> " + readable(n.Target)
	}
	return line
}

func timeText(seconds int64) string { return time.Unix(seconds, 0).UTC().Format(time.DateTime) }

// modeText is a mode as ls has it.
func modeText(mode uint32) string {
	b := []byte{typeNames[mode&tree.TypeMask].letter}
	for i := 8; i >= 0; i-- {
		c := byte('-')
		if mode>>i&1 != 0 {
			c = "xwr"[i%3]
		}
		b = append(b, c)
	}
	for _, special := range []struct {
		bit   uint32
		at    int
		plain byte
	}{{0o4000, 3, 'S'}, {0o2000, 6, 'S'}, {0o1000, 9, 'T'}} {
		if mode&special.bit != 0 {
			c := special.plain
			if b[special.at] == 'x' {
				c += 'a' - 'A'
			}
			b[special.at] = c
		}
	}
	return string(b)
}

// readable is a name as it is, or in quotes where it could be taken for something
// else on a terminal.
func readable(name string) string {
	plain := utf8.ValidString(name) && name != "" && name[0] != '"' && !strings.Contains(name, " -> ") && name == strings.TrimSpace(name)
	if plain && strings.IndexFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) < 0 {
		return name
	}
	return strconv.Quote(name)
}

// xattrText is the value of an extended attribute for people.
func xattrText(x tree.Xattr) string {
	if text, ok := capabilities(x); ok {
		return text
	}
	// Many a program stores a C string.
	text := strings.TrimSuffix(x.Value, "\x00")
	if utf8.ValidString(text) && strings.IndexFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) < 0 {
		return strconv.Quote(x.Value)
	}
	return "0x" + hex.EncodeToString([]byte(x.Value))
}

// capNames are the capabilities by number, as linux/capability.h has them.
var capNames = strings.Fields(`chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable
	net_bind_service net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot sys_ptrace
	sys_pacct sys_admin sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease audit_write
	audit_control setfcap mac_override mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore`)

// capabilities is a security.capability as getcap has it: struct vfs_cap_data, or
// with the user that is root in its namespace struct vfs_ns_cap_data.
func capabilities(x tree.Xattr) (string, bool) {
	le, v := binary.LittleEndian, []byte(x.Value)
	if x.Name != "security.capability" || len(v) != 20 && len(v) != 24 || le.Uint32(v)>>24 != uint32(len(v)-12)/4 {
		return "", false
	}
	permitted := uint64(le.Uint32(v[4:])) | uint64(le.Uint32(v[12:]))<<32
	inheritable := uint64(le.Uint32(v[8:])) | uint64(le.Uint32(v[16:]))<<32
	effective := le.Uint32(v)&1 != 0
	var sets []string
	for _, s := range []struct {
		caps  uint64
		flags string
	}{{permitted & inheritable, "ip"}, {permitted &^ inheritable, "p"}, {inheritable &^ permitted, "i"}} {
		var names []string
		for caps := s.caps; caps != 0; caps &= caps - 1 {
			i := bits.TrailingZeros64(caps)
			if i >= len(capNames) {
				names = append(names, fmt.Sprint(i))
			} else {
				names = append(names, "cap_"+capNames[i])
			}
		}
		if len(names) > 0 {
			flags := s.flags
			if effective {
				flags = "e" + flags
			}
			sets = append(sets, strings.Join(names, ",")+"="+flags)
		}
	}
	slices.Sort(sets)
	text := strings.Join(sets, " ")
	if text == "" {
		text = "="
	}
	if len(v) == 24 {
		text += fmt.Sprintf(" [rootid=%d]", le.Uint32(v[20:]))
	}
	return text, true
}
