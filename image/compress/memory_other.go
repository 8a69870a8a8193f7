//go:build !linux

package compress

// machineMemory returns 0: unknown.
func machineMemory() int64 { return 0 }
