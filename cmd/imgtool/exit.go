package main

import (
	"errors"
	"io/fs"
	"os"
	"syscall"

	"imgtool/flash"
	"imgtool/flash/disk"
	"imgtool/image"
	"imgtool/image/artifact"
	"imgtool/image/compress"
	"imgtool/image/fault"
	"imgtool/image/hostfile"
	"imgtool/image/source"
)

// Exit statuses, also in README.md.
const (
	exitOK          = 0
	exitDiffers     = 1
	exitUsage       = 2
	exitInput       = 3
	exitRefused     = 4
	exitPermission  = 5
	exitCorrupt     = 6
	exitWrite       = 7
	exitMismatch    = 8
	exitGone        = 9
	exitWrongBoard  = 10
	exitRolledBack  = 11
	exitUnknown     = 12
	exitInternal    = 70
	exitInterrupted = 130
)

// kindStatus maps the kinds of errors to exit statuses.
var kindStatus = map[string]int{
	fault.Usage: exitUsage, fault.Input: exitInput, fault.Refused: exitRefused, fault.Permission: exitPermission,
	fault.Corrupt: exitCorrupt, fault.Write: exitWrite, fault.Mismatch: exitMismatch, fault.Gone: exitGone,
	fault.WrongBoard: exitWrongBoard, fault.RolledBack: exitRolledBack, fault.Unknown: exitUnknown, fault.Interrupted: exitInterrupted,
}

// exitStatus is the status of an error, by the kind of error: the types in its chain.
func exitStatus(err error) int {
	is := func(target any) bool { return errors.As(err, target) }
	switch {
	case is(new(*resultsError)), is(new(*receiptError)) && !errors.Is(err, fs.ErrPermission):
		return exitWrite
	case kindStatus[fault.Kind(err)] != 0:
		return kindStatus[fault.Kind(err)]
	case is(new(*disk.RefusedError)), is(new(*artifact.ReplacedError)):
		return exitRefused
	case is(new(*image.MismatchError)), is(new(*flash.ReadError)), is(new(*flash.FakeError)), is(new(*flash.NoWritesError)):
		return exitMismatch
	case is(new(*wrongBoardError)):
		return exitWrongBoard
	case is(new(*disk.GoneError)), is(new(*flash.StallError)), is(new(*disk.MovedError)), is(new(*noDiskError)), is(new(*timeoutError)), is(new(*source.GoneError)):
		return exitGone
	case is(new(*artifact.CorruptError)), is(new(*hostfile.ReadError)), is(new(*source.CorruptError)):
		return exitCorrupt
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EPERM):
		return exitPermission
	case is(new(*image.WriteError)), is(new(*compress.ScratchError)), is(new(*hostfile.OutputError)):
		return exitWrite
	}
	// Of others, the call that failed says it.
	return exitStatusOf(failedCall(err))
}

// failedCall is the call of the system that failed, such as "write", and its error.
func failedCall(err error) (string, error) {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Op, e.Err
	}
	if e, ok := errors.AsType[*os.LinkError](err); ok {
		return e.Op, e.Err
	}
	if e, ok := errors.AsType[*os.SyscallError](err); ok {
		return e.Syscall, e.Err
	}
	return "", nil
}

func exitStatusOf(call string, err error) int {
	switch call {
	case "write", "writev", "copy_file_range", "sync", "fsync", "sync_file_range", "truncate", "fallocate",
		"chmod", "chown", "chtimes", "rename", "renameat", "link", "linkat", "symlink", "mkdir", "mknod", "remove", "unlinkat":
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrExist) && !errors.Is(err, syscall.ENOTDIR) {
			return exitWrite
		}
	case "open", "openat", "createtemp":
		// No file that is only read fails so.
		for _, full := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS} {
			if errors.Is(err, full) {
				return exitWrite
			}
		}
	case "read", "pread":
		// A directory in the place of a file is no damage.
		if errors.Is(err, syscall.EIO) {
			return exitCorrupt
		}
	}
	return exitInput
}
