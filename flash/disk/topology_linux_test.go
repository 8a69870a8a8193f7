package disk_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"imgtool/flash/disk"
	"imgtool/image/imagetest"
)

// A random machine is a graph of block devices that grows step by step. Each new use of a
// device marks all disks below it, independently of the files in sysfs and /proc from which
// package disk finds the uses.

// thing is a block device of a random machine.
type thing struct {
	name  string
	disk  *target  // the disk it is or is a partition of
	below []*thing // what it is made of
	n     int      // of a partition
	dev   string
	files map[string]string // in its directory in sysfs

	users, parts []*thing // the same graph upwards, as sysfs shows it
}

// target is what may be a target, and what the model knows of it.
type target struct {
	thing
	at                string // its directory below /sys/devices
	fixed, removable  bool
	empty, readOnly   bool
	id                string // serial or WWN
	inUse, runsSystem bool
	twin              *target // the same bytes by another name
}

type topology struct {
	*rand.Rand
	disks   []*target
	others  []*thing // assembled devices and partitions of such
	free    []*thing // nothing is on these yet
	mounts  []string
	swaps   []string
	links   map[string]string // in /dev
	files   map[string]string // anywhere else
	noise   []string          // devices that are never targets
	carries map[string][]*thing
	seq     int
	minors  map[int]int
	points  int
	noRoot  bool
}

func (t *topology) chance(percent int) bool { return t.IntN(100) < percent }

func (t *topology) dev(major int) string {
	t.minors[major]++
	return fmt.Sprintf("%d:%d", major, t.minors[major])
}

func oneOf[T any](t *topology, s ...T) T { return s[t.IntN(len(s))] }

// disksBelow are the disks whose bytes x is made of.
func disksBelow(x *thing) []*target {
	var found []*target
	if x.disk != nil {
		found = append(found, x.disk)
		if x.disk.twin != nil {
			found = append(found, x.disk.twin)
		}
	}
	for _, low := range x.below {
		found = append(found, disksBelow(low)...)
	}
	return found
}

func use(things ...*thing) {
	for _, x := range things {
		for _, d := range disksBelow(x) {
			d.inUse = true
		}
	}
}

func runs(things ...*thing) {
	for _, x := range things {
		for _, d := range disksBelow(x) {
			d.runsSystem = true
		}
	}
}

// take removes up to n free devices.
func (t *topology) take(n int) []*thing {
	var taken []*thing
	for ; n > 0 && len(t.free) > 0; n-- {
		i := t.IntN(len(t.free))
		taken = append(taken, t.free[i])
		t.free = slices.Delete(t.free, i, i+1)
	}
	return taken
}

