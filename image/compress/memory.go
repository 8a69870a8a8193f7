package compress

// LargeMemory is the limit for images that a person names: 2 GiB, as zstd --long=31 asks
// for, or half of the memory of this machine if that is less.
func LargeMemory() int64 {
	const most = 2 << 30
	if all := machineMemory(); all > 0 {
		return max(MaxMemory, min(most, all/2))
	}
	return most
}
