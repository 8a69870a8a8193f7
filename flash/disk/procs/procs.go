// Package procs finds the processes on this computer that have a file or block device open
// for writing, have mapped it, or have locked a part of it.
//
// The kernel shows the descriptors of processes in this PID namespace and below it. Users
// other than root see only their processes.
package procs

import (
	"io/fs"
	"syscall"
)

// FileID identifies a file independently of its name.
type FileID struct{ Dev, Ino uint64 }

// IDOf returns the identity of a file, and whether it is known.
func IDOf(info fs.FileInfo) (FileID, bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return FileID{}, false
	}
	return FileID{uint64(st.Dev), uint64(st.Ino)}, true
}
