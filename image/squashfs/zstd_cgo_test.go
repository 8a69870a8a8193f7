//go:build cgo

package squashfs

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/DataDog/zstd"
)

// What is declared of libzstd is what it has: but for the levels that look in fewer
// places, a block is to the byte what the module's own Go code makes of it.
func TestLevelsAreThoseOfLibzstd(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 9))
	for _, size := range []int{1, 300, 9000, 100_000, 200_000, 1 << 20} {
		src := sample(rng, size)
		for level := 1; level <= zstdMax; level++ {
			if size > 9000 && level%3 != 1 {
				continue // they take long
			}
			encode, err := zstdEncoder(level, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			got, err := encode(nil, src)
			if err != nil {
				t.Fatal(err)
			}
			want, err := zstd.CompressLevel(nil, src, level)
			if err != nil {
				t.Fatal(err)
			}
			if thinned(level) {
				if len(got) > len(want)*102/100+20 {
					t.Errorf("level %d: %d of %d bytes, libzstd %d", level, len(got), size, len(want))
				}
			} else if !bytes.Equal(got, want) {
				t.Errorf("level %d: %d of %d bytes, libzstd %d", level, len(got), size, len(want))
			}
			back, err := zstd.Decompress(nil, got)
			if err != nil || !bytes.Equal(back, src) {
				t.Errorf("level %d: %d bytes do not come back: %v", level, size, err)
			}
		}
	}
}
