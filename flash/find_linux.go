package flash

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
	"syscall"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Disks are the whole disks of the machine whose files are below root ("/" is
// this one), by name. RAM disks, optical drives, assembled devices and the
// boot partitions of an eMMC are not among them, nor is what holds no medium
// and never had one; a reader without a card is.
func Disks(root string) ([]Disk, error) {
	m, err := look(root)
	if err != nil {
		return nil, err
	}
	var disks []Disk
	for _, name := range slices.Sorted(maps.Keys(m.nodes)) {
		n := m.nodes[name]
		if n.disk != name || m.notDisk(n) != "" {
			continue
		}
		if d := m.describe(n); d.Size > 0 || d.Removable {
			disks = append(disks, *d)
		}
	}
	return disks, nil
}

// Find returns the disk at path, which may be a symbolic link or a regular
// file. What can never be a disk is a *RefusedError.
func Find(root, path string) (*Disk, error) {
	at, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	at, err = filepath.EvalSymlinks(filepath.Join(root, at))
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(at)
	if err != nil {
		return nil, err
	}
	refuse := func(format string, args ...any) (*Disk, error) {
		return nil, &RefusedError{path, fmt.Sprintf(format, args...)}
	}
	device := info.Mode()&fs.ModeDevice != 0 && info.Mode()&fs.ModeCharDevice == 0
	// A recorded machine has no device nodes, but files of their names.
	recorded := filepath.Clean(root) != "/" && strings.HasPrefix(at, filepath.Join(root, "dev")+"/")
	switch {
	case info.IsDir():
		return refuse("a folder is not a disk: name a disk such as /dev/sdb, or a regular file")
	case info.Mode()&fs.ModeCharDevice != 0:
		return refuse("a character device is not a disk: name a disk such as /dev/sdb, or a regular file")
	case !device && !info.Mode().IsRegular():
		return refuse("neither a disk nor a regular file")
	}

	m, err := look(root)
	if err != nil {
		return nil, err
	}
	if !device && !recorded {
		d := &Disk{Path: path, Name: filepath.Base(path), Size: info.Size(), SectorSize: 512, File: true}
		d.InUse = m.fileUsers(info)
		return d, nil
	}
	n := m.nodes[filepath.Base(at)]
	if device {
		dev := uint64(info.Sys().(*syscall.Stat_t).Rdev)
		n = m.byDev[fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev))]
	}
	if n == nil {
		return refuse("the kernel knows no such disk")
	}
	disk := m.nodes[n.disk]
	if why := m.notDisk(disk); why != "" {
		return refuse("%s", why)
	}
	if n != disk {
		return refuse("a partition of %s: name the whole disk", disk.path())
	}
	return m.describe(n), nil
}

// machine is the block devices of a machine and who uses them.
type machine struct {
	root  string
	nodes map[string]*node // by the kernel's name, such as sda1
	byDev map[string]*node // by major:minor
	swaps []string         // swap files

	// rootless: what carries / is not known, so any used disk may be it.
	rootless bool
}

// node is one block device: a disk, a partition or something assembled.
type node struct {
	name, disk string // of a whole disk both are the same
	dir        string // its folder in sysfs
	slaves     []string
	holders    []string
	mounts     []string
	swap       bool
	btrfs      bool
}

func (n *node) path() string { return "/dev/" + strings.ReplaceAll(n.name, "!", "/") }

// systemMounts make the disk below them the one this system runs from.
var systemMounts = []string{"/", "/usr", "/boot", "/boot/efi", "/boot/firmware", "/efi", "/var", "/nix", "/nix/store"}

func look(root string) (*machine, error) {
	m := &machine{root: root, nodes: map[string]*node{}, byDev: map[string]*node{}}
	names, err := readDir(filepath.Join(root, "sys/block"))
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		dir, err := filepath.EvalSymlinks(filepath.Join(root, "sys/block", name))
		if err != nil {
			continue // unplugged just now
		}
		m.add(name, name, dir)
		inside, err := readDir(dir)
		if err != nil {
			continue
		}
		for _, part := range inside {
			if sub := filepath.Join(dir, part); exists(filepath.Join(sub, "partition")) {
				m.add(part, name, sub)
			}
		}
	}
	for _, n := range m.nodes {
		for _, s := range n.slaves {
			if low := m.nodes[s]; low != nil && !slices.Contains(low.holders, n.name) {
				low.holders = append(low.holders, n.name)
			}
		}
	}
	groups, err := m.btrfsGroups()
	if err != nil {
		return nil, err
	}
	if err := m.addMounts(groups); err != nil {
		return nil, err
	}
	return m, m.addSwaps()
}

