package disk

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"imgtool/flash/disk/authopen"
)

// patience is how long a user may take to type a password.
const patience = 3 * time.Minute

// Permit checks that this process can open the disk, for writing if write is set: directly, or
// through authopen, which asks for a password when the disk is opened. The error is a
// [*PermissionError].
func (d *Disk) Permit(ctx context.Context, write, ask bool) error {
	path, mode, do := d.Path, uint32(unix.R_OK), "read"
	if !d.File {
		path = d.raw()
	}
	if write {
		mode, do = mode|unix.W_OK, "write to"
	}
	err := unix.Access(path, mode)
	switch {
	case err != unix.EACCES:
		return nil // whatever else is wrong is found when it is opened
	case d.File:
		return &PermissionError{d.Path, "this user may not " + do + " the file", false}
	case os.Getenv("SSH_CONNECTION") != "":
		return &PermissionError{d.Path, "to " + do + " it takes an administrator's password, and over SSH no window can ask for one", true}
	}
	if _, err := os.Stat(authopen.Program); err != nil {
		return &PermissionError{d.Path, "only root may " + do + " it, because this system has no " + authopen.Program, false}
	}
	return nil
}

// open opens the device of the disk with the flags of open(2), through authopen if this user
// may not open it.
func (d *Disk) open(flags int) (*os.File, error) {
	f, err := openRaw(d.raw(), flags)
	if !errors.Is(err, unix.EACCES) || d.Permit(context.Background(), flags&os.O_RDWR != 0, true) != nil {
		return f, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if f, err = authopen.Open(ctx, authopen.Program, d.raw(), flags|unix.O_NONBLOCK); err != nil {
		return nil, &PermissionError{d.Path, "it could not be opened with an administrator's password: " + err.Error(), true}
	}
	if err := unix.SetNonblock(int(f.Fd()), false); err != nil {
		f.Close()
		return nil, err
	}
	unix.FcntlInt(f.Fd(), unix.F_NOCACHE, 1)
	return f, nil
}

// Peek is like [OpenRead], but asks for no password.
func Peek(d *Disk) (*Target, error) {
	if !d.File && unix.Access(d.raw(), unix.R_OK) == unix.EACCES {
		return nil, fs.ErrPermission
	}
	return OpenRead(d)
}

// OpenDevice opens a disk or partition for reading through the cache, with a password if this
// user may not open it.
func OpenDevice(path string) (*os.File, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrPermission) && os.Getenv("SSH_CONNECTION") == "" {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		return authopen.Open(ctx, authopen.Program, path, os.O_RDONLY)
	}
	return f, err
}

// Unmount does nothing: [Open] unmounts the volumes of a disk.
func (d *Disk) Unmount(ctx context.Context) error { return nil }

// Unseen returns "".
func (d *Disk) Unseen() string { return "" }
