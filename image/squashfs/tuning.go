//go:build cgo

package squashfs

// hashLog returns log2 of the entries of libzstd's hash table for blocks of
// blockSize bytes at level, or 0 for libzstd's own. It is the only parameter that
// differs from libzstd's.
//
// At the levels 5 to 12 and blocks above 256 KiB, libzstd's own tables have up to
// 2^21 entries and exceed the second-level cache of a processor. With 2^19, the
// compression of 60 blocks of 1 MiB of a Debian root file system, relative to
// libzstd's own parameters, took (on an AMD EPYC):
//
//	level   5     7     8     9     10    11    12
//	time    0.94  0.87  0.85  0.80  0.83  0.77  0.76
//	size    1.0000 to 1.0012
//
// 2^18 entries gave 0.72 of the time and 1.0041 of the size at level 9. With
// libzstd's own table, a squashfs at the default level took 0.92 of the processor
// time of mksquashfs.
func hashLog(level, blockSize int) int {
	if level >= 5 && level <= 12 && blockSize > 256<<10 {
		return 19
	}
	return 0
}