func (t *topology) addDisk() {
	n := len(t.disks)
	letter := string(rune('a' + n))
	d := &target{}
	t.seq++
	d.files = map[string]string{"queue/logical_block_size": "512", "diskseq": strconv.Itoa(t.seq)}
	serial := fmt.Sprintf("S%dX%d", n, t.IntN(1000))
	scsi := func(host int) string {
		d.name, d.dev = "sd"+letter, fmt.Sprintf("8:%d", 16*n)
		d.files["device/vendor"], d.files["device/model"], d.files["device/rev"] = "ACME    ", "Disk", "1.0"
		return fmt.Sprintf("host%d/target%d:0:0/%d:0:0:0/block/%s", host, host, host, d.name)
	}
	usb := func(port string) {
		at := "pci0000:00/0000:00:14.0/usb1/" + port
		d.at = at + "/" + port + ":1.0/" + scsi(20+n)
		face := "/sys/devices/" + at + "/" + port + ":1.0/"
		t.files[face+"bInterfaceClass"], t.files[face+"bInterfaceSubClass"], t.files[face+"bInterfaceProtocol"] = "08", "06", "50"
		t.files["/sys/devices/"+at+"/idVendor"], t.files["/sys/devices/"+at+"/idProduct"] = "0781", "5567"
		if t.chance(70) {
			t.files["/sys/devices/"+at+"/serial"] = serial
		}
	}
	switch kind := t.IntN(10); kind {
	case 0, 1:
		usb(fmt.Sprintf("1-%d", n+1))
		d.removable = true
	case 2: // a USB hard disk
		usb(fmt.Sprintf("1-%d", n+1))
	case 3: // a card reader
		usb(fmt.Sprintf("1-%d", n+1))
		d.removable, d.empty = true, t.chance(50)
	case 4:
		host := fmt.Sprintf("platform/fe32%d.mmc/mmc_host/mmc%d/mmc%d:0001/block/mmcblk%d", n, n, n, n)
		d.name, d.dev, d.at = fmt.Sprintf("mmcblk%d", n), fmt.Sprintf("179:%d", 16*n), host
		d.files["device/type"] = oneOf(t, "SD", "MMC")
		if d.files["device/type"] == "MMC" {
			for i, part := range []string{"boot0", "boot1", "rpmb", "gp0"} {
				name := d.name + part
				at := host + "/" + name
				t.noise = append(t.noise, name)
				t.links["/sys/block/"+name] = "../devices/" + at
				t.files["/sys/devices/"+at+"/dev"], t.files["/sys/devices/"+at+"/size"] = fmt.Sprintf("259:%d", 900+10*n+i), "8192"
			}
		}
	case 5:
		d.name, d.dev, d.fixed, d.id = fmt.Sprintf("nvme%dn1", n), fmt.Sprintf("259:%d", 500+16*n), true, serial
		d.at = fmt.Sprintf("pci0000:00/0000:00:1d.%d/nvme/nvme%d/%s", n, n, d.name)
		d.files["device/serial"], d.files["wwid"] = serial+"      ", fmt.Sprintf("eui.%016d", n)
	case 6:
		d.fixed, d.id = true, serial
		d.at = fmt.Sprintf("pci0000:00/0000:00:17.0/ata%d/", n+1) + scsi(n)
		d.files["device/vpd_pg80"] = "\x00\x80\x00\x14" + fmt.Sprintf("%20s", serial)
		if t.chance(70) {
			d.files["device/wwid"] = fmt.Sprintf("naa.%016d", n)
		}
	case 7: // on SAS, may be the same disk as the one before
		d.fixed, d.id = true, fmt.Sprintf("naa.%016d", n)
		d.at = fmt.Sprintf("pci0000:00/0000:00:02.0/host%d/port-%d:0/", n, n) + scsi(n)
		if n > 0 && t.chance(60) {
			if before := t.disks[n-1]; strings.HasPrefix(before.files["device/wwid"], "naa.") && before.twin == nil {
				d.id = before.files["device/wwid"]
				d.twin, before.twin = before, d
			}
		}
		d.files["device/wwid"] = d.id
	case 8:
		d.name, d.dev, d.fixed = "vd"+letter, fmt.Sprintf("254:%d", 16*n), true
		d.at = fmt.Sprintf("pci0000:00/0000:00:0%d.0/virtio%d/block/%s", n, n, d.name)
		d.files["device/vendor"] = "0x1af4"
		if t.chance(50) {
			d.files["serial"], d.id = serial, serial
		}
	case 9: // an old array controller
		d.name, d.dev, d.fixed = fmt.Sprintf("cciss!c0d%d", n), fmt.Sprintf("104:%d", 16*n), true
		d.at = fmt.Sprintf("pci0000:00/0000:00:03.0/cciss0/c0d%d/block/%s", n, d.name)
	}
	if !d.empty {
		d.readOnly = t.chance(8)
	}
	t.place(d)
}

// place puts a disk into the machine, with partitions or without.
func (t *topology) place(d *target) {
	d.disk = d
	t.disks = append(t.disks, d)
	switch {
	case d.empty:
	case t.chance(35):
		t.free = append(t.free, &d.thing)
	default:
		t.partition(&d.thing)
	}
}

