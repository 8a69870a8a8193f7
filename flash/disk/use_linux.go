package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// systemMounts make the disk below them the one this system runs from.
var systemMounts = []string{"/", "/usr", "/boot", "/boot/efi", "/boot/firmware", "/efi", "/var", "/nix", "/nix/store"}

// mount is a file system that is mounted.
type mount struct {
	at     string
	on     []*node  // block devices it lies on
	layers []string // folders it is made of, of an overlay
}

// findUsers notes at every block device who uses it.
func (m *machine) findUsers() error {
	for _, n := range m.nodes {
		for _, s := range n.slaves {
			if low := m.nodes[s]; low != nil && !slices.Contains(low.holders, n.name) {
				low.holders = append(low.holders, n.name)
			}
		}
	}
	if err := m.addMounts(); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(m.nodes)) {
		n := m.nodes[name]
		back := n.backing()
		if back == "" {
			continue
		}
		// A loop device of a disk is no holder in sysfs, and claims nothing.
		if low := m.backed(n); low != nil {
			low.holders = append(low.holders, name)
			continue
		}
		on := m.below(back, nil)
		if n.loop != nil && m.byNumber(n.loop.file.dev) != nil {
			on = []*node{m.byNumber(n.loop.file.dev)}
		}
		for _, low := range on {
			low.loops = append(low.loops, name)
		}
	}
	return m.addSwaps()
}

// btrfsGroups are the devices of each btrfs that is mounted: mountinfo names
// one of several, and no true device number.
func (m *machine) btrfsGroups() ([][]*node, error) {
	dir := filepath.Join(m.root, "sys/fs/btrfs")
	ids, err := readDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var groups [][]*node
	for _, id := range ids {
		names, _ := readDir(filepath.Join(dir, id, "devices"))
		var group []*node
		for _, name := range names {
			if n := m.nodes[name]; n != nil {
				n.groups = append(n.groups, "a mounted btrfs")
				group = append(group, n)
			}
		}
		groups = append(groups, group)
	}
	return groups, nil
}

// zpools are the members of each imported zpool, as far as udev knows them:
// the kernel does not say.
func (m *machine) zpools(mounts []*mountinfo.Info) map[string][]*node {
	pools := map[string][]*node{}
	names, _ := readDir(filepath.Join(m.root, "proc/spl/kstat/zfs"))
	for _, name := range names {
		if info, err := os.Stat(filepath.Join(m.root, "proc/spl/kstat/zfs", name)); err == nil && info.IsDir() {
			pools[name] = nil
		}
	}
	for _, info := range mounts {
		if info.FSType == "zfs" {
			pool, _, _ := strings.Cut(info.Source, "/")
			pools[pool] = nil
		}
	}
	if len(pools) == 0 {
		return nil
	}
	for _, n := range m.nodes {
		var fsType, pool string
		for line := range strings.Lines(text(filepath.Join(m.root, "run/udev/data", "b"+n.text("dev")))) {
			line = strings.TrimSpace(line)
			if v, ok := strings.CutPrefix(line, "E:ID_FS_TYPE="); ok {
				fsType = v
			}
			if v, ok := strings.CutPrefix(line, "E:ID_FS_LABEL="); ok {
				pool = v
			}
		}
		if _, imported := pools[pool]; fsType == "zfs_member" && (imported || pool == "") {
			n.groups = append(n.groups, strings.TrimSpace("the zpool "+pool))
			pools[pool] = append(pools[pool], n)
		}
	}
	return pools
}

func (m *machine) addMounts() error {
	groups, err := m.btrfsGroups()
	if err != nil {
		return err
	}
	f, err := os.Open(filepath.Join(m.root, "proc/self/mountinfo"))
	if errors.Is(err, fs.ErrNotExist) && m.here() {
		return errNoProc
	}
	if err != nil {
		return err
	}
	defer f.Close()
	mounts, err := mountinfo.GetMountsFromReader(f, nil)
	if err != nil {
		return err
	}
	pools := m.zpools(mounts)
	for _, info := range mounts {
		at := &mount{at: info.Mountpoint}
		add := func(nodes ...*node) {
			for _, n := range nodes {
				if n != nil && !slices.Contains(at.on, n) {
					at.on = append(at.on, n)
				}
			}
		}
		if n := m.byDev[fmt.Sprintf("%d:%d", info.Major, info.Minor)]; n != nil {
			add(n)
		} else {
			// bcachefs joins its disks with colons.
			for _, source := range strings.Split(info.Source, ":") {
				add(m.bySource(source))
			}
		}
		for _, option := range strings.Split(info.VFSOptions, ",") {
			name, value, _ := strings.Cut(option, "=")
			value = unescape(value)
			switch {
			case strings.HasPrefix(value, "/dev/"):
				add(m.bySource(value)) // a log or a journal on a disk of its own
			case info.FSType == "overlay" && slices.Contains(overlayFolders, strings.TrimSuffix(name, "+")):
				at.layers = append(at.layers, strings.FieldsFunc(value, func(r rune) bool { return r == ':' })...)
			}
		}
		for _, group := range groups {
			if slices.ContainsFunc(at.on, func(n *node) bool { return slices.Contains(group, n) }) {
				add(group...)
			}
		}
		if info.FSType == "zfs" {
			pool, _, _ := strings.Cut(info.Source, "/")
			add(pools[pool]...)
		}
		for _, n := range at.on {
			if !slices.Contains(n.mounts, at.at) {
				n.mounts = append(n.mounts, at.at)
			}
		}
		m.mounts = append(m.mounts, at)
	}
	m.findRoot()
	return nil
}

