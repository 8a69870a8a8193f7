package disk

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"imgtool/flash/disk/plist"
	"imgtool/flash/disk/usb"
)

// mac is the disks of a Mac according to diskutil, ioreg and the kernel's mounts. It runs
// programs only through run, so that tests can use recorded answers on any system.
type mac struct {
	run    func(args ...string) ([]byte, error) // a program and its arguments
	names  []string                             // of whole disks, in the order of diskutil
	infos  map[string]plist.Dict                // output of diskutil info, by whole disk
	whole  map[string]plist.Dict                // entries of diskutil list, by whole disk
	media  map[string]medium                    // by BSD name, such as disk4s1
	mounts []macMount
	usb    []usb.Device
	onUSB  map[string]bridge // by whole disk connected over USB

	rootless bool // the disk of / is unknown, so it may be any disk in use
}

type macMount struct{ from, at string } // /dev/disk3s1s1, /

// medium is a disk or a partition in the IO registry.
type medium struct {
	id   uint64 // unique until the next boot
	base int64  // offset in the disk or partition that contains it
}

// bridge is the USB interface of a disk, and the disk's answer to a SCSI inquiry.
type bridge struct {
	usb                usb.Device
	vendor, model, rev string
}

// lookMac queries a Mac through run. mounts are the mounts the kernel lists; lookMac adds
// the mounts that diskutil lists.
func lookMac(run func(args ...string) ([]byte, error), mounts []macMount) (*mac, error) {
	m := &mac{run: run, whole: map[string]plist.Dict{}, infos: map[string]plist.Dict{}, onUSB: map[string]bridge{}, mounts: slices.Clone(mounts)}
	list, err := m.dict("diskutil", "list", "-plist")
	if err != nil {
		return nil, err
	}
	if _, ok := list["AllDisksAndPartitions"].([]any); !ok {
		return nil, errors.New("diskutil list -plist: AllDisksAndPartitions is missing")
	}
	for _, d := range list.Dicts("AllDisksAndPartitions") {
		name := d.Text("DeviceIdentifier")
		if name == "" || wholeName(name) != name {
			return nil, fmt.Errorf("diskutil list -plist: %q is not the name of a whole disk", name)
		}
		if m.whole[name] == nil {
			m.names = append(m.names, name)
		}
		m.whole[name] = d
		m.addMounts(name, d)
	}
	if m.media, err = macMedia(run); err != nil {
		return nil, err
	}
	if err := m.addUSB(); err != nil {
		return nil, err
	}
	m.rootless = !slices.ContainsFunc(m.mounts, func(o macMount) bool { return o.at == "/" && m.resolves(wholeOf(o.from)) })
	return m, nil
}

// resolves reports whether the physical disks of a disk or an APFS container are known.
func (m *mac) resolves(name string) bool {
	on := []string{name}
	if stores := m.stores(name); len(stores) > 0 {
		on = stores
	}
	for _, name := range on {
		name = wholeName(name)
		if m.whole[name] == nil {
			return false
		}
		if info, err := m.info(name); err != nil || m.notDisk(name, info) != "" {
			return false
		}
	}
	return true
}

