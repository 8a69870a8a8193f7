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
	"syscall"

	"golang.org/x/sys/unix"

	"imgtool/flash/disk/procs"
	"imgtool/flash/disk/usb"
)

// List returns the whole disks of the machine with the root directory root, sorted by name;
// "/" is this computer. It leaves out RAM disks, optical drives, assembled devices, the boot
// partitions of eMMCs, and devices of size 0 other than card readers.
func List(root string) ([]Disk, error) {
	m, err := query(root)
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

// Find returns the disk at path, which may be a symbolic link or a regular file. For a file
// that can never be a disk the error is a [*RefusedError].
func Find(root, path string) (*Disk, error) {
	at, info, err := resolve(root, path)
	if err != nil {
		return nil, err
	}
	refuse := func(format string, args ...any) (*Disk, error) {
		return nil, &RefusedError{path, fmt.Sprintf(format, args...)}
	}
	device := info.Mode()&fs.ModeDevice != 0 && info.Mode()&fs.ModeCharDevice == 0
	// A recorded machine has regular files instead of device nodes.
	recorded := filepath.Clean(root) != "/" && strings.HasPrefix(at, filepath.Join(root, "dev")+"/")
	switch {
	case info.Mode()&fs.ModeCharDevice != 0:
		return refuse("a character device is not a disk: name a disk such as /dev/sdb, or a regular file")
	case !device && !info.Mode().IsRegular():
		return refuse("it is neither a disk nor a regular file")
	}

	m, err := query(root)
	switch noSysfs := errors.Is(err, errNoSysfs); {
	case noSysfs && !device && !recorded: // uses of a regular file can be found without it
	case noSysfs, errors.Is(err, errNoProc):
		return refuse("%v, so its uses are unknown", err)
	case err != nil:
		return nil, err
	}
	if !device && !recorded {
		d := regularFile(path, info)
		d.InUse, err = m.fileUses(at, info)
		return d, err
	}
	n := m.nodes[strings.ReplaceAll(strings.TrimPrefix(at, filepath.Join(root, "dev")+"/"), "/", "!")]
	if device {
		n = m.byDev[uint64(info.Sys().(*syscall.Stat_t).Rdev)]
	}
	if n == nil {
		return refuse("the kernel does not list this disk")
	}
	disk := m.nodes[n.disk]
	if why := m.notDisk(disk); why != "" {
		return refuse("%s", why)
	}
	if n != disk {
		return refuse("it is a partition of %s: name the whole disk", disk.path())
	}
	return m.describe(n), nil
}

// machine is the block devices of a machine and their uses.
type machine struct {
	root   string
	nodes  map[string]*node           // by the kernel's name, such as sda1
	byDev  map[uint64]*node           // by device number, as in stat(2)
	mounts []*mount                   // in the order of mounting
	swaps  []string                   // swap files
	open   map[uint64][]procs.Process // see openDevices

	rootless bool // the disk of / is unknown, so it may be any disk in use
}

// node is a block device: a disk, a partition or an assembled device.
type node struct {
	name, disk string // equal for a whole disk
	dir        string // in sysfs
	dev        uint64 // device number, or 0 if unknown
	slaves     []string
	holders    []string
	loops      []string // loop devices of files on it
	mounts     []string
	partly     bool     // a directory or file of its file system is mounted by itself
	layers     []string // mount points of overlays of the system with directories on it
	swapFiles  []string
	groups     []string // mounted file systems on several disks that include it
	swap       bool
	loop       *loopBacking // of a loop device, if it could be queried
}

func (n *node) path() string { return "/dev/" + strings.ReplaceAll(n.name, "!", "/") }

func query(root string) (*machine, error) {
	m := &machine{root: root, nodes: map[string]*node{}, byDev: map[uint64]*node{}}
	names, err := readDir(filepath.Join(root, "sys/block"))
	switch {
	case errors.Is(err, fs.ErrNotExist) && m.here():
		// Loop devices are found by their names in /dev.
		m.findLoops()
		if err := m.findUses(); err != nil {
			return nil, err
		}
		return m, errNoSysfs
	case err != nil:
		return nil, err
	}
	for _, name := range names {
		dir, err := filepath.EvalSymlinks(filepath.Join(root, "sys/block", name))
		if err != nil {
			continue // unplugged meanwhile
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
	m.findLoops()
	return m, m.findUses()
}

var (
	errNoSysfs = errors.New("/sys is not mounted")
	errNoProc  = errors.New("/proc is not mounted")
)

func (m *machine) add(name, disk, dir string) {
	n := &node{name: name, disk: disk, dir: dir}
	n.slaves, _ = readDir(filepath.Join(dir, "slaves"))
	n.holders, _ = readDir(filepath.Join(dir, "holders"))
	m.nodes[name] = n
	major, minor, _ := strings.Cut(n.text("dev"), ":")
	a, err1 := strconv.ParseUint(major, 10, 32)
	b, err2 := strconv.ParseUint(minor, 10, 32)
	if err1 == nil && err2 == nil {
		n.dev = unix.Mkdev(uint32(a), uint32(b))
		m.byDev[n.dev] = n
	}
}

var (
	hardware = regexp.MustCompile(`^(mmcblk\d+)(boot\d+|rpmb|gp\d+)$`)
	noDisk   = map[string]string{
		"ram":      "memory is not a disk",
		"zram":     "compressed memory is not a disk",
		"sr":       "an optical drive is not supported",
		"fd":       "a floppy drive is not supported",
		"mtdblock": "raw flash is not a disk: it requires other tools",
		"dm-":      "a mapped device is not a whole disk",
		"md":       "an array is not a whole disk",
		"bcache":   "a cached device is not a whole disk",
	}
)

// notDisk returns why a whole block device can never be written as a disk, or "".
func (m *machine) notDisk(n *node) string {
	if h := hardware.FindStringSubmatch(n.name); h != nil {
		return fmt.Sprintf("it is a boot or protected area of an eMMC: the disk is /dev/%s", h[1])
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
		return "it is a path of a disk with several paths: name the disk"
	case strings.HasPrefix(n.name, "loop") && n.backing() == "":
		return "it is a loop device without a file"
	case strings.HasPrefix(n.name, "loop") && m.backed(n) != nil:
		return "it is a loop device of " + m.backed(n).path() + ": name that disk"
	}
	return ""
}

func (m *machine) describe(n *node) *Disk {
	d := &Disk{
		Path:       n.path(),
		Name:       n.name,
		Size:       n.number("size") * 512, // always in units of 512 bytes
		SectorSize: int(n.number("queue/logical_block_size")),
		Model:      cmp.Or(n.text("device/model"), n.text("device/name"), n.text("loop/backing_file")),
		Vendor:     n.text("device/vendor"),
		Rev:        n.text("device/rev"),
		Serial:     cmp.Or(n.text("device/serial"), n.text("serial"), n.page80()),
		WWN:        n.wwn(),
		Removable:  n.number("removable") == 1,
		ReadOnly:   n.number("ro") == 1,
		Diskseq:    uint64(n.number("diskseq")),
		dev:        n.dev,
	}
	if n.loop != nil {
		d.foundFile = n.loop.file
	}
	d.USB = usb.Of(m.root, n.dir)
	d.Bus = m.bus(n)
	switch d.Bus {
	case "usb":
		// Cheap bridges report the same serial number for every disk.
		if d.USB != nil && d.USB.Serial != "" {
			d.Serial = d.USB.Serial
		}
	case "mmc":
		d.Kind = n.text("device/type")
	case "virtio", "nvme":
		d.Vendor = "" // it is a PCI vendor ID
	}
	parts := m.parts(n)
	for _, p := range parts {
		d.Parts = append(d.Parts, Part{p.name, p.number("start") * 512, p.number("size") * 512})
	}
	m.allUses(append([]*node{n}, parts...), d)
	return d
}

func (m *machine) bus(n *node) string {
	for _, bus := range []string{"loop", "nbd", "nvme", "mmc"} {
		if strings.HasPrefix(n.name, bus) {
			return bus
		}
	}
	for _, bus := range []string{"usb", "virtio", "ata"} {
		for _, name := range strings.Split(n.dir, "/") {
			if rest, ok := strings.CutPrefix(name, bus); ok && rest != "" && rest[0] >= '0' && rest[0] <= '9' {
				return bus
			}
		}
	}
	if exists(filepath.Join(n.dir, "device/vendor")) {
		return "scsi"
	}
	return ""
}

// wwn returns the world wide name of a disk, which is the same on every path to it.
func (n *node) wwn() string {
	id := cmp.Or(n.text("device/wwid"), n.text("wwid"))
	switch kind, _, _ := strings.Cut(id, "."); kind {
	case "naa", "eui", "uuid":
		return id
	}
	return "" // other IDs are composed of vendor, model and serial number
}

// page80 returns the serial number of a SCSI or SATA disk from page 0x80 of its vital product
// data: four bytes of header with the length in the last two (SPC-4, 7.8.15).
func (n *node) page80() string {
	b, err := os.ReadFile(filepath.Join(n.dir, "device/vpd_pg80"))
	if err != nil || len(b) < 4 || b[1] != 0x80 {
		return ""
	}
	return strings.Trim(string(b[4:min(len(b), 4+int(b[2])<<8+int(b[3]))]), " \x00")
}

func (n *node) backing() string {
	return strings.TrimSuffix(n.text("loop/backing_file"), " (deleted)")
}

func (n *node) text(attr string) string { return text(filepath.Join(n.dir, attr)) }

func (n *node) number(attr string) int64 {
	v, _ := strconv.ParseInt(n.text(attr), 10, 64)
	return v
}

// text returns the content of a file, or "" without it: most disks have few attributes.
func text(path string) string {
	b, _ := os.ReadFile(path)
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
