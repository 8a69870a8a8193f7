package disk

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"

	"howett.net/plist"
)

// mac is the disks of a Mac as diskutil, ioreg and the kernel's mounts have
// them. It runs nothing but run, so that a recorded Mac can be looked at
// anywhere.
type mac struct {
	run    func(args ...string) ([]byte, error) // a program and its arguments
	names  []string                             // of whole disks, in the order of diskutil
	infos  map[string]dict                      // of whole disks, as far as asked for
	whole  map[string]dict                      // what diskutil lists of each
	media  map[string]medium                    // by BSD name, such as disk4s1
	mounts []macMount
	usb    []USB
	onUSB  map[string]bridge // whole disks that hang on USB

	// rootless: what carries / is not known, so any used disk may be it.
	rootless bool
}

// macMount is a mounted file system.
type macMount struct{ from, at string } // /dev/disk3s1s1, /

// medium is a disk or a partition in the IO registry.
type medium struct {
	id   uint64 // given to no other until the next boot
	base int64  // where it begins in what it is a part of
}

// bridge is what is between a disk and USB, and what the disk answers to an
// inquiry through it.
type bridge struct {
	usb                USB
	vendor, model, rev string
}

// lookMac looks at this Mac, or at a recorded one. mounts are the kernel's;
// those that diskutil knows of are added.
func lookMac(run func(args ...string) ([]byte, error), mounts []macMount) (*mac, error) {
	m := &mac{run: run, whole: map[string]dict{}, infos: map[string]dict{}, onUSB: map[string]bridge{}, mounts: slices.Clone(mounts)}
	list, err := m.dict("diskutil", "list", "-plist")
	if err != nil {
		return nil, err
	}
	if _, ok := list["AllDisksAndPartitions"].([]any); !ok {
		return nil, errors.New("diskutil list -plist: it lists no disks at all")
	}
	for _, d := range list.dicts("AllDisksAndPartitions") {
		name := d.text("DeviceIdentifier")
		if name == "" || wholeName(name) != name {
			return nil, fmt.Errorf("diskutil list -plist: %q is no name of a whole disk", name)
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

// resolves says whether it is known which disks a disk or an APFS container
// lies on.
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

// addMounts adds where diskutil says that something on the disk is mounted:
// partitions, the volumes of a container, and their snapshots.
func (m *mac) addMounts(disk string, d dict) {
	from := cmp.Or(d.text("SnapshotBSD"), d.text("DeviceIdentifier"), disk)
	for _, key := range []string{"MountPoint", "SnapshotMountPoint"} {
		mount := macMount{"/dev/" + from, d.text(key)}
		same := func(o macMount) bool { return wholeOf(o.from) == disk && o.at == mount.at }
		if mount.at != "" && !slices.ContainsFunc(m.mounts, same) {
			m.mounts = append(m.mounts, mount)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(d)) {
		for _, sub := range d.dicts(key) {
			m.addMounts(disk, sub)
		}
	}
}

// disks are the disks that can be targets, refused or not.
func (m *mac) disks() ([]Disk, error) {
	var disks []Disk
	for _, name := range m.names {
		if len(m.stores(name)) > 0 {
			continue
		}
		info, err := m.info(name)
		if _, gone := errors.AsType[*diskutilError](err); gone {
			continue // unplugged just now
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

// find returns the disk a name such as disk4 stands for.
func (m *mac) find(path, name string) (*Disk, error) {
	refuse := func(format string, args ...any) (*Disk, error) {
		return nil, &RefusedError{path, fmt.Sprintf(format, args...)}
	}
	whole := wholeName(name)
	if m.whole[whole] == nil {
		return refuse("diskutil knows no such disk")
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

func (m *mac) info(name string) (dict, error) {
	if info := m.infos[name]; info != nil {
		return info, nil
	}
	info, err := m.dict("diskutil", "info", "-plist", name)
	if err == nil && info.text("DeviceIdentifier") != name {
		err = fmt.Errorf("diskutil info -plist %s: it tells of %q", name, info.text("DeviceIdentifier"))
	}
	if err != nil {
		return nil, err
	}
	m.infos[name] = info
	return info, nil
}

// notDisk says why a whole disk can never be a target.
func (m *mac) notDisk(name string, info dict) string {
	stores := m.stores(name)
	switch {
	case len(stores) > 0:
		return "an APFS container on " + list(stores) + " is not a whole disk"
	case info.text("OpticalDeviceType") != "":
		return "an optical drive is not a disk to write an image to"
	case info.is("RAIDMaster"):
		return "an array is not a whole disk"
	case info.text("VirtualOrPhysical") == "Virtual" && macBuses[info.text("BusProtocol")] != "loop":
		return "a volume assembled from others is not a whole disk"
	}
	return ""
}

// macBuses are what diskutil calls a bus.
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
	"Disk Image":     "loop", // attached by hand, as a loop device
}

func (m *mac) describe(name string, info dict) *Disk {
	d := &Disk{
		Path:       "/dev/" + name,
		Name:       name,
		Size:       cmp.Or(info.number("TotalSize"), info.number("Size"), info.number("IOKitSize")),
		SectorSize: int(info.number("DeviceBlockSize")),
		Model:      cmp.Or(info.text("MediaName"), strings.TrimSuffix(info.text("IORegistryEntryName"), " Media")),
		Bus:        macBuses[info.text("BusProtocol")],
		Diskseq:    m.media[name].id,
	}
	writable, known := info["WritableMedia"].(bool)
	if !known {
		writable = info.is("Writable")
	}
	d.ReadOnly = !writable
	if d.Bus == "mmc" {
		d.Kind = "SD"
	}
	// What does not say where it is counts as built in.
	internal, known := info["Internal"].(bool)
	d.Internal = (internal || !known) && !info.is("RemovableMedia")
	d.Removable = !d.Internal
	if b, ok := m.onUSB[name]; ok {
		d.USB = &b.usb
		d.Serial = b.usb.Serial
		d.Vendor, d.Model, d.Rev = b.vendor, cmp.Or(b.model, d.Model), b.rev
	}
	for _, p := range m.whole[name].dicts("Partitions") {
		at := p.text("DeviceIdentifier")
		d.Parts = append(d.Parts, Part{at, m.media[at].base, p.number("Size")})
	}
	sortParts(d.Parts)
	m.users(name, d)
	return d
}

// users adds to d who uses it. Mounts below /Volumes are macOS's own doing and
// end with it.
func (m *mac) users(name string, d *Disk) {
	use := func(who, format string, args ...any) {
		d.InUse = append(d.InUse, "/dev/"+who+" "+fmt.Sprintf(format, args...))
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
	for _, p := range append([]dict{m.whole[name]}, m.whole[name].dicts("Partitions")...) {
		switch p.text("Content") {
		case "Apple_RAID", "Apple_RAID_Offline":
			use(p.text("DeviceIdentifier"), "is part of an AppleRAID set")
		case "Apple_CoreStorage":
			use(p.text("DeviceIdentifier"), "is part of a CoreStorage group")
		}
	}
	if m.rootless && len(d.InUse)+len(d.Mounted) > 0 {
		d.System = true
	}
}

// containers are the APFS containers that lie on a disk, or partly so.
func (m *mac) containers(disk string) []string {
	var on []string
	for _, name := range m.names {
		if slices.ContainsFunc(m.stores(name), func(s string) bool { return wholeName(s) == disk }) {
			on = append(on, name)
		}
	}
	return on
}

// stores are the partitions or disks an APFS container lies on; nothing else
// has any.
func (m *mac) stores(name string) []string {
	var stores []string
	for _, s := range m.whole[name].dicts("APFSPhysicalStores") {
		if at := cmp.Or(s.text("DeviceIdentifier"), s.text("APFSPhysicalStore")); at != "" {
			stores = append(stores, at)
		}
	}
	return stores
}

// unmount unmounts whatever of a disk is mounted, those of its APFS containers
// first. It forces nothing.
func (m *mac) unmount(d *Disk) error {
	for _, name := range append(m.containers(d.Name), d.Name) {
		if out, err := m.run("diskutil", "unmountDisk", name); err != nil {
			why := strings.Join(strings.Fields(string(out)), " ")
			return d.refuse("its volumes cannot be unmounted (%s): close what uses them", cmp.Or(why, err.Error()))
		}
	}
	return nil
}

// sameAs compares the disk with what has its name now.
func (d *Disk) sameAs(now *Disk) error {
	changed := func(format string, args ...any) error {
		return &GoneError{d.Path, fmt.Errorf("another disk has its name: "+format, args...)}
	}
	switch {
	case d.Diskseq != 0 && d.Diskseq != now.Diskseq:
		return changed("it was number %d of this machine, this is number %d", d.Diskseq, now.Diskseq)
	case d.Size != now.Size:
		return changed("it had %d bytes, this one has %d", d.Size, now.Size)
	case d.SectorSize != now.SectorSize:
		return changed("it had sectors of %d bytes, this one of %d", d.SectorSize, now.SectorSize)
	case d.Serial != now.Serial:
		return changed("it had the serial number %q, this one %q", d.Serial, now.Serial)
	}
	return nil
}

// macMedia are the disks and partitions in the IO registry, by BSD name.
func macMedia(run func(args ...string) ([]byte, error)) (map[string]medium, error) {
	nodes, err := (&mac{run: run}).registry("IOMedia")
	if err != nil {
		return nil, err
	}
	media := map[string]medium{}
	for _, n := range nodes {
		n.walk(func(n dict) {
			if name := n.text("BSD Name"); wholeName(name) != "" {
				media[name] = medium{uint64(n.number("IORegistryEntryID")), n.number("Base")}
			}
		})
	}
	return media, nil
}

// usbNode is a USB device in the IO registry.
type usbNode struct {
	USB
	faces int
}

// addUSB notes the interfaces on USB, and which disks hang on them. In the IO
// registry a device is above its interfaces, and those above their disks.
func (m *mac) addUSB() error {
	nodes, err := m.registry("IOUSBHostDevice")
	if err != nil {
		return err
	}
	seen := map[int64]bool{}
	var visit func(n dict, device *usbNode, b bridge)
	visit = func(n dict, device *usbNode, b bridge) {
		own := false
		switch n.text("IOObjectClass") {
		case "IOUSBHostDevice":
			id := n.number("IORegistryEntryID")
			if id != 0 && seen[id] {
				return // what is in a hub may be there by itself as well
			}
			seen[id] = true
			device, own = &usbNode{USB: macUSB(n)}, true
			b = bridge{usb: device.USB}
		case "IOUSBHostInterface":
			if device != nil {
				device.faces++
				b.usb = device.USB
				b.usb.Interface = fmt.Sprintf("%02x/%02x/%02x", n.number("bInterfaceClass"), n.number("bInterfaceSubClass"), n.number("bInterfaceProtocol"))
				m.usb = append(m.usb, b.usb)
			}
		}
		if vendor, model := n.text("Vendor Identification"), n.text("Product Identification"); vendor+model != "" {
			b.vendor, b.model, b.rev = vendor, model, n.text("Product Revision Level")
		}
		if name := n.text("BSD Name"); device != nil && name != "" && wholeName(name) == name {
			m.onUSB[name] = b
		}
		for _, child := range n.dicts("IORegistryEntryChildren") {
			visit(child, device, b)
		}
		if own && device.faces == 0 {
			m.usb = append(m.usb, device.USB)
		}
	}
	for _, n := range nodes {
		visit(n, nil, bridge{})
	}
	slices.SortStableFunc(m.usb, func(a, b USB) int { return cmp.Compare(a.Port, b.Port) })
	return nil
}

func macUSB(n dict) USB {
	return USB{
		Port:         macPort(uint32(n.number("locationID"))),
		VendorID:     fmt.Sprintf("%04x", n.number("idVendor")),
		ProductID:    fmt.Sprintf("%04x", n.number("idProduct")),
		BCD:          fmt.Sprintf("%04x", n.number("bcdDevice")),
		Manufacturer: cmp.Or(n.text("USB Vendor Name"), n.text("kUSBVendorString")),
		Product:      cmp.Or(n.text("USB Product Name"), n.text("kUSBProductString")),
		Serial:       cmp.Or(n.text("USB Serial Number"), n.text("kUSBSerialNumberString")),
	}
}

// macPort is a location: the bus in the highest byte, then four bits for each
// port on the way, such as 20-2.3 for 0x14230000.
func macPort(location uint32) string {
	port := fmt.Sprint(location >> 24)
	for rest, sep := location<<8, "-"; rest != 0; rest, sep = rest<<4, "." {
		port += sep + fmt.Sprint(rest>>28)
	}
	return port
}

// registry is what the IO registry has of a class and below it.
func (m *mac) registry(class string) ([]dict, error) {
	v, err := m.ask("ioreg", "-a", "-l", "-r", "-c", class)
	if err != nil {
		return nil, err
	}
	return dict{"": v}.dicts(""), nil
}

// dict asks a program for a plist that is a dictionary.
func (m *mac) dict(args ...string) (dict, error) {
	v, err := m.ask(args...)
	if err != nil {
		return nil, err
	}
	d, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("%s: its answer is no dictionary", strings.Join(args, " "))
	}
	return d, nil
}

// diskutilError is what diskutil says instead of an answer.
type diskutilError struct{ command, message string }

func (e *diskutilError) Error() string { return e.command + ": " + e.message }

func (m *mac) ask(args ...string) (any, error) {
	command := strings.Join(args, " ")
	out, failed := m.run(args...)
	v, err := parsePlist(out)
	if d, ok := v.(map[string]any); ok && dict(d).text("ErrorMessage") != "" {
		return nil, &diskutilError{command, dict(d).text("ErrorMessage")}
	}
	switch {
	case failed != nil:
		return nil, fmt.Errorf("%s: %w", command, failed)
	case err != nil:
		return nil, fmt.Errorf("%s: its answer cannot be read: %w", command, err)
	}
	return v, nil
}

// parsePlist reads an XML property list; ioreg prints none if it finds nothing.
func parsePlist(b []byte) (any, error) {
	// Strings of devices are in there as they came, and XML takes not all.
	b = bytes.TrimSpace(bytes.Map(func(r rune) rune {
		if r < ' ' && r != '\t' && r != '\n' && r != '\r' || r == 0xfffe || r == 0xffff {
			return -1
		}
		return r
	}, b))
	if len(b) == 0 {
		return nil, nil
	}
	// The library takes a line of plain text for an older form of plist.
	if !bytes.HasPrefix(b, []byte("<?xml")) && !bytes.HasPrefix(b, []byte("<plist")) {
		return nil, errors.New("no XML property list")
	}
	var v any
	_, err := plist.Unmarshal(b, &v)
	return v, err
}

// dict is a dictionary of a plist. What is missing or of another type is empty.
type dict map[string]any

func (d dict) text(key string) string {
	s, _ := d[key].(string)
	return strings.TrimSpace(s)
}

func (d dict) is(key string) bool {
	b, _ := d[key].(bool)
	return b
}

func (d dict) number(key string) int64 {
	switch n := d[key].(type) {
	case uint64:
		if n <= math.MaxInt64 {
			return int64(n)
		}
	case int64:
		return max(n, 0)
	}
	return 0
}

// dicts are the dictionaries of an array, or the one that is not in any.
func (d dict) dicts(key string) []dict {
	var all []dict
	switch v := d[key].(type) {
	case map[string]any:
		all = append(all, v)
	case []any:
		for _, e := range v {
			if sub, ok := e.(map[string]any); ok {
				all = append(all, sub)
			}
		}
	}
	return all
}

// walk calls visit for n and for all that is below it in the IO registry.
func (d dict) walk(visit func(dict)) {
	visit(d)
	for _, child := range d.dicts("IORegistryEntryChildren") {
		child.walk(visit)
	}
}

var (
	bsdName = regexp.MustCompile(`^(disk\d+)(s\d+)*$`)
	mounted = regexp.MustCompile(`/(disk\d+)(s\d+)*(/|$)`)
)

// wholeName is the disk that a name such as disk4s1 belongs to.
func wholeName(name string) string {
	if m := bsdName.FindStringSubmatch(name); m != nil {
		return m[1]
	}
	return ""
}

// wholeOf is the disk a mount is from. Most are from a node in /dev; file
// systems in user space have other words before its name.
func wholeOf(from string) string {
	if m := mounted.FindStringSubmatch(from); m != nil {
		return m[1]
	}
	return ""
}
