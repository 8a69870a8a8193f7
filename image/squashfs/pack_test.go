package squashfs_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"

	"imgtool/image/imagetest"
	"imgtool/image/squashfs"
	"imgtool/image/tree"
	"imgtool/image/tree/sums"
)

// kept is a cache that counts hits and misses.
type kept struct {
	mu           sync.Mutex
	m            map[[sha256.Size]byte][]byte
	hits, misses int
}

func (c *kept) Get(dst []byte, key [sha256.Size]byte) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	data, ok := c.m[key]
	if !ok {
		c.misses++
		return nil
	}
	c.hits++
	return append(dst[:0], data...)
}

func (c *kept) Put(key [sha256.Size]byte, data []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil {
		c.m = map[[sha256.Size]byte][]byte{}
	}
	c.m[key] = append([]byte{}, data...)
}

func bytesOf(t *testing.T, tr *tree.Tree, opt squashfs.Options) []byte {
	t.Helper()
	path, _ := write(t, tr, opt)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The bytes are the same without a cache, with an empty and with a full one; a full one
// has every block.
func TestWriteIsIndependentOfCache(t *testing.T) {
	imagetest.Long(t)
	for _, codec := range []string{"zstd:3", "zstd:15", "gzip:1", "lz4", "xz"} {
		for _, block := range []int{4096, 64 << 10, 256 << 10} {
			opt := squashfs.Options{Compression: codec, BlockSize: block}
			if opt.Check() != nil {
				continue // a level libzstd has
			}
			tr := randomTree(t, 5, 40<<10)
			rng := rand.New(rand.NewPCG(1, 2))
			put(t, tr, "noise", file(noise(rng, 600_000)))
			put(t, tr, "text", file(text(rng, 600_000)))
			plain := bytesOf(t, tr, opt)
			c := &kept{}
			opt.Cache = c
			cold := bytesOf(t, tr, opt)
			puts, misses, hits := len(c.m), c.misses, c.hits
			warm := bytesOf(t, tr, opt)
			if !bytes.Equal(plain, cold) || !bytes.Equal(plain, warm) {
				t.Errorf("%s %d: the bytes differ with a cache", codec, block)
			}
			// Blocks that several files have are hits in the first run, too.
			if c.misses != misses || c.hits != hits+misses+hits || misses < puts || puts < 3 {
				t.Errorf("%s %d: %d puts, %d misses, %d hits, then %d and %d", codec, block, puts, misses, hits, c.misses, c.hits)
			}
			// Entries of another codec must not be used.
			opt.Compression, opt.Cache = "zstd:2", nil
			plain = bytesOf(t, tr, opt)
			opt.Cache = c
			if !bytes.Equal(plain, bytesOf(t, tr, opt)) {
				t.Errorf("%s %d: blocks of another codec were used", codec, block)
			}
		}
	}
}

// After one file has changed, most blocks are in the cache.
func TestWriteAfterChangeUsesCache(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 1))
	tr := tree.New(0)
	var paths []string
	for i := range 3000 {
		path := fmt.Sprintf("dir%03d/file%d", i/40, i)
		paths = append(paths, path)
		put(t, tr, path, file(text(rng, rng.IntN(12_000))))
	}
	for i := range 10 {
		put(t, tr, fmt.Sprintf("large/%d", i), file(text(rng, 700_000+i)))
	}
	c := &kept{}
	opt := squashfs.Options{Compression: "lz4", BlockSize: 64 << 10, Cache: c}
	bytesOf(t, tr, opt)
	all := c.misses
	if all < 300 {
		t.Fatalf("only %d blocks", all)
	}
	worst, sum := 0, 0
	const trials = 30
	for range trials {
		before := c.misses
		changed := tr.Without(nil)
		put(t, changed, paths[rng.IntN(len(paths))], file(text(rng, rng.IntN(12_000))))
		bytesOf(t, changed, opt)
		worst, sum = max(worst, c.misses-before), sum+c.misses-before
	}
	t.Logf("of %d blocks, %d are new on average, and %d at most", all, sum/trials, worst)
	if sum/trials > 12 || worst > 150 {
		t.Errorf("of %d blocks, %d are new on average, and %d at most", all, sum/trials, worst)
	}
}

