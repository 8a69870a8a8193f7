package main

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"syscall"

	"imgtool/image/fault"
)

// Exit statuses, also in docs/reference/exit-statuses.md.
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

// statuses are the exit statuses of the kinds of errors.
var statuses = map[string]int{
	fault.Usage:       exitUsage,
	fault.Input:       exitInput,
	fault.Refused:     exitRefused,
	fault.Permission:  exitPermission,
	fault.Corrupt:     exitCorrupt,
	fault.Write:       exitWrite,
	fault.Mismatch:    exitMismatch,
	fault.Gone:        exitGone,
	fault.WrongBoard:  exitWrongBoard,
	fault.RolledBack:  exitRolledBack,
	fault.Unknown:     exitUnknown,
	fault.Interrupted: exitInterrupted,
}

// exitStatus returns the exit status for an error by its kind, or if it has none, by the
// system call that failed.
func exitStatus(err error) int {
	if status, ok := statuses[fault.Kind(err)]; ok {
		return status
	}
	if errors.Is(err, fs.ErrPermission) {
		return exitPermission
	}
	return statusOfCall(failedCall(err))
}

// failedCall returns the name of the system call that failed, such as "write", and its error.
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

// writeCalls are the system calls that change files.
var writeCalls = []string{"write", "writev", "copy_file_range", "sync", "fsync", "sync_file_range", "truncate", "fallocate",
	"chmod", "chown", "chtimes", "rename", "renameat", "link", "linkat", "symlink", "mkdir", "mknod", "remove", "unlinkat"}

func statusOfCall(call string, err error) int {
	is := func(errnos ...error) bool {
		return slices.ContainsFunc(errnos, func(target error) bool { return errors.Is(err, target) })
	}
	switch {
	case slices.Contains(writeCalls, call) && !is(fs.ErrNotExist, fs.ErrExist, syscall.ENOTDIR):
		return exitWrite
	case slices.Contains([]string{"open", "openat", "createtemp"}, call) && is(syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS):
		return exitWrite // opening a file for reading does not fail with these
	case slices.Contains([]string{"read", "pread"}, call) && is(syscall.EIO): // unlike EISDIR
		return exitCorrupt
	}
	return exitInput
}
