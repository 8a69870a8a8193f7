//go:build !linux

package compress

// LargeMemory returns the limit for trusted streams: 2 GiB, the window of zstd --long=31.
func LargeMemory() int64 { return 2 << 30 }