// findRoot notes what the folders lie on that an overlay of the system is made
// of, and whether anything is known to carry /.
func (m *machine) findRoot() {
	m.rootless = true
	for _, o := range m.mounts {
		if !slices.Contains(systemMounts, o.at) {
			continue
		}
		on := slices.Clone(o.on)
		for _, layer := range o.layers {
			on = append(on, m.below(layer, []*mount{o})...)
		}
		for _, n := range on[len(o.on):] {
			if !slices.Contains(n.layers, o.at) {
				n.layers = append(n.layers, o.at)
			}
		}
		if o.at == "/" && len(on) > 0 {
			m.rootless = false
		}
	}
}

var overlayFolders = []string{"lowerdir", "datadir", "upperdir", "workdir"}

// below is what the file or folder at path lies on: the block devices of the
// file system that was last mounted over it, through overlays other than not.
func (m *machine) below(path string, not []*mount) []*node {
	path = filepath.Clean(path)
	var over *mount
	for _, o := range m.mounts {
		in := path == o.at || o.at == "/" || strings.HasPrefix(path, o.at+"/")
		if in && (over == nil || len(o.at) >= len(over.at)) {
			over = o
		}
	}
	if over == nil || slices.Contains(not, over) {
		return nil
	}
	on := slices.Clone(over.on)
	for _, layer := range over.layers {
		on = append(on, m.below(layer, append(not, over))...)
	}
	return on
}

// bySource resolves what a mount or a swap calls its device.
func (m *machine) bySource(source string) *node {
	if !strings.HasPrefix(source, "/dev/") {
		return nil
	}
	if at, err := filepath.EvalSymlinks(filepath.Join(m.root, source)); err == nil {
		rel := strings.TrimPrefix(at, filepath.Join(m.root, "dev")+"/")
		if n := m.nodes[strings.ReplaceAll(rel, "/", "!")]; n != nil {
			return n
		}
	}
	// Without udev the names in /dev/mapper are no links.
	if name, ok := strings.CutPrefix(source, "/dev/mapper/"); ok {
		for _, n := range m.nodes {
			if n.text("dm/name") == name {
				return n
			}
		}
	}
	return m.nodes[strings.ReplaceAll(strings.TrimPrefix(source, "/dev/"), "/", "!")]
}

func (m *machine) addSwaps() error {
	b, err := os.ReadFile(filepath.Join(m.root, "proc/swaps"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a kernel without swap
	}
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		path := strings.TrimSuffix(unescape(fields[0]), " (deleted)")
		switch fields[1] {
		case "partition":
			if n := m.bySource(path); n != nil {
				n.swap = true
			}
		case "file":
			m.swaps = append(m.swaps, path)
			for _, n := range m.below(path, nil) {
				n.swapFiles = append(n.swapFiles, path)
			}
		}
	}
	return nil
}

// unescape undoes the kernel's \040 for a blank.
func unescape(s string) string {
	return octal.ReplaceAllStringFunc(s, func(e string) string {
		n, err := strconv.ParseUint(e[1:], 8, 8)
		if err != nil {
			return e
		}
		return string([]byte{byte(n)})
	})
}

var octal = regexp.MustCompile(`\\[0-7]{3}`)

// allUsers adds to d who uses it, given the disk and its partitions.
func (m *machine) allUsers(nodes []*node, d *Disk) {
	seen := map[*node]bool{}
	for _, n := range nodes {
		m.users(n, seen, d)
	}
	m.otherName(nodes[0], seen, d)
	if len(d.InUse) == 0 {
		m.openBy(nodes, d)
	}
	if len(d.InUse) == 0 && m.claimed(d) {
		d.InUse = []string{"the kernel or another program has claimed it: it is mounted in another mount namespace, such as a container's, part of a file system of several disks, or a virtual machine's"}
	}
	if m.rootless && len(d.InUse) > 0 {
		d.System = true
	}
}

