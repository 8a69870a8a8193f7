package procs

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Process is a process that uses a file or block device.
type Process struct {
	PID  int
	Name string
	Use  string // such as "has it open for writing"
}

func (p Process) String() string { return fmt.Sprintf("%s (process %d) %s", p.Name, p.PID, p.Use) }

// Open is a descriptor that is open for writing, or has a lock on a range of bytes.
type Open struct {
	Process
	File   FileID
	Device uint64 // number of the block device; 0 for other files
	mode   uint16
}

// Writers returns such descriptors of all other processes.
func Writers() (all []Open) {
	for pid := range pids("/proc") {
		dir := fmt.Sprintf("/proc/%d", pid)
		for _, fd := range names(dir + "/fd") { // none if the process has ended or is another user's
			use := useOf(dir + "/fdinfo/" + fd)
			if use == "" {
				continue
			}
			st, ok := statOpen(dir + "/fd/" + fd)
			if !ok {
				continue
			}
			o := Open{Process: Process{pid, comm(dir), use}, File: idOf(st), mode: st.Mode & unix.S_IFMT}
			if o.mode == unix.S_IFBLK {
				o.Device = unix.Mkdev(st.Rdev_major, st.Rdev_minor)
			}
			all = append(all, o)
		}
	}
	return all
}

// UsersOf describes the processes that write to a regular file or have locked a part of
// it. f must be open for reading, and the only descriptor of the file in this process.
func UsersOf(f *os.File) (users []string) {
	info, err := f.Stat()
	if err != nil {
		return nil
	}
	id, _ := IDOf(info)
	seen := map[int]bool{}
	for _, o := range Writers() {
		if o.mode == unix.S_IFREG && o.File == id && !seen[o.PID] {
			seen[o.PID] = true
			users = append(users, o.String())
		}
	}
	if len(users) == 0 && leaseRefused(f, unix.F_RDLCK) {
		if users = mappers(id); len(users) == 0 {
			return []string{"another program has it open for writing (the kernel does not tell which)"}
		}
	}
	if len(users) == 0 && LockedInPart(f) {
		return []string{"another program has locked a part of it, as a virtual machine does with its disk"}
	}
	return users
}

// LockedInPart reports whether a range of bytes of a file or block device is locked
// through another descriptor (F_SETLK or F_OFD_SETLK, see fcntl(2)).
func LockedInPart(f *os.File) bool {
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lock)
	return err == nil && lock.Type != unix.F_UNLCK
}

// Serves reports whether a process has a thread with the given number.
func Serves(pid int, thread string) bool {
	_, err := os.Stat(fmt.Sprintf("/proc/%d/task/%s", pid, thread))
	return thread != "" && err == nil
}

// MountedAt returns where a regular file is mounted without a loop device, as EROFS can be
// from Linux 6.12 on, in the mount namespace of any visible process; or "". f must be open
// for reading, and the only descriptor of the file in this process.
func MountedAt(f *os.File) string { return mountedAt("/proc", f) }

func mountedAt(proc string, f *os.File) string {
	info, err := f.Stat()
	if err != nil {
		return ""
	}
	id, _ := IDOf(info)
	all := pids(proc)
	all[os.Getpid()] = true
	seen := map[string]bool{}
	unknown := ""
	for _, pid := range slices.Sorted(maps.Keys(all)) {
		dir := fmt.Sprintf("%s/%d", proc, pid)
		space, err := os.Readlink(dir + "/ns/mnt")
		if err != nil || seen[space] {
			continue
		}
		seen[space] = true
		for _, m := range fileMounts(dir) {
			var st unix.Statx_t
			err := statx(dir+"/root"+m.Source, &st)
			switch {
			case strings.HasPrefix(m.Source, "/") && err == nil && idOf(&st) == id:
				return m.Mountpoint
			case !strings.HasPrefix(m.Source, "/") || err != nil:
				unknown = m.Mountpoint
			}
		}
	}
	// The file of that mount cannot be found: its name is relative, or was removed. It is f
	// if the kernel has f open for no process.
	if unknown != "" && leaseRefused(f, unix.F_WRLCK) && !openInProcess(proc, id) {
		return unknown
	}
	return ""
}

// fileMounts returns the mounts of files in the mount namespace of a process: they have no
// block device.
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

// openInProcess reports whether a visible process has a file open.
func openInProcess(proc string, id FileID) bool {
	for pid := range pids(proc) {
		dir := fmt.Sprintf("%s/%d/fd/", proc, pid)
		for _, fd := range names(dir) {
			if st, ok := statOpen(dir + fd); ok && idOf(st) == id {
				return true
			}
		}
	}
	return false
}

// mappers describes the processes that have mapped a file for writing, even if they have
// closed it since.
func mappers(id FileID) (users []string) {
	for pid := range pids("/proc") {
		dir := fmt.Sprintf("/proc/%d", pid)
		maps, err := os.ReadFile(dir + "/maps")
		if err != nil {
			continue
		}
		for line := range bytes.Lines(maps) {
			// 7f0c0a000000-7f0c0a001000 rw-s 00000000 fd:00 1234 /path, see proc_pid_maps(5)
			fields := bytes.Fields(line)
			if len(fields) < 6 || len(fields[1]) != 4 || fields[1][1] != 'w' || fields[1][3] != 's' {
				continue
			}
			if st, ok := statOpen(dir + "/map_files/" + string(fields[0])); ok && idOf(st) == id {
				users = append(users, Process{pid, comm(dir), "has mapped it for writing"}.String())
				break
			}
		}
	}
	return users
}

// leaseRefused requests a lease and returns it at once: see F_SETLEASE in fcntl(2). The kernel
// refuses F_RDLCK if a file is open for writing, and F_WRLCK if it has another descriptor, also
// of other users and namespaces and of loop devices. f must be open for reading only. Some file
// systems cannot tell, and only the owner of the file and root may ask.
func leaseRefused(f *os.File, kind int) bool {
	_, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, kind)
	if err == nil {
		unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_UNLCK)
	}
	return errors.Is(err, unix.EAGAIN)
}

// pids returns the other visible processes.
func pids(proc string) map[int]bool {
	all := map[int]bool{}
	for _, name := range names(proc) {
		if pid, err := strconv.Atoi(name); err == nil && pid != os.Getpid() {
			all[pid] = true
		}
	}
	return all
}

// useOf describes how a process uses a descriptor, given its file in fdinfo, or returns ""
// if the process only reads. Locks of whole files (flock) do not count: udev takes them.
func useOf(fdinfo string) string {
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

// statOpen returns the status of the file of a descriptor or mapping in /proc.
func statOpen(path string) (*unix.Statx_t, bool) {
	if at, err := os.Readlink(path); err != nil || !strings.HasPrefix(at, "/") {
		return nil, false // a pipe or a socket
	}
	var st unix.Statx_t
	err := statx(path, &st)
	return &st, err == nil
}

// statx does not query network and FUSE file systems, which may never answer.
func statx(path string, st *unix.Statx_t) error {
	return unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_DONT_SYNC|unix.AT_NO_AUTOMOUNT, unix.STATX_TYPE|unix.STATX_INO, st)
}

func idOf(st *unix.Statx_t) FileID {
	return FileID{unix.Mkdev(st.Dev_major, st.Dev_minor), st.Ino}
}

func comm(dir string) string {
	b, _ := os.ReadFile(dir + "/comm")
	return strings.TrimSpace(string(b))
}

func names(dir string) (names []string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
