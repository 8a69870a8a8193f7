package compress

import "golang.org/x/sys/unix"

// LargeMemory returns the limit for trusted streams: 2 GiB, the window of zstd --long=31, or
// half of the memory of this machine if that is less.
func LargeMemory() int64 {
	const limit = 2 << 30
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return limit
	}
	return max(MaxMemory, int64(min(limit, uint64(info.Totalram)*uint64(info.Unit)/2)))
}