// addMounts adds the mounts that diskutil lists for a disk: of its partitions, of the
// volumes of a container, and of their snapshots.
func (m *mac) addMounts(disk string, d plist.Dict) {
	from := cmp.Or(d.Text("SnapshotBSD"), d.Text("DeviceIdentifier"), disk)
	for _, key := range []string{"MountPoint", "SnapshotMountPoint"} {
		mount := macMount{"/dev/" + from, d.Text(key)}
		same := func(o macMount) bool { return wholeOf(o.from) == disk && o.at == mount.at }
		if mount.at != "" && !slices.ContainsFunc(m.mounts, same) {
			m.mounts = append(m.mounts, mount)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(d)) {
		for _, sub := range d.Dicts(key) {
			m.addMounts(disk, sub)
		}
	}
}

// disks returns the whole disks, whether or not they may be written.
func (m *mac) disks() ([]Disk, error) {
	var disks []Disk
	for _, name := range m.names {
		if len(m.stores(name)) > 0 {
			continue
		}
		info, err := m.info(name)
		if _, gone := errors.AsType[*diskutilError](err); gone {
			continue // unplugged meanwhile
		}
		if err != nil {
			return nil, err
		}
		if m.notDisk(name, info) == "" {
			disks = append(disks, *m.describe(name, info))
		}
	}
	return disks, nil
}

// find returns the disk with a name such as disk4.
func (m *mac) find(path, name string) (*Disk, error) {
	refuse := func(format string, args ...any) (*Disk, error) {
		return nil, &RefusedError{path, fmt.Sprintf(format, args...)}
	}
	whole := wholeName(name)
	if m.whole[whole] == nil {
		return refuse("diskutil does not list this disk")
	}
	info, err := m.info(whole)
	if _, gone := errors.AsType[*diskutilError](err); gone {
		return nil, &GoneError{path, err}
	}
	if err != nil {
		return nil, err
	}
	if why := m.notDisk(whole, info); why != "" {
		return refuse("%s", why)
	}
	if whole != name {
		return refuse("a partition of /dev/%s: name the whole disk", whole)
	}
	return m.describe(name, info), nil
}

func (m *mac) info(name string) (plist.Dict, error) {
	if info := m.infos[name]; info != nil {
		return info, nil
	}
	info, err := m.dict("diskutil", "info", "-plist", name)
	if err == nil && info.Text("DeviceIdentifier") != name {
		err = fmt.Errorf("diskutil info -plist %s: the answer is about %q", name, info.Text("DeviceIdentifier"))
	}
	if err != nil {
		return nil, err
	}
	m.infos[name] = info
	return info, nil
}

// notDisk returns why a device can never be written as a disk, or "".
func (m *mac) notDisk(name string, info plist.Dict) string {
	stores := m.stores(name)
	switch {
	case len(stores) > 0:
		return "an APFS container on " + list(stores) + " is not a whole disk"
	case info.Text("OpticalDeviceType") != "":
		return "an optical drive is not a disk to write an image to"
	case info.Bool("RAIDMaster"):
		return "an array is not a whole disk"
	case info.Text("VirtualOrPhysical") == "Virtual" && macBuses[info.Text("BusProtocol")] != "loop":
		return "a volume assembled from others is not a whole disk"
	}
	return ""
}

// macBuses maps bus names of diskutil to bus names of [Disk].
var macBuses = map[string]string{
	"USB":            "usb",
	"Secure Digital": "mmc",
	"PCI-Express":    "nvme",
	"PCI":            "nvme",
	"Apple Fabric":   "nvme",
	"SATA":           "ata",
	"ATA":            "ata",
	"SAS":            "scsi",
	"SCSI":           "scsi",
	"FireWire":       "scsi",
	"Disk Image":     "loop", // a disk image attached by the user
}

func (m *mac) describe(name string, info plist.Dict) *Disk {
	d := &Disk{
		Path:       "/dev/" + name,
		Name:       name,
		Size:       cmp.Or(info.Int("TotalSize"), info.Int("Size"), info.Int("IOKitSize")),
		SectorSize: int(info.Int("DeviceBlockSize")),
		Model:      cmp.Or(info.Text("MediaName"), strings.TrimSuffix(info.Text("IORegistryEntryName"), " Media")),
		Bus:        macBuses[info.Text("BusProtocol")],
		Diskseq:    m.media[name].id,
	}
	writable, known := info["WritableMedia"].(bool)
	if !known {
		writable = info.Bool("Writable")
	}
	d.ReadOnly = !writable
	if d.Bus == "mmc" {
		d.Kind = "SD"
	}
	// A disk without this key counts as internal.
	internal, known := info["Internal"].(bool)
	d.Internal = (internal || !known) && !info.Bool("RemovableMedia")
	d.Removable = !d.Internal
	if b, ok := m.onUSB[name]; ok {
		d.USB = &b.usb
		d.Serial = b.usb.Serial
		d.Vendor, d.Model, d.Rev = b.vendor, cmp.Or(b.model, d.Model), b.rev
	}
	for _, p := range m.whole[name].Dicts("Partitions") {
		at := p.Text("DeviceIdentifier")
		d.Parts = append(d.Parts, Part{at, m.media[at].base, p.Int("Size")})
	}
	slices.SortFunc(d.Parts, func(a, b Part) int { return cmp.Or(cmp.Compare(a.Off, b.Off), cmp.Compare(a.Name, b.Name)) })
	m.users(name, d)
	return d
}

// users adds the uses of a disk to d. macOS mounts volumes below /Volumes automatically,
// so these do not count: Open unmounts them.
func (m *mac) users(name string, d *Disk) {
	use := func(device, format string, args ...any) {
		d.InUse = append(d.InUse, "/dev/"+device+" "+fmt.Sprintf(format, args...))
	}
	for _, on := range append([]string{name}, m.containers(name)...) {
		for _, o := range m.mounts {
			if wholeOf(o.from) != on {
				continue
			}
			if strings.HasPrefix(o.at, "/Volumes/") {
				d.Mounted = append(d.Mounted, o.at)
				continue
			}
			use(strings.TrimPrefix(o.from, "/dev/"), "is mounted at %s", o.at)
			d.System = d.System || o.at == "/" || strings.HasPrefix(o.at, "/System/")
		}
		if stores := m.stores(on); slices.ContainsFunc(stores, func(s string) bool { return wholeName(s) != name }) {
			use(on, "is an APFS container on several disks (%s)", list(stores))
		}
	}
	for _, p := range append([]plist.Dict{m.whole[name]}, m.whole[name].Dicts("Partitions")...) {
		switch p.Text("Content") {
		case "Apple_RAID", "Apple_RAID_Offline":
			use(p.Text("DeviceIdentifier"), "is part of an AppleRAID set")
		case "Apple_CoreStorage":
			use(p.Text("DeviceIdentifier"), "is part of a CoreStorage group")
		}
	}
	if m.rootless && len(d.InUse)+len(d.Mounted) > 0 {
		d.System = true
	}
}

// containers returns the APFS containers that are at least partly on a disk.
func (m *mac) containers(disk string) []string {
	var on []string
	for _, name := range m.names {
		if slices.ContainsFunc(m.stores(name), func(s string) bool { return wholeName(s) == disk }) {
			on = append(on, name)
		}
	}
	return on
}

// stores returns the partitions or disks of an APFS container. Other disks have none.
func (m *mac) stores(name string) []string {
	var stores []string
	for _, s := range m.whole[name].Dicts("APFSPhysicalStores") {
		if at := cmp.Or(s.Text("DeviceIdentifier"), s.Text("APFSPhysicalStore")); at != "" {
			stores = append(stores, at)
		}
	}
	return stores
}

// unmount unmounts the volumes of a disk, those in its APFS containers first, without force.
func (m *mac) unmount(d *Disk) error {
	for _, name := range append(m.containers(d.Name), d.Name) {
		if out, err := m.run("diskutil", "unmountDisk", name); err != nil {
			why := strings.Join(strings.Fields(string(out)), " ")
			return d.refuse("its volumes cannot be unmounted (%s): close the programs that use them", cmp.Or(why, err.Error()))
		}
	}
	return nil
}

var (
	bsdName = regexp.MustCompile(`^(disk\d+)(s\d+)*$`)
	mounted = regexp.MustCompile(`/(disk\d+)(s\d+)*(/|$)`)
)

// wholeName returns the whole disk of a name such as disk4s1, or "".
func wholeName(name string) string {
	if m := bsdName.FindStringSubmatch(name); m != nil {
		return m[1]
	}
	return ""
}

// wholeOf returns the whole disk of a mount's source, or "". Most sources are in /dev; sources
// of file systems in user space have a prefix.
func wholeOf(from string) string {
	if m := mounted.FindStringSubmatch(from); m != nil {
		return m[1]
	}
	return ""
}