func (m *machine) add(name, disk, dir string) {
	n := &node{name: name, disk: disk, dir: dir}
	n.slaves, _ = readDir(filepath.Join(dir, "slaves"))
	n.holders, _ = readDir(filepath.Join(dir, "holders"))
	m.nodes[name] = n
	m.byDev[n.text("dev")] = n
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
				n.btrfs = true
				group = append(group, n)
			}
		}
		groups = append(groups, group)
	}
	return groups, nil
}

func (m *machine) addMounts(groups [][]*node) error {
	f, err := os.Open(filepath.Join(m.root, "proc/self/mountinfo"))
	if err != nil {
		return err
	}
	defer f.Close()
	mounts, err := mountinfo.GetMountsFromReader(f, nil)
	if err != nil {
		return err
	}
	m.rootless = true
	for _, mount := range mounts {
		var on []*node
		if n := m.byDev[fmt.Sprintf("%d:%d", mount.Major, mount.Minor)]; n != nil {
			on = append(on, n)
		} else {
			// bcachefs joins its disks with colons.
			for _, source := range strings.Split(mount.Source, ":") {
				if n := m.bySource(source); n != nil {
					on = append(on, n)
				}
			}
		}
		for _, group := range groups {
			if slices.ContainsFunc(on, func(n *node) bool { return slices.Contains(group, n) }) {
				on = append(on, group...)
			}
		}
		for _, n := range on {
			if mount.Mountpoint == "/" {
				m.rootless = false
			}
			if !slices.Contains(n.mounts, mount.Mountpoint) {
				n.mounts = append(n.mounts, mount.Mountpoint)
			}
		}
	}
	return nil
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
		path := unescape(fields[0])
		switch fields[1] {
		case "partition":
			if n := m.bySource(path); n != nil {
				n.swap = true
			}
		case "file":
			m.swaps = append(m.swaps, path)
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

var (
	octal    = regexp.MustCompile(`\\[0-7]{3}`)
	hardware = regexp.MustCompile(`^(mmcblk\d+)(boot\d+|rpmb|gp\d+)$`)
	noDisk   = map[string]string{
		"ram":      "memory is not a disk",
		"zram":     "compressed memory is not a disk",
		"sr":       "an optical drive is not a disk to write an image to",
		"fd":       "a floppy drive is not a disk to write an image to",
		"mtdblock": "raw flash is not a disk: it needs its own tools",
		"dm-":      "a mapped device is not a whole disk",
		"md":       "an array is not a whole disk",
		"bcache":   "a cached device is not a whole disk",
	}
)

// notDisk says why n, a whole block device, can never be a disk.
func (m *machine) notDisk(n *node) string {
	if h := hardware.FindStringSubmatch(n.name); h != nil {
		return fmt.Sprintf("a boot or protected part of an eMMC, where its firmware looks: the disk is /dev/%s", h[1])
	}
	for prefix, why := range noDisk {
		rest, ok := strings.CutPrefix(n.name, prefix)
		if ok && strings.Trim(rest, "_d0123456789") == "" {
			return why
		}
	}
	switch {
	case len(n.slaves) > 0:
		return "a device assembled from " + strings.Join(n.slaves, ", ") + " is not a whole disk"
	case n.text("hidden") == "1":
		return "one path to a disk that has several: name the disk"
	case strings.HasPrefix(n.name, "loop") && n.backing() == "":
		return "a loop device without a file"
	}
	return ""
}

func (m *machine) describe(n *node) *Disk {
	d := &Disk{
		Path:       n.path(),
		Name:       n.name,
		Size:       n.number("size") * 512, // whatever the sectors are
		SectorSize: int(n.number("queue/logical_block_size")),
		Model:      n.first("device/model", "device/name", "loop/backing_file"),
		Vendor:     n.text("device/vendor"),
		Serial:     n.first("device/serial", "serial"),
		Removable:  n.number("removable") == 1,
		ReadOnly:   n.number("ro") == 1,
		Diskseq:    uint64(n.number("diskseq")),
	}
	d.Bus = m.bus(n)
	switch d.Bus {
	case "usb":
		if serial := m.usbSerial(n); serial != "" {
			d.Serial = serial
		}
	case "virtio", "nvme":
		d.Vendor = "" // a PCI number
	}
	var users []*node
	for _, p := range m.parts(n) {
		d.Parts = append(d.Parts, Part{p.name, p.number("start") * 512, p.number("size") * 512})
		users = append(users, p)
	}
	sortParts(d.Parts)
	slices.SortFunc(users, func(a, b *node) int { return int(a.number("start") - b.number("start")) })
	seen := map[*node]bool{}
	for _, u := range append([]*node{n}, users...) {
		m.users(u, seen, d)
	}
	if len(d.InUse) == 0 && m.claimed(d) {
		d.InUse = []string{"the kernel or another program has claimed it, for a file system of several disks, a container or a virtual machine"}
	}
	if m.rootless && len(d.InUse) > 0 {
		d.System = true
	}
	return d
}

// users adds to d who uses n, and who uses what is made of n.
func (m *machine) users(n *node, seen map[*node]bool, d *Disk) {
	if seen[n] {
		return
	}
	seen[n] = true
	if len(n.mounts) > 0 {
		d.InUse = append(d.InUse, fmt.Sprintf("%s is mounted at %s", m.label(n), list(n.mounts)))
		for _, at := range n.mounts {
			d.System = d.System || slices.Contains(systemMounts, at)
		}
	} else if n.btrfs {
		d.InUse = append(d.InUse, fmt.Sprintf("%s is part of a mounted btrfs", m.label(n)))
	}
	if n.swap {
		d.InUse = append(d.InUse, m.label(n)+" is swap")
	}
	for _, name := range n.holders {
		h := m.nodes[name]
		if h == nil {
			d.InUse = append(d.InUse, fmt.Sprintf("%s is held by %s", m.label(n), name))
			continue
		}
		d.InUse = append(d.InUse, fmt.Sprintf("%s is held by %s", m.label(n), m.label(h)))
		m.users(h, seen, d)
		for _, p := range m.parts(h) {
			m.users(p, seen, d)
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
	if filepath.Clean(m.root) != "/" || d.Size == 0 || d.Bus == "loop" {
		return false
	}
	fd, err := unix.Open(d.Path, unix.O_RDONLY|unix.O_EXCL|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err == unix.EBUSY
	}
	unix.Close(fd)
	return false
}

// fileUsers says who uses a regular file as a disk or as swap.
func (m *machine) fileUsers(info fs.FileInfo) []string {
	same := func(path string) bool {
		other, err := os.Stat(filepath.Join(m.root, path))
		return err == nil && os.SameFile(info, other)
	}
	var users []string
	for _, name := range slices.Sorted(maps.Keys(m.nodes)) {
		if b := m.nodes[name].backing(); b != "" && same(b) {
			users = append(users, "the file is attached as "+m.nodes[name].path())
		}
	}
	if slices.ContainsFunc(m.swaps, same) {
		users = append(users, "the file is swap")
	}
	return users
}

func (m *machine) bus(n *node) string {
	switch {
	case strings.HasPrefix(n.name, "loop"):
		return "loop"
	case strings.HasPrefix(n.name, "nbd"):
		return "nbd"
	case strings.HasPrefix(n.name, "nvme"):
		return "nvme"
	case strings.HasPrefix(n.name, "mmcblk"):
		return strings.ToLower(n.text("device/type"))
	}
	for _, bus := range []string{"usb", "virtio", "ata"} {
		for _, folder := range strings.Split(n.dir, "/") {
			if rest, ok := strings.CutPrefix(folder, bus); ok && rest != "" && rest[0] >= '0' && rest[0] <= '9' {
				return bus
			}
		}
	}
	if exists(filepath.Join(n.dir, "device/vendor")) {
		return "scsi"
	}
	return ""
}

// usbSerial is the serial number of the USB device n hangs on: what a cheap
// bridge says of the disk behind it is often the same for all.
func (m *machine) usbSerial(n *node) string {
	for dir := n.dir; len(dir) > len(m.root) && filepath.Dir(dir) != dir; dir = filepath.Dir(dir) {
		if exists(filepath.Join(dir, "idVendor")) {
			return text(filepath.Join(dir, "serial"))
		}
	}
	return ""
}

func (n *node) backing() string {
	return strings.TrimSuffix(n.text("loop/backing_file"), " (deleted)")
}

func (n *node) text(attr string) string { return text(filepath.Join(n.dir, attr)) }

func (n *node) first(attrs ...string) string {
	for _, a := range attrs {
		if s := n.text(a); s != "" {
			return s
		}
	}
	return ""
}

func (n *node) number(attr string) int64 {
	v, _ := strconv.ParseInt(n.text(attr), 10, 64)
	return v
}

func text(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return "" // most disks have few of the attributes
	}
	return strings.TrimSpace(string(b))
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func readDir(path string) ([]string, error) {
	entries, err := os.ReadDir(path)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

// list joins names, the first few of many.
func list(names []string) string {
	const few = 4
	if len(names) > few {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:few], ", "), len(names)-few)
	}
	return strings.Join(names, ", ")
}
