package disk

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// process is a program that has a file or disk open for writing, or has locked a part
// of it.
type process struct {
	pid  int
	name string
	does string // such as "has it open for writing"
}

func (p process) String() string { return fmt.Sprintf("%s (process %d) %s", p.name, p.pid, p.does) }

func processes(all []process) (users []string) {
	for _, p := range all {
		users = append(users, p.String())
	}
	return users
}

// openDevices are the processes that have block devices open for writing, by the number
// of the device. It is nil for a machine that is not this one.
//
// The kernel shows the descriptors of processes in this PID namespace or below it, and to
// users other than root only those of their own processes.
func (m *machine) openDevices() map[uint64][]process {
	if !m.here() {
		return nil
	}
	if m.open != nil {
		return m.open
	}
	m.open = m.openNow()
	if len(m.open) == 0 {
		return m.open
	}
	// Programs such as losetup open a device for a moment, to look at it.
	time.Sleep(passing)
	now := m.openNow()
	for dev := range m.open {
		m.open[dev] = slices.DeleteFunc(m.open[dev], func(p process) bool { return !slices.Contains(now[dev], p) })
		if len(m.open[dev]) == 0 {
			delete(m.open, dev)
		}
	}
	return m.open
}

// passing is how long a program may have a device open without using it.
const passing = 250 * time.Millisecond

// openNow is openDevices at this moment.
func (m *machine) openNow() map[uint64][]process {
	open := map[uint64][]process{}
	loops := map[fileID]uint64{} // what is written to its file is written to a loop device
	for _, n := range m.nodes {
		if dev, ok := n.devNumber(); ok && n.loop != nil {
			loops[n.loop.file] = dev
		}
	}
	eachWriter(func(st *unix.Statx_t, p process) {
		dev, ok := unix.Mkdev(st.Rdev_major, st.Rdev_minor), true
		if st.Mode&unix.S_IFMT != unix.S_IFBLK {
			dev, ok = loops[fileID{unix.Mkdev(st.Dev_major, st.Dev_minor), st.Ino}]
		}
		if ok {
			open[dev] = append(open[dev], p)
		}
	})
	return open
}

// here says whether the machine is the one that this program runs on.
func (m *machine) here() bool { return filepath.Clean(m.root) == "/" }

// devNumber is the number of a block device, as stat has it.
func (n *node) devNumber() (uint64, bool) {
	major, minor, _ := strings.Cut(n.text("dev"), ":")
	a, err1 := strconv.ParseUint(major, 10, 32)
	b, err2 := strconv.ParseUint(minor, 10, 32)
	return unix.Mkdev(uint32(a), uint32(b)), err1 == nil && err2 == nil
}

// openBy adds to d which processes have one of its nodes open for writing. The program
// that serves an nbd has it open as well, and does not count.
func (m *machine) openBy(nodes []*node, d *Disk) {
	seen := map[int]bool{}
	for _, n := range nodes {
		dev, ok := n.devNumber()
		if !ok {
			continue
		}
		for _, p := range m.openDevices()[dev] {
			if seen[p.pid] || servesNBD(n.disk, p.pid) {
				continue
			}
			seen[p.pid] = true
			d.InUse = append(d.InUse, fmt.Sprintf("%s: %s", m.label(n), p))
		}
	}
}

// servesNBD says whether a process is the one that an nbd gets its data from.
func servesNBD(disk string, pid int) bool {
	if !strings.HasPrefix(disk, "nbd") {
		return false
	}
	thread := text(filepath.Join("/sys/block", disk, "pid"))
	return thread != "" && exists(fmt.Sprintf("/proc/%d/task/%s", pid, thread))
}

// eachWriter calls do for every descriptor of another process that is open for writing,
// or through which it holds a lock on a range of bytes.
func eachWriter(do func(st *unix.Statx_t, p process)) {
	for pid := range pids() {
		dir := fmt.Sprintf("/proc/%d", pid)
		fds, err := readDir(dir + "/fd")
		if err != nil {
			continue // it has ended, or is another user's
		}
		for _, fd := range fds {
			does := useOfDescriptor(dir + "/fdinfo/" + fd)
			if does == "" {
				continue
			}
			if st, ok := statOpen(dir + "/fd/" + fd); ok {
				do(st, process{pid, text(dir + "/comm"), does})
			}
		}
	}
}

