package flash

import (
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
)

// Awake keeps the computer and its disks from falling asleep by themselves,
// until release is called or this program ends. why is for a person who asks
// the system; macOS has no place for it here.
func Awake(why string) (release func(), err error) {
	cmd := exec.Command("/usr/bin/caffeinate", "-i", "-m", "-s", "-w", strconv.Itoa(os.Getpid()))
	// Ctrl-C in a terminal is for us: there may still be things to clean up.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return func() {}, err
	}
	return sync.OnceFunc(func() {
		cmd.Process.Kill()
		cmd.Wait()
	}), nil
}