func (t *topology) partition(on *thing) {
	sep := ""
	if c := on.name[len(on.name)-1]; c >= '0' && c <= '9' {
		sep = "p"
	}
	for i := range t.IntN(4) {
		p := &thing{name: fmt.Sprintf("%s%s%d", on.name, sep, i+1), disk: on.disk, n: i + 1, dev: t.dev(260), files: map[string]string{}}
		if on.disk == nil {
			p.below = []*thing{on}
			p.disk = nil
		}
		on.parts = append(on.parts, p)
		t.free = append(t.free, p)
	}
}

// assemble makes a new device of others, which holds them from now on.
func (t *topology) assemble(name string, major int, of []*thing) *thing {
	x := &thing{name: name, below: of, dev: t.dev(major), files: map[string]string{"size": "100000", "queue/logical_block_size": "512"}}
	use(of...)
	for _, low := range of {
		low.users = append(low.users, x)
	}
	t.others = append(t.others, x)
	return x
}

func (t *topology) ready(x *thing) {
	if t.chance(15) {
		t.partition(x)
	} else {
		t.free = append(t.free, x)
	}
}

func (t *topology) mapper(of []*thing) *thing {
	t.seq++
	x := t.assemble(fmt.Sprintf("dm-%d", t.seq), 253, of)
	x.files["dm/name"] = fmt.Sprintf("vg-lv%d", t.seq)
	if t.chance(70) {
		t.links["/dev/mapper/"+x.files["dm/name"]] = "../" + x.name
	}
	return x
}

// source is what a mount calls the device.
func (t *topology) source(x *thing) string {
	if name := x.files["dm/name"]; name != "" && t.chance(60) {
		return "/dev/mapper/" + name
	}
	if t.chance(15) {
		link := fmt.Sprintf("/dev/disk/by-uuid/u%d", len(t.links))
		t.links[link] = "/dev/" + strings.ReplaceAll(x.name, "!", "/")
		return link
	}
	return "/dev/" + strings.ReplaceAll(x.name, "!", "/")
}

func (t *topology) point() string {
	t.points++
	return fmt.Sprintf(oneOf(t, "/mnt/m%d", "/media/me/My\\040Disk%d", "/srv/a/b%d", "/home/u%d"), t.points)
}

// mount mounts a file system over things at point, where files may be put.
func (t *topology) mount(at string, things []*thing) {
	line := func(dev, root, at, fs, source, opt string) {
		t.mounts = append(t.mounts, fmt.Sprintf("%d 28 %s %s %s rw,relatime shared:%d - %s %s rw%s", 40+len(t.mounts), dev, root, at, len(t.mounts), fs, source, opt))
	}
	t.seq++
	virtual := fmt.Sprintf("0:%d", 100+t.seq)
	x := things[0]
	switch kind := t.IntN(6); {
	case kind == 0:
		for _, x := range things {
			t.files[fmt.Sprintf("/sys/fs/btrfs/uuid-%d/devices/%s", t.seq, x.name)] = ""
		}
		source := t.source(things[t.IntN(len(things))])
		if at == "/" && t.chance(20) {
			source, t.noRoot = "/dev/root", true
		}
		line(virtual, "/@", at, "btrfs", source, ",subvol=/@")
		if t.chance(30) {
			line(virtual, "/@snap", t.point(), "btrfs", source, ",subvol=/@snap")
		}
	case kind == 1:
		var sources []string
		for _, x := range things {
			sources = append(sources, t.source(x))
		}
		line(virtual, "/", at, "bcachefs", strings.Join(sources, ":"), "")
	case kind == 2:
		t.pool(things, true)
		line(virtual, "/", at, "zfs", fmt.Sprintf("pool%d/ROOT", t.seq), "")
	default:
		opt := ""
		for i, more := range things[1:] {
			opt += fmt.Sprintf(",%s=%s", []string{"logdev", "rtdev"}[i], t.source(more))
		}
		source := t.source(x)
		if at == "/" && t.chance(20) {
			source = "/dev/root"
		}
		line(x.dev, "/", at, "xfs", source, opt)
		if t.chance(20) {
			line(x.dev, "/data", t.point(), "xfs", source, opt)
		}
	}
	use(things...)
	t.carries[at] = things
}

