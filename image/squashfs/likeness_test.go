package squashfs_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"imgtool/image/squashfs"
	"imgtool/image/tree"
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

// Few ends are put together by likeness or by path, whichever has more of them together.
func TestTheBetterOrderOfFewEndsIsTaken(t *testing.T) {
	byLikeness, byPath := 0, 0
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 12))
		noise := make([]byte, 64<<10)
		for i := range noise {
			noise[i] = byte(r.Uint32())
		}
		tr := tree.New(0)
		for i := range 40 {
			// In the one half of all trees, what is alike has the same path but for its end.
			family := i / 8
			if seed%2 == 0 {
				family = r.IntN(8)
			}
			b := slices.Clone(noise[family*4096:][:1000+r.IntN(3000)])
			b = append(b, noise[r.IntN(60000):][:r.IntN(2000)]...)
			if err := tr.Put(fmt.Sprintf("f%02d", i), &tree.Inode{Mode: tree.Regular | 0o644, Content: bytes.NewReader(b)}); err != nil {
				t.Fatal(err)
			}
		}
		like, paths, taken, err := squashfs.Twice(t.Context(), tr, 16<<10)
		if err != nil {
			t.Fatal(err)
		}
		if taken != max(like, paths) {
			t.Errorf("seed %d: %.0f bytes are together, by likeness it would be %.0f, by path %.0f", seed, taken, like, paths)
		}
		if paths > like {
			byPath++
		} else {
			byLikeness++
		}
	}
	if byPath == 0 || byLikeness == 0 {
		t.Errorf("%d by path, %d by likeness", byPath, byLikeness)
	}
}
