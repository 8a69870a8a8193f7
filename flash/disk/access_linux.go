package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"imgtool/flash/disk/udisks"
)

const (
	patience = 3 * time.Minute  // how long a user may take to type a password, and UDisks2 to finish
	quick    = 30 * time.Second // how long UDisks2 may take to open a disk without a password
)

func timeToOpen(ask bool) time.Duration {
	if ask {
		return patience
	}
	return quick
}

// Permit checks that this process can open the disk, for writing if write is set: directly or
// through UDisks2. It opens nothing for longer than a moment. If it takes a password and ask is
// set, the desktop asks for it, and polkit usually remembers the answer for some minutes.
//
// The error is a [*PermissionError] if the disk cannot be opened. Other reasons against the disk
// do not count: see [Disk.Check].
func (d *Disk) Permit(ctx context.Context, write, ask bool) error {
	mode := uint32(unix.R_OK)
	if write {
		mode |= unix.W_OK
	}
	err := unix.Faccessat(unix.AT_FDCWD, d.Path, mode, unix.AT_EACCESS)
	if err == unix.EACCES && d.File {
		return &PermissionError{d.Path, "this user may not " + verb(write) + " the file", false}
	}
	if err != unix.EACCES {
		return nil // whatever else is wrong is found when it is opened
	}
	ctx, cancel := context.WithTimeout(ctx, timeToOpen(ask))
	defer cancel()
	// polkit has no answer before the disk is opened: it judges by properties of the disk, which
	// only UDisks2 may pass to it. The action is the same for reading and writing.
	f, err := udisks.Open(ctx, d.Path, "r", unix.O_CLOEXEC|unix.O_NONBLOCK, ask)
	if err == nil {
		return f.Close()
	}
	if err = d.permission(err, write); errors.As(err, new(*PermissionError)) || ctx.Err() != nil {
		return err
	}
	return nil
}

// open opens the disk with the flags of open(2), through UDisks2 if this user may not open it.
func (d *Disk) open(flags int, ask bool) (*os.File, error) {
	f, err := os.OpenFile(d.Path, flags, 0)
	if !errors.Is(err, fs.ErrPermission) || os.Geteuid() == 0 {
		return f, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeToOpen(ask))
	defer cancel()
	mode := "r"
	if flags&os.O_RDWR != 0 {
		mode = "rw"
	}
	f, err = udisks.Open(ctx, d.Path, mode, flags&^os.O_RDWR|unix.O_CLOEXEC, ask)
	if failed, ok := errors.AsType[*udisks.Error](err); ok && failed.Err == nil {
		return nil, d.refuse("UDisks2 does not open it (%s)", failed.Text)
	}
	if err != nil {
		return nil, d.permission(err, flags&os.O_RDWR != 0)
	}
	got, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	if mask := os.O_RDWR | unix.O_DIRECT; err != nil || got&mask != flags&mask {
		f.Close()
		return nil, d.refuse("UDisks2 opened it in another mode than it was asked for (flags %#x, not %#x): run it as root", got, flags)
	}
	return f, nil
}

// OpenDevice opens a disk or partition for reading through the page cache, through UDisks2 if
// this user may not open it.
func OpenDevice(path string) (*os.File, error) {
	return (&Disk{Path: path}).open(os.O_RDONLY, true)
}

// permission returns a [*PermissionError] for an error of package udisks that means one.
func (d *Disk) permission(err error, write bool) error {
	denied, ok := errors.AsType[*udisks.DeniedError](err)
	switch {
	case errors.Is(err, udisks.ErrUnavailable):
		return &PermissionError{d.Path, "only root may " + verb(write) + " it, because UDisks2, which opens disks for other users, is not running", false}
	case errors.Is(err, udisks.ErrSilent):
		return &PermissionError{d.Path, "this user may not " + verb(write) + " it, and UDisks2 or the question for a password was not answered in time", false}
	case !ok:
		return err
	case denied.Dismissed:
		return &PermissionError{d.Path, "to " + verb(write) + " it, an administrator's password is needed, and none was given", true}
	case denied.Password:
		return &PermissionError{d.Path, "to " + verb(write) + " it, an administrator's password is needed, and this session has no program that asks for it", true}
	}
	return &PermissionError{d.Path, "the system does not let this user " + verb(write) + " it", false}
}

func verb(write bool) string {
	if write {
		return "write to"
	}
	return "read"
}

// rescan makes the kernel read the partition table of a disk that this process just closed.
// udev does so when a disk is closed that was open for writing, but it may be notified before the
// kernel has released the lock of the disk, and then does nothing.
func (d *Disk) rescan() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err := udisks.Rescan(ctx, d.Path)
	if err == nil || !exists("/run/udev/control") {
		return err
	}
	f, openErr := os.OpenFile(d.Path, os.O_WRONLY, 0) // without a lock, udev reads it when it is closed
	if openErr != nil {
		return err
	}
	return f.Close()
}

// Unmount unmounts the file systems of a disk that is [Disk.Releasable], if it is still the disk
// that was found. A user without root's rights does so through UDisks2, which may ask for a
// password. Find the disk again afterwards.
func (d *Disk) Unmount(ctx context.Context) error {
	if !d.Releasable() {
		return d.refuse("it is in use by more than mounts")
	}
	now, err := d.Again()
	switch {
	case err != nil:
		return err
	case !now.Releasable() && len(now.InUse) > 0:
		return now.Check(Need{})
	}
	for i, m := range d.Mounts {
		if os.Geteuid() == 0 {
			err = unmountAll(m)
		} else {
			err = d.permission(udisks.Unmount(ctx, m.Device, true), true)
		}
		switch {
		case err == nil:
			continue
		case errors.As(err, new(*PermissionError)), ctx.Err() != nil:
			return err
		case errors.Is(err, unix.EBUSY):
			return d.refuse("%s cannot be unmounted from %s: close the programs that use files there%s", m.Device, list(m.At), unmounted(d.Mounts[:i]))
		}
		return d.refuse("%s cannot be unmounted from %s (%v): unmount it first%s", m.Device, list(m.At), err, unmounted(d.Mounts[:i]))
	}
	return nil
}

// unmounted returns a clause that says which file systems were unmounted, or "".
func unmounted(mounts []Mount) string {
	if len(mounts) == 0 {
		return ""
	}
	var names []string
	for _, m := range mounts {
		names = append(names, m.Device)
	}
	return " (" + list(names) + " was unmounted)"
}

// unmountAll unmounts a device at its mount points, the last one first.
func unmountAll(mount Mount) error {
	for _, path := range slices.Backward(mount.At) {
		m, err := query("/")
		if err != nil {
			return err
		}
		top := m.below(path, nil)
		n := m.bySource(mount.Device)
		switch {
		case n == nil || !slices.Contains(n.mounts, path):
			continue // it was unmounted meanwhile
		case !slices.Contains(top, n):
			return fmt.Errorf("another file system is mounted over it at %s", path)
		}
		if err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW); err != nil && err != unix.EINVAL && err != unix.ENOENT {
			return fmt.Errorf("unmounting %s: %w", path, err)
		}
	}
	return nil
}

// Unseen describes uses of the disk that this process cannot see, or returns "".
func (d *Disk) Unseen() string {
	if d.File || os.Geteuid() == 0 {
		return ""
	}
	return "programs of other users that have it open"
}