func (t *topology) pool(things []*thing, imported bool) {
	for _, x := range things {
		t.files["/run/udev/data/b"+x.dev] = fmt.Sprintf("S:disk/by-x\nE:ID_FS_LABEL=pool%d\nE:ID_FS_TYPE=zfs_member", t.seq)
	}
	if imported {
		t.files[fmt.Sprintf("/proc/spl/kstat/zfs/pool%d/state", t.seq)] = "ONLINE"
	}
}

// loopFile attaches a file in the file system mounted at a point.
func (t *topology) loopFile(at string) *target {
	t.seq++
	d := &target{at: fmt.Sprintf("virtual/block/loop%d", t.seq)}
	d.name, d.dev = fmt.Sprintf("loop%d", t.seq), fmt.Sprintf("7:%d", t.seq)
	d.files = map[string]string{"queue/logical_block_size": "512", "loop/backing_file": strings.ReplaceAll(strings.TrimSuffix(at, "/"), `\040`, " ") + "/some file " + strconv.Itoa(t.seq)}
	return d
}

// systemRoot decides what / is.
func (t *topology) systemRoot() {
	overlay := func(lower, upper string) {
		t.mounts = append(t.mounts, fmt.Sprintf("28 1 0:99 / / rw - overlay overlay rw,lowerdir=%s,upperdir=%s,workdir=/run/work", lower, upper))
	}
	kind := t.IntN(10)
	things := t.take(1 + t.IntN(3)*t.IntN(2))
	switch {
	case kind == 0 || len(things) == 0: // from memory or from the net
		t.noRoot = true
		t.free = append(t.free, things...)
		t.mounts = append(t.mounts, oneOf(t, "28 1 0:2 / / rw - rootfs rootfs rw", "28 1 0:44 / / rw - nfs 10.0.0.1:/x rw"))
	case kind == 1: // in a container: the layers are out of sight
		t.noRoot = true
		t.mount("/etc/hosts", things)
		overlay("/var/lib/docker/overlay2/l/A:/var/lib/docker/overlay2/l/B", "/var/lib/docker/overlay2/C/diff")
	case kind == 2: // two file systems
		t.mount("/media/root-ro", things)
		runs(things...)
		upper := "/run/up"
		if more := t.take(1); len(more) > 0 {
			t.mount("/media/root-rw", more)
			runs(more...)
			upper = "/media/root-rw/overlay"
		}
		overlay("/media/root-ro", upper)
	case kind == 3: // live: a file on a stick
		t.mount("/run/live/medium", things)
		d := t.loopFile("/run/live/medium/live")
		d.disk = d
		t.disks = append(t.disks, d)
		t.mount("/run/live/rootfs", []*thing{&d.thing})
		runs(append(things, &d.thing)...)
		overlay("/usr/none:/run/live/rootfs", "/run/up")
	default:
		t.mount("/", things)
		runs(things...)
	}
}