// pids are the other processes that can be seen.
func pids() map[int]bool {
	all := map[int]bool{}
	names, _ := readDir("/proc")
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil && pid != os.Getpid() {
			all[pid] = true
		}
	}
	return all
}

// useOfDescriptor says what a process may do with a descriptor, or nothing if it only
// reads. Locks of the whole file (flock) are left out: udev takes one.
func useOfDescriptor(fdinfo string) string {
	info, err := os.ReadFile(fdinfo)
	if err != nil {
		return ""
	}
	for line := range bytes.Lines(info) {
		name, value, _ := strings.Cut(string(line), ":")
		switch name {
		case "flags":
			flags, err := strconv.ParseUint(strings.TrimSpace(value), 8, 64)
			if mode := flags & unix.O_ACCMODE; err == nil && flags&unix.O_PATH == 0 && (mode == unix.O_WRONLY || mode == unix.O_RDWR) {
				return "has it open for writing"
			}
		case "lock":
			if strings.Contains(value, "POSIX") || strings.Contains(value, "OFDLCK") {
				return "has locked a part of it"
			}
		}
	}
	return ""
}

// statOpen looks at what a descriptor or mapping in /proc stands for, and asks no network
// or FUSE file system about it, which may never answer.
func statOpen(path string) (*unix.Statx_t, bool) {
	if at, err := os.Readlink(path); err != nil || !strings.HasPrefix(at, "/") {
		return nil, false // a pipe, a socket
	}
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_DONT_SYNC|unix.AT_NO_AUTOMOUNT, unix.STATX_TYPE|unix.STATX_INO, &st)
	return &st, err == nil
}

func idOf(f *os.File) (fileID, error) {
	info, err := f.Stat()
	if err != nil {
		return fileID{}, err
	}
	id, _ := idOfInfo(info)
	return id, nil
}

func (id fileID) is(st *unix.Statx_t) bool {
	return st.Ino == id.ino && unix.Mkdev(st.Dev_major, st.Dev_minor) == id.dev
}

// fileWriters says which programs write to a regular file that is open for reading here
// alone, or have locked a part of it.
func fileWriters(f *os.File) []string {
	id, err := idOf(f)
	if err != nil {
		return nil
	}
	var users []process
	eachWriter(func(st *unix.Statx_t, p process) {
		if st.Mode&unix.S_IFMT == unix.S_IFREG && id.is(st) && !slices.ContainsFunc(users, func(u process) bool { return u.pid == p.pid }) {
			users = append(users, p)
		}
	})
	if len(users) == 0 && openForWriting(f) {
		if users = mappers(id); len(users) == 0 {
			return []string{"another program has it open for writing (which one the kernel does not tell)"}
		}
	}
	if len(users) == 0 && lockedInPart(f) {
		return []string{"another program has locked a part of it, as a virtual machine does with its disk"}
	}
	return processes(users)
}

// openForWriting asks the kernel, by a read lease that is given back at once, whether
// anybody has a file open for writing: also processes of other users and namespaces, and
// loop devices. f must be open for reading only. Not every file system can tell, and only
// the owner of the file and root may ask.
func openForWriting(f *os.File) bool {
	_, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_RDLCK)
	if err == nil {
		unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_UNLCK)
	}
	return errors.Is(err, unix.EAGAIN)
}

// openElsewhere asks in the same way whether anybody else has a file open at all. f must
// be the only descriptor of it here.
func openElsewhere(f *os.File) bool {
	_, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_WRLCK)
	if err == nil {
		unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_UNLCK)
	}
	return errors.Is(err, unix.EAGAIN)
}

// lockedInPart says whether a range of bytes of a file or disk is locked through another
// descriptor (F_SETLK, F_OFD_SETLK).
func lockedInPart(f *os.File) bool {
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lock)
	return err == nil && lock.Type != unix.F_UNLCK
}

// mappers are the processes that have mapped a file for writing and closed it since.
func mappers(id fileID) (users []process) {
	for pid := range pids() {
		dir := fmt.Sprintf("/proc/%d", pid)
		maps, err := os.ReadFile(dir + "/maps")
		if err != nil {
			continue
		}
		for line := range bytes.Lines(maps) {
			// 7f0c0a000000-7f0c0a001000 rw-s 00000000 fd:00 1234 /path
			fields := bytes.Fields(line)
			if len(fields) < 6 || len(fields[1]) != 4 || fields[1][1] != 'w' || fields[1][3] != 's' {
				continue
			}
			if st, ok := statOpen(dir + "/map_files/" + string(fields[0])); ok && id.is(st) {
				users = append(users, process{pid, text(dir + "/comm"), "has mapped it for writing"})
				break
			}
		}
	}
	return users
}