// users adds to d who uses n, and who uses what is made of n.
func (m *machine) users(n *node, seen map[*node]bool, d *Disk) {
	if seen[n] {
		return
	}
	seen[n] = true
	use := func(format string, args ...any) {
		d.InUse = append(d.InUse, m.label(n)+" "+fmt.Sprintf(format, args...))
	}
	if len(n.mounts) > 0 {
		use("is mounted at %s", list(n.mounts))
		d.System = d.System || slices.ContainsFunc(n.mounts, func(at string) bool { return slices.Contains(systemMounts, at) })
	} else {
		for _, group := range n.groups {
			use("is part of %s", group)
		}
	}
	if len(n.layers) > 0 {
		use("has folders that an overlay at %s is made of", list(n.layers))
		d.System = true
	}
	if n.swap {
		use("is swap")
	}
	if len(n.swapFiles) > 0 {
		use("has the swap file %s", list(n.swapFiles))
	}
	for _, name := range n.holders {
		h := m.nodes[name]
		if h == nil {
			use("is held by %s", name)
			continue
		}
		use("is held by %s", m.label(h))
		m.users(h, seen, d)
		for _, p := range m.parts(h) {
			m.users(p, seen, d)
		}
	}
	// Its file system is mounted, which says enough of the loop devices on it
	// unless one of them is the system.
	for _, name := range n.loops {
		var of Disk
		m.users(m.nodes[name], seen, &of)
		for _, p := range m.parts(m.nodes[name]) {
			m.users(p, seen, &of)
		}
		if of.System {
			use("has the file of %s, which this system runs from", m.label(m.nodes[name]))
			d.System = true
		}
	}
}

// otherName adds to d who uses the same bytes by another name: a disk that is
// cabled twice, a file that two loop devices have or that is swap.
func (m *machine) otherName(n *node, seen map[*node]bool, d *Disk) {
	file := n.backing()
	if slices.Contains(m.swaps, file) {
		d.InUse = append(d.InUse, "its file is swap")
	}
	// Bridges on USB share made-up names.
	twice := func(other *node) bool { return d.WWN != "" && d.USB == nil && other.wwn() == d.WWN }
	for _, name := range slices.Sorted(maps.Keys(m.nodes)) {
		other := m.nodes[name]
		if other == n || other.disk != other.name || !twice(other) && !sameBacking(n, other) {
			continue
		}
		before := len(d.InUse)
		for _, o := range append([]*node{other}, m.parts(other)...) {
			m.users(o, seen, d)
		}
		if len(d.InUse) > before {
			d.InUse = slices.Insert(d.InUse, before, "it is the same as "+other.path())
		}
	}
}

func (m *machine) label(n *node) string {
	if name := n.text("dm/name"); name != "" {
		return fmt.Sprintf("%s (%s)", n.path(), name)
	}
	return n.path()
}

func (m *machine) parts(n *node) []*node {
	var parts []*node
	for _, name := range slices.Sorted(maps.Keys(m.nodes)) {
		if p := m.nodes[name]; p.disk == n.name && p != n {
			parts = append(parts, p)
		}
	}
	return parts
}

// claimed asks the kernel whether someone has the disk for himself: it knows
// of the members of a zpool and of mounts in other namespaces, and sysfs does
// not say.
func (m *machine) claimed(d *Disk) bool {
	if filepath.Clean(m.root) != "/" || d.Size == 0 {
		return false
	}
	// Tools that look at a new disk claim it for a moment.
	err := patiently(unix.EBUSY, 300*time.Millisecond, func() error {
		fd, err := unix.Open(d.Path, unix.O_RDONLY|unix.O_EXCL|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err == nil {
			unix.Close(fd)
		}
		return err
	})
	return err == unix.EBUSY
}

// fileUsers says what uses the regular file at a path, of which info is known.
func (m *machine) fileUsers(at string, info fs.FileInfo) ([]string, error) {
	same := func(path string) bool {
		other, err := os.Stat(filepath.Join(m.root, path))
		return err == nil && os.SameFile(info, other)
	}
	id, _ := idOfInfo(info)
	var users []string
	for _, name := range slices.Sorted(maps.Keys(m.nodes)) {
		n := m.nodes[name]
		attached := n.loop != nil && n.loop.file == id
		if b := n.backing(); n.loop == nil && b != "" {
			attached = same(b)
		}
		if attached {
			users = append(users, "the file is attached as "+n.path())
		}
	}
	if slices.ContainsFunc(m.swaps, same) {
		users = append(users, "the file is swap")
	}
	if len(users) > 0 || !m.here() {
		return users, nil
	}
	f, err := os.OpenFile(at, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil // opening it for writing will say why
	}
	defer f.Close()
	if now, err := f.Stat(); err != nil || !os.SameFile(info, now) {
		return nil, &RefusedError{at, "another file has taken its name: start over"}
	}
	if on := mountedFile(f); on != "" {
		return []string{"the file is mounted at " + on}, nil
	}
	return fileWriters(f), nil
}