func (t *topology) step() {
	switch kind := t.IntN(13); kind {
	case 0, 1: // dm-crypt
		if of := t.take(1); of != nil {
			t.ready(t.mapper(of))
		}
	case 2, 3: // LVM: every physical volume is in some logical one
		of := t.take(1 + t.IntN(3))
		if of == nil {
			return
		}
		for i, n := 0, 1+t.IntN(3); i < n; i++ {
			some := of
			if i > 0 {
				some = of[t.IntN(len(of)):]
			}
			t.ready(t.mapper(some))
		}
	case 4: // md
		if of := t.take(1 + t.IntN(4)); of != nil {
			t.seq++
			x := t.assemble(fmt.Sprintf("md%d", t.seq), 9, of)
			if t.chance(20) {
				x.files["size"] = "0" // not started: it holds its members all the same
			} else {
				t.ready(x)
			}
		}
	case 5:
		if of := t.take(2); of != nil {
			t.seq++
			t.ready(t.assemble(fmt.Sprintf("bcache%d", t.seq), 251, of))
		}
	case 6, 7:
		if of := t.take(1 + t.IntN(3)*t.IntN(2)); of != nil {
			t.mount(t.point(), of)
		}
	case 8:
		if of := t.take(1); of != nil {
			path := "/dev/" + strings.ReplaceAll(of[0].name, "!", "/")
			t.swaps = append(t.swaps, path+oneOf(t, "", "\\040(deleted)")+"\tpartition\t100\t0\t-2")
			use(of...)
		}
	case 9:
		if len(t.carries) > 0 {
			at := oneOf(t, slices.Sorted(maps.Keys(t.carries))...)
			t.swaps = append(t.swaps, strings.TrimSuffix(at, "/")+"/swap\\040file\tfile\t100\t0\t-3")
			if t.chance(20) { // nonsense, and then it is used
				d := t.loopFile(at)
				d.files["loop/backing_file"] = strings.ReplaceAll(strings.TrimSuffix(at, "/")+"/swap file", `\040`, " ")
				d.inUse = true
				t.place(d)
			}
		}
	case 10: // a file as a disk
		if len(t.carries) > 0 {
			at := oneOf(t, slices.Sorted(maps.Keys(t.carries))...)
			d := t.loopFile(at)
			if t.chance(20) {
				d.twin = t.loopFile(at)
				d.twin.twin = d
				d.files["loop/backing_file"] = d.twin.files["loop/backing_file"]
				t.place(d.twin)
			}
			t.place(d)
		}
	case 11: // a disk or anything as a loop device: sysfs names no holder
		t.seq++
		var all []*thing
		for _, d := range t.disks {
			if !d.empty && !strings.HasPrefix(d.name, "loop") {
				all = append(append(all, &d.thing), d.parts...)
			}
		}
		if all = append(all, t.others...); len(all) == 0 {
			return
		}
		of := oneOf(t, all...)
		x := &thing{name: fmt.Sprintf("loop%d", t.seq), below: []*thing{of}, dev: t.dev(7), files: map[string]string{"size": "100000", "loop/backing_file": "/dev/" + strings.ReplaceAll(of.name, "!", "/")}}
		use(of)
		t.others = append(t.others, x)
		t.ready(x)
	case 12: // pools and file systems that are not mounted
		t.seq++
		if of := t.take(2); of != nil {
			imported := t.chance(50)
			t.pool(of, imported)
			if imported {
				use(of...)
			}
		}
	}
}

func newTopology(seed uint64) *topology {
	t := &topology{
		Rand: rand.New(rand.NewPCG(seed, 1)), links: map[string]string{}, files: map[string]string{},
		carries: map[string][]*thing{}, minors: map[int]int{}, seq: 10,
	}
	for range 1 + t.IntN(6) {
		t.addDisk()
	}
	for range t.IntN(4) { // the devices of the system
		t.step()
	}
	t.systemRoot()
	for range t.IntN(9) {
		t.step()
	}
	for _, name := range []string{"sr0", "zram0", "loop0", "ram1", "fd0"} {
		if t.chance(20) {
			t.noise = append(t.noise, name)
			at := "/sys/devices/virtual/block/" + name
			t.links["/sys/block/"+name] = "../devices/virtual/block/" + name
			t.files[at+"/dev"], t.files[at+"/size"], t.files[at+"/removable"] = t.dev(240), oneOf(t, "0", "4096"), "1"
		}
	}
	return t
}

