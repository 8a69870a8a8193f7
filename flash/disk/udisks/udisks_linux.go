package udisks

import "syscall"

var noMedium = []syscall.Errno{syscall.ENOMEDIUM, syscall.EMEDIUMTYPE}
