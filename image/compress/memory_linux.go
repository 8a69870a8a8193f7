package compress

import "golang.org/x/sys/unix"

// machineMemory returns the memory of this machine in bytes, or 0 if it is unknown.
func machineMemory() int64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0
	}
	return int64(uint64(info.Totalram) * uint64(info.Unit))
}