// write creates the files of the machine in a directory as the kernel would show them.
func (t *topology) write(root string) error {
	var errs []error
	made := map[string]bool{}
	inDir := func(path string) string {
		path = root + path
		if dir := filepath.Dir(path); !made[dir] {
			errs = append(errs, os.MkdirAll(dir, 0o755))
			made[dir] = true
		}
		return path
	}
	file := func(path, content string) {
		errs = append(errs, os.WriteFile(inDir(path), []byte(content), 0o644))
	}
	link := func(path, target string) {
		if strings.HasPrefix(target, "/") {
			target = root + target
		}
		errs = append(errs, os.Symlink(target, inDir(path)))
	}
	var show func(x *thing, at string)
	show = func(x *thing, at string) {
		file(at+"/dev", x.dev+"\n")
		file("/dev/"+strings.ReplaceAll(x.name, "!", "/"), "")
		for name, content := range x.files {
			file(at+"/"+name, content)
		}
		for _, user := range x.users {
			link(at+"/holders/"+user.name, "/sys/class/block/"+user.name)
		}
		if x.n == 0 && x.disk == nil && x.files["loop/backing_file"] == "" {
			for _, low := range x.below {
				link(at+"/slaves/"+low.name, "/sys/class/block/"+low.name)
			}
		}
		for _, p := range x.parts {
			sub := at + "/" + p.name
			file(sub+"/partition", strconv.Itoa(p.n))
			file(sub+"/start", strconv.Itoa(2048*p.n))
			file(sub+"/size", "2048")
			show(p, sub)
		}
	}
	for _, d := range t.disks {
		d.files["size"], d.files["removable"], d.files["ro"] = "200000", "0", "0"
		if d.empty {
			d.files["size"] = "0"
		}
		if d.removable {
			d.files["removable"] = "1"
		}
		if d.readOnly {
			d.files["ro"] = "1"
		}
		link("/sys/block/"+d.name, "../devices/"+d.at)
		show(&d.thing, "/sys/devices/"+d.at)
	}
	for _, x := range t.others {
		link("/sys/block/"+x.name, "../devices/virtual/block/"+x.name)
		show(x, "/sys/devices/virtual/block/"+x.name)
	}
	for path, content := range t.files {
		file(path, content)
	}
	for path, target := range t.links {
		link(path, target)
	}
	for _, name := range t.noise {
		file("/dev/"+name, "")
	}
	file("/proc/self/mountinfo", "22 28 0:21 / /proc rw,relatime - proc proc rw\n"+strings.Join(append(t.mounts, ""), "\n"))
	file("/proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n"+strings.Join(append(t.swaps, ""), "\n"))
	return errors.Join(errs...)
}

type count struct{ disks, inUse, accepted, onlyFixed, none atomic.Int64 }

