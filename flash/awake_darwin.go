package flash

import (
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
)

// Awake keeps the computer and its disks from going to sleep until release is called or
// this program ends. macOS does not show why.
func Awake(why string) (release func(), err error) {
	cmd := exec.Command("/usr/bin/caffeinate", "-i", "-m", "-s", "-w", strconv.Itoa(os.Getpid()))
	// Ctrl-C in a terminal must not end caffeinate before this program has cleaned up.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return func() {}, err
	}
	return sync.OnceFunc(func() {
		cmd.Process.Kill()
		cmd.Wait()
	}), nil
}
