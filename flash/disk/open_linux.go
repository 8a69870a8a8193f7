package disk

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"imgtool/flash/disk/procs"
)

// here reports whether the machine is this computer.
func (m *machine) here() bool { return filepath.Clean(m.root) == "/" }

// momentary is how long a program may have a device open without counting as a user:
// programs such as losetup open a device to query it.
const momentary = 250 * time.Millisecond

// openDevices returns the processes that have block devices open for longer than a moment,
// for writing, by device number. It returns nil for a recorded machine.
func (m *machine) openDevices() map[uint64][]procs.Process {
	if !m.here() || m.open != nil {
		return m.open
	}
	m.open = m.openNow()
	if len(m.open) == 0 {
		return m.open
	}
	time.Sleep(momentary)
	now := m.openNow()
	for dev := range m.open {
		m.open[dev] = slices.DeleteFunc(m.open[dev], func(p procs.Process) bool { return !slices.Contains(now[dev], p) })
	}
	return m.open
}

func (m *machine) openNow() map[uint64][]procs.Process {
	open := map[uint64][]procs.Process{}
	loops := map[procs.FileID]uint64{} // a write to its file changes a loop device
	for _, n := range m.nodes {
		if n.loop != nil {
			loops[n.loop.file] = n.dev
		}
	}
	for _, o := range procs.Writers() {
		dev := o.Device
		if dev == 0 {
			dev = loops[o.File]
		}
		if dev != 0 {
			open[dev] = append(open[dev], o.Process)
		}
	}
	return open
}

// openBy adds to d the processes that have a device open for writing. The server process
// of an nbd, which has it open as well, does not count.
func (m *machine) openBy(nodes []*node, d *Disk) {
	seen := map[int]bool{}
	for _, n := range nodes {
		for _, p := range m.openDevices()[n.dev] {
			nbd := strings.HasPrefix(n.disk, "nbd") && procs.Serves(p.PID, text(filepath.Join("/sys/block", n.disk, "pid")))
			if !seen[p.PID] && !nbd {
				seen[p.PID] = true
				d.InUse = append(d.InUse, fmt.Sprintf("%s: %s", m.label(n), p))
			}
		}
	}
}

// claimed reports whether the kernel refuses exclusive access to a disk: it also knows of
// members of a zpool and of mounts in other namespaces, which are not in sysfs.
func (m *machine) claimed(d *Disk) bool {
	if !m.here() || d.Size == 0 {
		return false
	}
	err := retry(unix.EBUSY, 300*time.Millisecond, func() error {
		fd, err := unix.Open(d.Path, unix.O_RDONLY|unix.O_EXCL|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err == nil {
			unix.Close(fd)
		}
		return err
	})
	return err == unix.EBUSY
}

func (m *machine) fileUses(at string, info fs.FileInfo) ([]string, error) {
	same := func(path string) bool {
		other, err := os.Stat(filepath.Join(m.root, path))
		return err == nil && os.SameFile(info, other)
	}
	id, _ := procs.IDOf(info)
	var uses []string
	for _, name := range slices.Sorted(maps.Keys(m.nodes)) {
		n := m.nodes[name]
		attached := n.loop != nil && n.loop.file == id
		if b := n.backing(); n.loop == nil && b != "" {
			attached = same(b)
		}
		if attached {
			uses = append(uses, "the file is attached as "+n.path())
		}
	}
	if slices.ContainsFunc(m.swaps, same) {
		uses = append(uses, "the file is swap")
	}
	if len(uses) > 0 || !m.here() {
		return uses, nil
	}
	f, err := os.OpenFile(at, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil // Open returns the error
	}
	defer f.Close()
	if now, err := f.Stat(); err != nil || !os.SameFile(info, now) {
		return nil, &RefusedError{at, "another file has its name now: start over"}
	}
	if on := procs.MountedAt(f); on != "" {
		return []string{"the file is mounted at " + on}, nil
	}
	return procs.UsersOf(f), nil
}

// loopBacking is the file or disk of a loop device, from the kernel: the path in sysfs may
// be of another mount namespace, or of another file by now.
type loopBacking struct {
	file procs.FileID
	disk uint64 // number of the block device, or 0 for a file
}

// loopStatus queries a loop device, and returns nil without an answer: see LOOP_GET_STATUS64 in loop(4).
func loopStatus(fd int) *loopBacking {
	info, err := unix.IoctlLoopGetStatus64(fd)
	if err != nil {
		return nil
	}
	b := &loopBacking{file: procs.FileID{Dev: fromKernel(info.Device), Ino: info.Inode}}
	// For a regular file, some kernels set Rdevice to the device of its file system.
	if info.Rdevice != info.Device {
		b.disk = fromKernel(info.Rdevice)
	}
	return b
}

// fromKernel converts a device number of the kernel, which has the major number in bits 8
// to 19 (huge_encode_dev in linux/kdev_t.h), to a number as in stat(2).
func fromKernel(dev uint64) uint64 {
	return unix.Mkdev(uint32(dev>>8&0xfff), uint32(dev&0xff|dev>>12&0xfff00))
}

// findLoops queries the loop devices of this computer. Of a device that cannot be queried,
// without rights or a device node, only the data in sysfs are known.
func (m *machine) findLoops() {
	if !m.here() {
		return
	}
	if len(m.nodes) == 0 { // without sysfs
		names, _ := filepath.Glob("/dev/loop[0-9]*")
		for _, path := range names {
			name := filepath.Base(path)
			m.nodes[name] = &node{name: name, disk: name}
		}
	}
	for name, n := range m.nodes {
		if !strings.HasPrefix(name, "loop") || n.disk != name || n.dir != "" && n.backing() == "" {
			continue
		}
		fd, err := unix.Open(n.path(), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		n.loop = loopStatus(fd)
		unix.Close(fd)
	}
}

// backed returns the block device of a loop device, or nil.
func (m *machine) backed(n *node) *node {
	if n.loop == nil {
		return m.bySource(n.backing())
	}
	if n.loop.disk == 0 {
		return nil
	}
	return m.byDev[n.loop.disk]
}

// sameBacking reports whether two loop devices have the same file.
func sameBacking(a, b *node) bool {
	if a.loop != nil && b.loop != nil {
		return a.loop.file == b.loop.file
	}
	return a.backing() != "" && a.backing() == b.backing()
}
