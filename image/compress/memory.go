package compress

// LargeMemory returns the limit for trusted streams: 2 GiB, the window of zstd --long=31, or
// half of the memory of this machine if that is less.
func LargeMemory() int64 {
	const limit = 2 << 30
	if all := machineMemory(); all > 0 {
		return max(MaxMemory, min(limit, all/2))
	}
	return limit
}
