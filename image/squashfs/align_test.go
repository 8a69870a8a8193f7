package squashfs_test

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"imgtool/image/squashfs"
	"imgtool/image/tree"
)

// system returns a tree of some thousand files of many sizes, and their paths.
func system(t testing.TB, seed uint64) (*tree.Tree, []string) {
	rng := rand.New(rand.NewPCG(seed, 8))
	tr := tree.New(0)
	var paths []string
	add := func(path string, size int) {
		paths = append(paths, path)
		put(t, tr, path, file(text(rng, size)))
	}
	for i := range 4000 {
		add(fmt.Sprintf("usr/share/%02d/%d", i/40, i), rng.IntN(3_000))
	}
	for i := range 60 {
		add(fmt.Sprintf("usr/bin/%d", i), 20_000+rng.IntN(250_000))
	}
	for i := range 8 {
		add(fmt.Sprintf("usr/lib/%d", i), 700_000+rng.IntN(2_000_000))
	}
	return tr, paths
}

// newBlocks returns the share of the blocks of 4 KiB of b that are nowhere in a, and the
// share of blocks that are not at the same place.
func newBlocks(a, b []byte) (anywhere, moved float64) {
	known := map[[sha256.Size]byte]bool{}
	for block := range slices.Chunk(a, 4096) {
		known[sha256.Sum256(block)] = true
	}
	n, i := 0, 0
	for block := range slices.Chunk(b, 4096) {
		if !known[sha256.Sum256(block)] {
			anywhere++
		}
		if at := n * 4096; at+len(block) > len(a) || string(a[at:at+len(block)]) != string(block) {
			i++
		}
		n++
	}
	return anywhere / float64(n), float64(i) / float64(n)
}

// A change of a file leaves most blocks of 4 KiB as they are, at a small cost in size.
func TestWriteAlignsBlocks(t *testing.T) {
	for _, block := range []int{128 << 10, 1 << 20} {
		opt := squashfs.Options{Compression: "zstd:1", BlockSize: block}
		packed := opt
		packed.Packed = true
		tr, paths := system(t, 1)
		before, packedBefore := bytesOf(t, tr, opt), bytesOf(t, tr, packed)
		if grown := float64(len(before))/float64(len(packedBefore)) - 1; grown > 0.02 || grown <= 0 {
			t.Errorf("%d: gaps take %.2f %% of the size, want up to 2", block, 100*grown)
		}
		rng := rand.New(rand.NewPCG(2, uint64(block)))
		sum, packedSum, n := 0.0, 0.0, 0.0
		for range 6 {
			changed := tr.Without(nil)
			path := paths[rng.IntN(len(paths))]
			put(t, changed, path, file(text(rng, int(tr.Lookup(path).Size())+100)))
			now, _ := newBlocks(before, bytesOf(t, changed, opt))
			packedNow, _ := newBlocks(packedBefore, bytesOf(t, changed, packed))
			sum, packedSum, n = sum+now, packedSum+packedNow, n+1
		}
		t.Logf("blocks of %d: %.1f %% of 4 KiB blocks are new after a change, %.1f %% without gaps", block, 100*sum/n, 100*packedSum/n)
		if sum/n > 0.06 || sum/n > packedSum/n/3 {
			t.Errorf("%d: %.1f %% of the blocks are new, %.1f %% without gaps", block, 100*sum/n, 100*packedSum/n)
		}
	}
}

// starts records the offsets of reads.
type starts struct {
	io.ReaderAt
	at []int64
}

func (s *starts) ReadAt(p []byte, off int64) (int, error) {
	s.at = append(s.at, off)
	return s.ReaderAt.ReadAt(p, off)
}

// With blocks of 512 KiB and more, what is read first of each file begins at a multiple of
// 4 KiB, except for a small last fragment block.
func TestWriteBlocksBeginAtDeviceBlocks(t *testing.T) {
	for _, block := range []int{512 << 10, 1 << 20} {
		tr, _ := system(t, 2)
		path, size := write(t, tr, squashfs.Options{Compression: "lz4", BlockSize: block})
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		s := &starts{ReaderAt: f}
		r, err := squashfs.Open(s, size)
		if err != nil {
			t.Fatal(err)
		}
		back, err := r.Tree()
		if err != nil {
			t.Fatal(err)
		}
		seen, off := map[int64]bool{}, map[int64]bool{}
		for path, n := range back.All() {
			if n.Size() == 0 {
				continue
			}
			for _, at := range []int64{0, n.Size() - 1} {
				if at > 0 && n.Size() > int64(block) && n.Size()%int64(block) > int64(block)*5/8 {
					continue // a block in the middle of a file
				}
				s.at = nil
				if _, err := n.Content.ReadAt(make([]byte, 1), at); err != nil {
					t.Fatalf("%s: %v", path, err)
				}
				for _, at := range s.at {
					seen[at] = true
					off[at] = at%4096 != 0
				}
			}
		}
		unaligned := 0
		for _, is := range off {
			if is {
				unaligned++
			}
		}
		t.Logf("blocks of %d: %d places, %d unaligned", block, len(seen), unaligned)
		if unaligned > 1 || len(seen) < 10 {
			t.Errorf("blocks of %d: of %d places that are read first, %d do not begin at a multiple of 4 KiB", block, len(seen), unaligned)
		}
	}
}

// Gaps are zeros, whatever was in the file before.
func TestWriteFillsGaps(t *testing.T) {
	tr, _ := system(t, 3)
	opt := squashfs.Options{Compression: "lz4", BlockSize: 1 << 20}
	path, size := write(t, tr, opt)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	dirty := make([]byte, size)
	for i := range dirty {
		dirty[i] = 0xa5
	}
	if _, err := f.WriteAt(dirty, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := squashfs.Write(t.Context(), f, tr, opt, nil); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != string(want) {
		t.Errorf("a file that was not empty gives other bytes: %v", err)
	}
}
