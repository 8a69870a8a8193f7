//go:build cgo

package codec

import (
	"bytes"
	"imgtool/image/imagetest"
	"math/rand/v2"
	"testing"

	"github.com/DataDog/zstd"
)

// Blocks are, byte for byte, as libzstd makes them at the requested level; with the
// smaller hash table of hashLog they may be up to 1 % larger.
func TestZstdLevelsAreLibzstds(t *testing.T) {
	imagetest.Long(t)
	rng := rand.New(rand.NewPCG(9, 9))
	for _, size := range []int{1, 300, 9000, 100_000, 200_000, 1 << 20} {
		src := sample(rng, size)
		for level := 1; level <= zstdMax; level++ {
			if size > 9000 && level%3 != 1 && level != zstdDefault {
				continue // the high levels are slow
			}
			want, err := zstd.CompressLevel(nil, src, level)
			if err != nil {
				t.Fatal(err)
			}
			for _, blockSize := range []int{128 << 10, 1 << 20} {
				encode, err := zstdEncoder(level, blockSize)
				if err != nil {
					t.Fatal(err)
				}
				got, err := encode(nil, src)
				if err != nil {
					t.Fatal(err)
				}
				if hashLog(level, blockSize) == 0 {
					if !bytes.Equal(got, want) {
						t.Errorf("level %d, block size %d: %d bytes become %d, libzstd makes %d", level, blockSize, size, len(got), len(want))
					}
				} else if len(got) > len(want)*101/100 {
					t.Errorf("level %d, block size %d: %d bytes become %d, libzstd makes %d", level, blockSize, size, len(got), len(want))
				}
				if back, err := zstd.Decompress(nil, got); err != nil || !bytes.Equal(back, src) {
					t.Errorf("level %d: %d bytes do not decompress to the input: %v", level, size, err)
				}
			}
		}
	}
}
