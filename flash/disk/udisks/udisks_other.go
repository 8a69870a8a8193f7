//go:build !linux

package udisks

import "syscall"

var noMedium []syscall.Errno