// check compares what the package says of the machine below root with what the
// model knows.
func (t *topology) check(root string, n *count) error {
	found, err := disk.List(root)
	if err != nil {
		return err
	}
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	byName := map[string]disk.Disk{}
	for _, d := range found {
		byName[d.Name] = d
	}
	looked := t.IntN(len(t.disks)) // looking for each would take minutes
	for i, want := range t.disks {
		n.disks.Add(1)
		got, ok := byName[want.name]
		delete(byName, want.name)
		if !ok {
			wrong("%s is not listed", want.name)
			continue
		}
		if i == looked {
			if again, err := disk.Find(root, got.Path); err != nil || !cmp.Equal(again, &got, cmpopts.IgnoreUnexported(disk.Disk{})) {
				wrong("%s: found as %+v, %v", want.name, again, err)
			}
		}
		if got.Fixed() != want.fixed {
			wrong("%s: fixed %v", want.name, got.Fixed())
		}
		if want.runsSystem && !got.System {
			wrong("%s: this system runs from it and it is not said: %v", want.name, got.InUse)
		}
		if t.noRoot && want.inUse && want.fixed && !got.System {
			wrong("%s: it may be what this system runs from", want.name)
		}
		free := !want.inUse && !want.empty && !want.readOnly
		plain := got.Check(disk.Need{SectorSize: 512})
		named := got.Check(disk.Need{SectorSize: 512, Fixed: true, Serial: want.id})
		if want.inUse {
			n.inUse.Add(1)
			if got.Check(disk.Need{}) == nil {
				wrong("%s: in use and free", want.name)
			}
			if len(got.InUse) == 0 {
				wrong("%s: InUse is set without a use", want.name)
			}
		} else if len(got.InUse) > 0 {
			wrong("%s: not in use, but %v", want.name, got.InUse)
		}
		switch {
		case plain == nil && (!free || want.fixed):
			wrong("%s: accepted", want.name)
		case plain != nil && free && !want.fixed:
			wrong("%s: refused: %v", want.name, plain)
		case named == nil && (!free || want.fixed && want.id == ""):
			wrong("%s: accepted with --fixed", want.name)
		case named != nil && free && want.fixed && want.id != "":
			wrong("%s: refused with --fixed: %v", want.name, named)
		}
		if want.fixed && got.Check(disk.Need{SectorSize: 512, Fixed: true, Serial: "other"}) == nil {
			wrong("%s: accepted with the serial of another", want.name)
		}
		switch {
		case plain == nil:
			n.accepted.Add(1)
		case named == nil:
			n.onlyFixed.Add(1)
		}
	}
	for name := range byName {
		wrong("%s is listed", name)
	}
	names := slices.Clone(t.noise)
	for _, x := range t.others {
		names = append(names, x.name)
	}
	for _, d := range t.disks {
		for _, p := range d.parts {
			names = append(names, p.name)
		}
	}
	t.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	for _, name := range names[:min(2, len(names))] {
		n.none.Add(1)
		path := "/dev/" + strings.ReplaceAll(name, "!", "/")
		if d, err := disk.Find(root, path); d != nil || !errors.As(err, new(*disk.RefusedError)) {
			wrong("%s: found as %+v, %v", path, d, err)
		}
	}
	return errors.Join(errs...)
}

// No disk in use may be written. SEED=number sets the seed of the first machine; later
// machines have the next numbers.
func TestRandomMachines(t *testing.T) {
	imagetest.Long(t)
	seed, many := rand.Uint64()>>16, 500
	if os.Getenv("SOAK") != "" {
		many = 10000
	}
	if s := os.Getenv("SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	if shm, err := os.MkdirTemp("/dev/shm", "topologies"); err == nil { // a million files are written
		dir = shm
		t.Cleanup(func() { os.RemoveAll(shm) })
	}
	var n count
	var next atomic.Int64
	var work sync.WaitGroup
	for range 2 {
		work.Go(func() {
			for i := next.Add(1) - 1; i < int64(many) && !t.Failed(); i = next.Add(1) - 1 {
				root := filepath.Join(dir, strconv.FormatInt(i, 10))
				top := newTopology(seed + uint64(i))
				if err := top.write(root); err != nil {
					t.Error(err)
					return
				}
				if err := top.check(root, &n); err != nil {
					t.Errorf("machine of seed %d:\n%v\n%s", seed+uint64(i), err, strings.Join(append(top.mounts, top.swaps...), "\n"))
				}
				if err := os.RemoveAll(root); err != nil {
					t.Error(err)
				}
			}
		})
	}
	work.Wait()
	t.Logf("seed %d: %d machines with %d disks: %d in use, %d accepted, %d with --fixed and their serial; %d devices that are no disks",
		seed, next.Load()-2, n.disks.Load(), n.inUse.Load(), n.accepted.Load(), n.onlyFixed.Load(), n.none.Load())
}