// Similar files that are far apart in the tree share fragment blocks.
func TestWriteGroupsSimilarFiles(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 1))
	const kinds, each, size = 40, 4, 20_000
	together, apart := tree.New(0), tree.New(0)
	for kind := range kinds {
		one := noise(rng, size)
		for i := range each {
			// A small part of each file differs.
			n := file(one[:size/2+i*100] + noise(rng, 500) + one[size/2:])
			put(t, together, fmt.Sprintf("%03d-%d", kind, i), n)
			put(t, apart, fmt.Sprintf("%d-%03d", i, kind), n)
		}
	}
	opt := squashfs.Options{Compression: "zstd:3", BlockSize: 128 << 10}
	_, least := write(t, together, opt)
	path, size2 := write(t, apart, opt)
	if size2 > least*11/10 {
		t.Errorf("%d bytes, but %d if similar files are next to each other in the tree", size2, least)
	}
	if size2 > kinds*each*size/2 {
		t.Errorf("%d bytes of %d files of %d that have %d of each kind", size2, kinds*each, size, each)
	}
	same(t, "reader", describe(t, apart), read(t, path))
}

// Blocks that another file has in the same order are stored once.
func TestWriteStoresSharedBlocksOnce(t *testing.T) {
	const block = 8192
	rng := rand.New(rand.NewPCG(6, 1))
	whole := noise(rng, 20*block)
	zeros := strings.Repeat("\x00", 3*block)
	holey := noise(rng, 2*block) + zeros + noise(rng, 2*block)
	for _, test := range []struct {
		name  string
		first string
		next  string
		room  int // bytes the second takes in blocks
	}{
		{"the same", whole, whole, 0},
		{"the beginning", whole, whole[:7*block], 0},
		{"the middle", whole, whole[3*block : 9*block], 0},
		{"the end", whole, whole[15*block:], 0},
		{"one block", whole, whole[5*block : 6*block], 0},
		{"the middle and another tail end", whole, whole[3*block:9*block] + noise(rng, 100), 0},
		{"the end, and the same tail end", whole + "end", whole[15*block:] + "end", 0},
		{"a tail end that is a separate block, removed", whole + noise(rng, 5000), whole, 0},
		{"not at a block boundary", whole, whole[100 : 9*block+100], 9 * block},
		{"more blocks than the first file has", whole, whole[10*block:] + noise(rng, block), 11 * block},
		{"with a hole", holey, holey[block:], 0},
		{"a hole before it", whole, zeros + whole[:4*block], 4 * block},
		{"from within a hole", holey, holey[3*block : 7*block], 0},
		{"only zeros", whole, zeros, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			opt := squashfs.Options{BlockSize: block, Compression: "zstd:1"}
			tr := tree.New(0)
			put(t, tr, "a", file(test.first))
			_, before := write(t, tr, opt)
			put(t, tr, "b", file(test.next))
			put(t, tr, "c", file("small"))
			path, after := write(t, tr, opt)
			// The inode and the padding take up to 8192 bytes.
			if grown := int(after - before); grown < test.room || grown > test.room+8192 {
				t.Errorf("%d bytes more, want about %d", grown, test.room)
			}
			want := describe(t, tr)
			same(t, "reader", want, read(t, path))
			sameMounted(t, tr, want, path)
			unsquash(t, want, path)
		})
	}
}

// fickle has different content at each read.
type fickle struct{ n *byte }

func (fickle) Size() int64 { return 5000 }
func (f fickle) ReadAt(p []byte, off int64) (int, error) {
	*f.n++
	for i := range p {
		p[i] = *f.n
	}
	return len(p), nil
}

func TestWriteDetectsChangedFile(t *testing.T) {
	for _, c := range []squashfs.Cache{nil, &kept{}} {
		tr := tree.New(0)
		put(t, tr, "some/path", tree.Inode{Mode: tree.Regular, Content: fickle{new(byte)}})
		_, err := squashfs.Write(context.Background(), discard{}, tr, squashfs.Options{Workers: 1, Cache: c}, nil)
		if err == nil || !strings.Contains(err.Error(), "some/path: it changed while it was read") {
			t.Error(err)
		}
		if m, ok := c.(*kept); ok && len(m.m) > 0 {
			t.Error("the block is in the cache")
		}
	}
}

// Known checksums do not affect the bytes, for any block size.
func TestWriteWithKnownChecksums(t *testing.T) {
	tr := randomTree(t, 21, 300<<10)
	known, err := sums.Compute(t.Context(), tr, sums.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range []int{16 << 10, 128 << 10, 1 << 20} {
		opt := squashfs.Options{Compression: "zstd:1", BlockSize: block}
		plain := bytesOf(t, tr, opt)
		opt.Sums = known
		if !bytes.Equal(plain, bytesOf(t, tr, opt)) {
			t.Errorf("%d: other bytes", block)
		}
	}
}
