package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"imgtool/flash/disk/udisks"
)

// patience is how long a user may take to type a password, and UDisks2 to answer.
const patience = 3 * time.Minute

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
	ctx, cancel := context.WithTimeout(ctx, patience)
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
	if !errors.Is(err, fs.ErrPermission) {
		return f, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
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

// Unmount unmounts the file systems of a disk that is [Disk.Releasable]. A user without root's
// rights does so through UDisks2, which may ask for a password. Find the disk again afterwards.
func (d *Disk) Unmount(ctx context.Context) error {
	if !d.Releasable() {
		return d.refuse("it is in use by more than mounts")
	}
	for _, m := range d.Mounts {
		var err error
		if os.Geteuid() == 0 {
			err = unmountAll(m.At)
		} else {
			ask, cancel := context.WithTimeout(ctx, patience)
			err = d.permission(udisks.Unmount(ask, m.Device, true), true)
			cancel()
		}
		switch {
		case errors.Is(err, unix.EBUSY):
			return d.refuse("%s cannot be unmounted from %s: close the programs that use files there", m.Device, list(m.At))
		case errors.As(err, new(*PermissionError)), ctx.Err() != nil:
			return err
		case err != nil:
			return d.refuse("%s cannot be unmounted from %s (%v): unmount it first", m.Device, list(m.At), err)
		}
	}
	return nil
}

func unmountAll(at []string) error {
	for _, path := range at {
		// A path that is not a mount point any more is what is wanted.
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
