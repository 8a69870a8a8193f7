package disk

import (
	"cmp"
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

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// systemMounts are the mount points of file systems that this computer runs from.
var systemMounts = []string{"/", "/usr", "/boot", "/boot/efi", "/boot/firmware", "/efi", "/var", "/nix", "/nix/store"}

type mount struct {
	at     string
	on     []*node  // block devices
	layers []string // directories of an overlay
}

func addNew[T comparable](list *[]T, v T) {
	if !slices.Contains(*list, v) {
		*list = append(*list, v)
	}
}

func (m *machine) findUses() error {
	for _, n := range m.nodes {
		for _, s := range n.slaves {
			if low := m.nodes[s]; low != nil {
				addNew(&low.holders, n.name)
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
		// sysfs does not list the loop device of a disk among its holders.
		if low := m.backed(n); low != nil {
			low.holders = append(low.holders, name)
			continue
		}
		on := m.below(back, nil)
		if n.loop != nil && m.byDev[n.loop.file.Dev] != nil {
			on = []*node{m.byDev[n.loop.file.Dev]}
		}
		for _, low := range on {
			low.loops = append(low.loops, name)
		}
	}
	return m.addSwaps()
}

// btrfsGroups returns the devices of each mounted btrfs: mountinfo lists only the first, with
// the number of no block device.
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

// zpools returns the members of each imported zpool, from udev: the kernel does not list them.
func (m *machine) zpools(mounts []*mountinfo.Info) map[string][]*node {
	pools := map[string][]*node{}
	entries, _ := os.ReadDir(filepath.Join(m.root, "proc/spl/kstat/zfs"))
	for _, e := range entries {
		if e.IsDir() {
			pools[e.Name()] = nil
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
				if n != nil {
					addNew(&at.on, n)
				}
			}
		}
		if n := m.byDev[unix.Mkdev(uint32(info.Major), uint32(info.Minor))]; n != nil {
			add(n)
		} else {
			// bcachefs lists its disks separated by colons.
			for _, source := range strings.Split(info.Source, ":") {
				add(m.bySource(source))
			}
		}
		for _, option := range strings.Split(info.VFSOptions, ",") {
			name, value, _ := strings.Cut(option, "=")
			value = unescape(value)
			switch {
			case strings.HasPrefix(value, "/dev/"):
				add(m.bySource(value)) // a log or journal on another disk
			case info.FSType == "overlay" && slices.Contains(overlayOptions, strings.TrimSuffix(name, "+")):
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
			addNew(&n.mounts, at.at)
			n.partly = n.partly || info.Root != "/"
		}
		m.mounts = append(m.mounts, at)
	}
	m.findRoot()
	return nil
}

// findRoot sets the layers of block devices with directories of the system's overlays, and
// whether the block device of / is known.
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
			addNew(&n.layers, o.at)
		}
		if o.at == "/" && len(on) > 0 {
			m.rootless = false
		}
	}
}

var overlayOptions = []string{"lowerdir", "datadir", "upperdir", "workdir"}

// below returns the block devices of the file or directory at path: the devices of the file
// system that contains it, and of the directories of its overlays. It skips the mounts in not.
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

// bySource returns the block device of a mount or swap, or nil.
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
	// Without udev, the names in /dev/mapper are not links.
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
		return nil // the kernel has no swap
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

// unescape decodes octal escapes of the kernel, such as \040 for a space.
func unescape(s string) string {
	return octal.ReplaceAllStringFunc(s, func(e string) string {
		n, _ := strconv.ParseUint(e[1:], 8, 8)
		return string([]byte{byte(n)})
	})
}

var octal = regexp.MustCompile(`\\[0-3][0-7]{2}`)

func (m *machine) allUses(nodes []*node, d *Disk) {
	seen := map[*node]bool{}
	for _, n := range nodes {
		m.uses(n, seen, d)
	}
	m.otherName(nodes[0], seen, d)
	if len(d.InUse) == 0 {
		m.openBy(nodes, d)
	}
	if len(d.InUse) == 0 && m.claimed(d) {
		d.InUse = []string{"the kernel or another program has claimed it: it is mounted in another mount namespace, such as a container's, part of a file system on several disks, or used by a virtual machine"}
	}
	if m.rootless && len(d.InUse) > 0 && !m.plain(d) {
		d.System = true
	}
}

// plain reports whether a removable disk is used only by mounts of whole file systems. A
// system's own disk, if it is not found, has other uses: parts of it are mounted, or it has
// the files of loop devices.
func (m *machine) plain(d *Disk) bool {
	used := append([]*node{m.nodes[d.Name]}, m.parts(m.nodes[d.Name])...)
	return d.Releasable() && !d.Fixed() && !slices.ContainsFunc(used, func(n *node) bool { return n.partly || len(n.loops) > 0 })
}

func (m *machine) uses(n *node, seen map[*node]bool, d *Disk) {
	if seen[n] {
		return
	}
	seen[n] = true
	use := func(format string, args ...any) {
		d.InUse = append(d.InUse, m.label(n)+" "+fmt.Sprintf(format, args...))
	}
	if len(n.mounts) > 0 {
		use("is mounted at %s", list(n.mounts))
		if n.disk == d.Name && len(n.groups) == 0 {
			d.Mounts = append(d.Mounts, Mount{n.path(), n.mounts})
		}
		d.System = d.System || slices.ContainsFunc(n.mounts, func(at string) bool { return slices.Contains(systemMounts, at) })
	} else {
		for _, group := range n.groups {
			use("is part of %s", group)
		}
	}
	if len(n.layers) > 0 {
		use("has directories of an overlay at %s", list(n.layers))
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
		m.uses(h, seen, d)
		for _, p := range m.parts(h) {
			m.uses(p, seen, d)
		}
	}
	// Loop devices of files on n count only if this system runs from one: its file system
	// is mounted in any case.
	for _, name := range n.loops {
		var of Disk
		m.uses(m.nodes[name], seen, &of)
		for _, p := range m.parts(m.nodes[name]) {
			m.uses(p, seen, &of)
		}
		if of.System {
			use("has the file of %s, from which this system runs", m.label(m.nodes[name]))
			d.System = true
		}
	}
}

// otherName adds to d the uses of the same data under another name: a disk with two cables,
// or a file that is swap or has another loop device.
func (m *machine) otherName(n *node, seen map[*node]bool, d *Disk) {
	file := n.backing()
	if slices.Contains(m.swaps, file) {
		d.InUse = append(d.InUse, "its file is swap")
	}
	// USB bridges may report the same WWN for different disks.
	twice := func(other *node) bool { return d.WWN != "" && d.USB == nil && other.wwn() == d.WWN }
	for _, name := range slices.Sorted(maps.Keys(m.nodes)) {
		other := m.nodes[name]
		if other == n || other.disk != other.name || !twice(other) && !sameBacking(n, other) {
			continue
		}
		before := len(d.InUse)
		for _, o := range append([]*node{other}, m.parts(other)...) {
			m.uses(o, seen, d)
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

// parts returns the partitions of n in the order of their offsets.
func (m *machine) parts(n *node) (parts []*node) {
	for _, p := range m.nodes {
		if p.disk == n.name && p != n {
			parts = append(parts, p)
		}
	}
	slices.SortFunc(parts, func(a, b *node) int {
		return cmp.Or(cmp.Compare(a.number("start"), b.number("start")), cmp.Compare(a.name, b.name))
	})
	return parts
}
