//go:build cgo

package squashfs

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/DataDog/zstd"

	"imgtool/image/tree"
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

// A thinned level loses what the ends of files gain; where there are few, it is not
// thinned, with a cache that has thinned blocks too.
func TestFewEndsAreNotThinned(t *testing.T) {
	const size = 128 << 10
	src := sample(rand.New(rand.NewPCG(9, 1)), 8*size)
	var deep [][]byte
	for i := range 8 {
		frame, err := zstd.CompressLevel(nil, src[i*size:(i+1)*size], 9)
		if err != nil {
			t.Fatal(err)
		}
		deep = append(deep, frame)
	}
	blocks := allKept{}
	for _, small := range []int{100, 0, 2, 100} {
		tr := tree.New(0)
		add := func(path string, b []byte) {
			if err := tr.Put(path, &tree.Inode{Mode: tree.Regular | 0o644, Content: bytes.NewReader(b)}); err != nil {
				t.Fatal(err)
			}
		}
		add("large", src)
		for i := range small {
			add(fmt.Sprintf("small%d", i), src[i*1000:i*1500+900])
		}
		out := &memory{}
		if _, err := Write(t.Context(), out, tr, Options{Compression: "zstd:9", BlockSize: size, Cache: blocks, Workers: 1}, nil); err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, frame := range deep {
			if bytes.Contains(out.b, frame) {
				n++
			}
		}
		if want := map[bool]int{true: 8, false: 0}[small < 100]; n != want {
			t.Errorf("with %d small files, %d of the blocks of a large one are libzstd's own, not %d", small, n, want)
		}
	}
}

// allKept keeps all, for one worker.
type allKept map[[32]byte][]byte

func (c allKept) Get(_ []byte, key [32]byte) []byte { return c[key] }

func (c allKept) Put(key [32]byte, data []byte) { c[key] = append([]byte{}, data...) }

// memory is what was written.
type memory struct{ b []byte }

func (m *memory) WriteAt(b []byte, off int64) (int, error) {
	if end := int(off) + len(b); end > len(m.b) {
		m.b = append(m.b, make([]byte, end-len(m.b))...)
	}
	return copy(m.b[off:], b), nil
}
