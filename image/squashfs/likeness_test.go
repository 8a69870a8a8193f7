package squashfs_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	"imgtool/image/squashfs"
)

// Of few sketches and many, with hashes that are all about or far apart, each hash is found
// where it was last.
func TestHashesAreFoundWhereTheyWereLast(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 11))
	for _, ends := range []int{0, 1, 2, 30, 5000} {
		for _, each := range []int{2, 32} {
			for _, span := range []uint32{uint32(each), 5000, 1 << 31} {
				all, lens := make([]uint32, ends*each), make([]uint8, ends)
				want := slices.Repeat([]int32{-1}, len(all))
				last := map[uint32]int32{}
				for i := range ends {
					lens[i] = uint8(r.IntN(each + 1))
					for k := range int(lens[i]) {
						at, h := i*each+k, uint32(0)
						for h = r.Uint32N(span); slices.Contains(all[i*each:at], h); {
							h = r.Uint32N(span)
						}
						all[at] = h
						if was, ok := last[h]; ok {
							want[at] = was
						}
						last[h] = int32(at)
					}
				}
				got := squashfs.Before(each, all, lens)
				for i := range ends {
					from, to := i*each, i*each+int(lens[i])
					if !slices.Equal(got[from:to], want[from:to]) {
						t.Fatalf("%d ends of %d hashes below %d: of end %d, %v, not %v", ends, each, span, i, got[from:to], want[from:to])
					}
				}
			}
		}
	}
}
