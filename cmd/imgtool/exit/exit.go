// Package exit has the exit statuses of imgtool, and derives them from errors.
package exit

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"syscall"

	"imgtool/cmd/imgtool/reference"
	"imgtool/image/fault"
)

// Exit statuses. Their meanings are in Meanings.
const (
	OK          = 0
	Differs     = 1
	Usage       = 2
	Input       = 3
	Refused     = 4
	Permission  = 5
	Corrupt     = 6
	Write       = 7
	Mismatch    = 8
	Gone        = 9
	WrongBoard  = 10
	RolledBack  = 11
	Unknown     = 12
	Internal    = 70
	Interrupted = 130
)

// Meanings are the exit statuses as the man page and the reference explain them.
var Meanings = []reference.Entry{
	{Name: "0", Meaning: "success"},
	{Name: "1", Meaning: "diff only: something differs"},
	{Name: "2", Meaning: "the command line is wrong: an unknown command, flag or name, an impossible value, or something is missing"},
	{Name: "3", Meaning: "a definition, input, image or seed is bad or does not exist"},
	{Name: "4", Meaning: "the disk is refused, for example because it is in use or is not the disk that was shown; a device refuses the configuration; or the answer to the question was not yes"},
	{Name: "5", Meaning: "permission denied; a registry or web server requires a login"},
	{Name: "6", Meaning: "a source is corrupt or unreadable: damaged, truncated, with another digest than expected, or on a medium with bad sectors"},
	{Name: "7", Meaning: "writing failed, for example on a full disk or a read-only file system, to standard output, or of a receipt"},
	{Name: "8", Meaning: "the data read back differs or cannot be read; a device has another configuration"},
	{Name: "9", Meaning: "the disk (or the file in its place), device, registry or web server does not exist, disappeared or does not answer; a board did not appear; an emulated machine did not print the expected line"},
	{Name: "10", Meaning: "the image is for another board; the address that answers is not a device"},
	{Name: "11", Meaning: "provisioning failed, and the device went back to its previous configuration"},
	{Name: "12", Meaning: "provisioning: it is unknown whether the device has the configuration"},
	{Name: "70", Meaning: "internal error"},
	{Name: "130", Meaning: "interrupted"},
}

// ErrDiffers makes the exit status 1. The differences are printed already.
var ErrDiffers = errors.New("they differ")

// statuses are the exit statuses of the kinds of errors.
var statuses = map[string]int{
	fault.Usage:       Usage,
	fault.Input:       Input,
	fault.Refused:     Refused,
	fault.Permission:  Permission,
	fault.Corrupt:     Corrupt,
	fault.Write:       Write,
	fault.Mismatch:    Mismatch,
	fault.Gone:        Gone,
	fault.WrongBoard:  WrongBoard,
	fault.RolledBack:  RolledBack,
	fault.Unknown:     Unknown,
	fault.Interrupted: Interrupted,
	fault.Internal:    Internal,
}

// WithKind returns an error with the kind of an exit status, if it has none.
func WithKind(err error, status int) error {
	if statuses[fault.Kind(err)] == status {
		return err
	}
	for kind, s := range statuses {
		if s == status {
			return fault.As(kind, err)
		}
	}
	return err
}

// Status returns the exit status for an error by its kind, or if it has none, by the
// system call that failed.
func Status(err error) int {
	if status, ok := statuses[fault.Kind(err)]; ok {
		return status
	}
	if errors.Is(err, fs.ErrPermission) {
		return Permission
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
		return Write
	case slices.Contains([]string{"open", "openat", "createtemp"}, call) && is(syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS):
		return Write // opening a file for reading does not fail with these
	case slices.Contains([]string{"read", "pread"}, call) && is(syscall.EIO): // unlike EISDIR
		return Corrupt
	}
	return Input
}
