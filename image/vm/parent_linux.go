package vm

import (
	"os/exec"
	"syscall"
)

// withParent makes a program end when this one does, however that ends.
func withParent(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