// backing is what a loop device is made of, by the kernel's word: the path in sysfs may
// be one of another mount namespace, or name another file by now.
type loopBacking struct {
	file fileID
	disk uint64 // the number of the block device it is made of, or 0
}

// askLoop asks a loop device what it is made of.
func askLoop(fd int) (loopBacking, bool) {
	info, err := unix.IoctlLoopGetStatus64(fd)
	if err != nil {
		return loopBacking{}, false
	}
	b := loopBacking{file: fileID{fromKernel(info.Device), info.Inode}}
	// Of a regular file, some kernels give the number of its file system here.
	if info.Rdevice != info.Device {
		b.disk = fromKernel(info.Rdevice)
	}
	return b, true
}

// fromKernel is a device number as stat has it: the kernel's has the major number in
// bits 8 to 19.
func fromKernel(dev uint64) uint64 {
	return unix.Mkdev(uint32(dev>>8&0xfff), uint32(dev&0xff|dev>>12&0xfff00))
}

// findLoops asks all loop devices of this machine what they are made of. One that cannot
// be asked, for want of the rights or of a device node, has only what sysfs says.
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
		if b, ok := askLoop(fd); ok {
			n.loop = &b
		}
		unix.Close(fd)
	}
}

// backed is the block device that a loop device is made of, or nil.
func (m *machine) backed(n *node) *node {
	if n.loop == nil {
		return m.bySource(n.backing())
	}
	if n.loop.disk == 0 {
		return nil
	}
	return m.byNumber(n.loop.disk)
}

func (m *machine) byNumber(dev uint64) *node {
	return m.byDev[fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev))]
}

// sameBacking says whether two loop devices have the same file.
func sameBacking(a, b *node) bool {
	if a.loop != nil && b.loop != nil {
		return a.loop.file == b.loop.file
	}
	return a.backing() != "" && a.backing() == b.backing()
}

// mountedFile says where a regular file itself is mounted, without a loop device, as EROFS
// can be: in this mount namespace or that of a process that can be seen. f must be open for
// reading, by this descriptor alone.
func mountedFile(f *os.File) string {
	id, err := idOf(f)
	if err != nil {
		return ""
	}
	all := pids()
	all[os.Getpid()] = true
	seen := map[string]bool{}
	unknown := ""
	for _, pid := range slices.Sorted(maps.Keys(all)) {
		dir := fmt.Sprintf("/proc/%d", pid)
		space, err := os.Readlink(dir + "/ns/mnt")
		if err != nil || seen[space] {
			continue
		}
		seen[space] = true
		for _, info := range fileMounts(dir) {
			var st unix.Statx_t
			at := dir + "/root" + info.Source
			err := unix.Statx(unix.AT_FDCWD, at, unix.AT_STATX_DONT_SYNC|unix.AT_NO_AUTOMOUNT, unix.STATX_TYPE|unix.STATX_INO, &st)
			switch {
			case strings.HasPrefix(info.Source, "/") && err == nil && id.is(&st):
				return info.Mountpoint
			case !strings.HasPrefix(info.Source, "/") || err != nil:
				unknown = info.Mountpoint
			}
		}
	}
	// The file of that mount cannot be looked up: its name was relative, or is gone. It is
	// this one if something has this one open that is no process.
	if unknown != "" && openElsewhere(f) && !anyReader(id) {
		return unknown
	}
	return ""
}

// fileMounts are the mounts that a process sees of files that are file systems.
func fileMounts(dir string) []*mountinfo.Info {
	f, err := os.Open(dir + "/mountinfo")
	if err != nil {
		return nil
	}
	defer f.Close()
	all, _ := mountinfo.GetMountsFromReader(f, func(info *mountinfo.Info) (skip, stop bool) {
		return info.Major != 0 || info.FSType != "erofs", false
	})
	return all
}

// anyReader says whether a process that can be seen has a file open.
func anyReader(id fileID) bool {
	for pid := range pids() {
		dir := fmt.Sprintf("/proc/%d/fd/", pid)
		fds, _ := readDir(dir)
		for _, fd := range fds {
			if st, ok := statOpen(dir + fd); ok && id.is(st) {
				return true
			}
		}
	}
	return false
}
