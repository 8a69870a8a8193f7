package squashfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"imgtool/image"
	"imgtool/image/imagetest"
	"imgtool/image/squashfs"
	"imgtool/image/tree"
)

// like opens a file system that another one is to be like.
func like(t testing.TB, b []byte) *squashfs.Reader {
	t.Helper()
	r, err := squashfs.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// updated returns a tree with some files changed, added, removed and renamed.
func updated(t testing.TB, rng *rand.Rand, tr *tree.Tree) *tree.Tree {
	t.Helper()
	var files []string
	for path, n := range tr.All() {
		if n.Type() == tree.Regular {
			files = append(files, path)
		}
	}
	next := tr.Without(func(p string) bool { return tr.Lookup(p).Type() != tree.Dir && rng.IntN(60) == 0 })
	for range 1 + rng.IntN(4) {
		if len(files) == 0 {
			break
		}
		path := files[rng.IntN(len(files))]
		n := *tr.Lookup(path)
		switch size := int(n.Size()); rng.IntN(4) {
		case 0:
			n.Content = bytes.NewReader([]byte(noise(rng, 1+rng.IntN(2*size+1000))))
		case 1: // one byte of it
			b := make([]byte, size)
			if size > 0 {
				if k, err := n.Content.ReadAt(b, 0); k < size {
					t.Fatal(err)
				}
				b[rng.IntN(size)]++
				n.Content = bytes.NewReader(b)
			}
		case 2: // another name
			next.Remove(path)
			path += "-renamed"
			if len(path) > 200 {
				continue
			}
		case 3:
			path = fmt.Sprintf("new-%d", rng.Uint32())
		}
		put(t, next, path, n)
	}
	return next
}

// Chains of updates: each file system is like the one before, and is judged against its
// tree by the reader, the kernel, unsquashfs and sqfs2tar. The bytes are the same with any
// number of workers, and with a cache.
func TestWriteLikeChains(t *testing.T) {
	imagetest.NeedRoot(t)
	chains := uint64(3)
	if os.Getenv("SOAK") != "" {
		chains = 100
	}
	first, followed := rand.Uint64(), 0
	for chain := range chains {
		seed := first + chain
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 9))
			block := 4096 << rng.IntN(9)
			codec := []string{"zstd:1", "gzip:1", "lz4", "xz", "zstd:3"}[rng.IntN(5)]
			opt := squashfs.Options{Compression: codec, BlockSize: block, Packed: rng.IntN(4) == 0}
			tr := randomTree(t, seed, block)
			before := bytesOf(t, tr, opt)
			for range 10 {
				tr = updated(t, rng, tr)
				opt.Like, opt.Workers, opt.Cache = like(t, before), 1+rng.IntN(4), nil
				opt.Reused = func(r squashfs.Reuse) {
					if r.Reason == "" {
						followed++
					}
				}
				path, _ := write(t, tr, opt)
				opt.Reused = nil
				now, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				opt.Workers, opt.Cache = 1+rng.IntN(4), &kept{}
				if !bytes.Equal(now, bytesOf(t, tr, opt)) {
					t.Error("the bytes differ with another number of workers and a cache")
				}
				want := describe(t, tr)
				same(t, "reader", want, read(t, path))
				sameMounted(t, tr, want, path)
				unsquash(t, want, path)
				sqfs2tar(t, tr, opt)
				before = now
			}
		})
	}
	t.Logf("%d of %d updates followed the file system before", followed, chains*10)
	if followed < int(chains) {
		t.Errorf("%d of %d updates followed the file system before", followed, chains*10)
	}
}

// After ten updates of many files, a file system that follows each earlier one is at most
// 5 % larger than without, and little of it is new each time.
func TestWriteLikeKeepsBlocks(t *testing.T) {
	for _, block := range []int{128 << 10, 1 << 20} {
		tr, paths := system(t, 4)
		rng := rand.New(rand.NewPCG(5, uint64(block)))
		opt := squashfs.Options{Compression: "zstd:1", BlockSize: block}
		before := bytesOf(t, tr, opt)
		startedOver := 0
		for i := range 10 {
			tr = tr.Without(nil)
			changed := int64(0)
			for range 10 {
				path := paths[rng.IntN(len(paths)-10)]
				size := int(tr.Lookup(path).Size())
				put(t, tr, path, file(text(rng, size+rng.IntN(100))))
				changed += int64(size)
			}
			plain := opt
			plain.Like = nil
			fresh := bytesOf(t, tr, plain)
			opt.Like = like(t, before)
			var reuse squashfs.Reuse
			opt.Reused = func(r squashfs.Reuse) { reuse = r }
			now := bytesOf(t, tr, opt)
			added, moved := newBlocks(before, now)
			t.Logf("blocks of %d, update %d of %d bytes: %.2f %% of 4 KiB blocks are new, %.2f %% are written; %d bytes, %.2f %% more than alone; %+v",
				block, i, changed, 100*added, 100*moved, len(now), 100*float64(len(now))/float64(len(fresh))-100, reuse)
			if len(now) > len(fresh)*105/100 {
				t.Errorf("blocks of %d, update %d: %d bytes, but %d alone", block, i, len(now), len(fresh))
			}
			if reuse.Reason != "" {
				startedOver++
			} else if moved > added*1.2+0.002 || added > 0.12 {
				t.Errorf("blocks of %d, update %d: %.2f %% of the blocks are new, %.2f %% are written", block, i, 100*added, 100*moved)
			}
			before = now
		}
		if startedOver > 1 {
			t.Errorf("blocks of %d: %d of 10 updates started over", block, startedOver)
		}
	}
}

// Large updates, one after the other, do not let a file system grow by more than 5 %.
func TestWriteLikeLimitsWaste(t *testing.T) {
	tr, paths := system(t, 11)
	rng := rand.New(rand.NewPCG(11, 11))
	opt := squashfs.Options{Compression: "zstd:1", BlockSize: 128 << 10}
	before := bytesOf(t, tr, opt)
	startedOver := 0
	for i := range 8 {
		tr = tr.Without(nil)
		for k := range 150 {
			path := paths[rng.IntN(4000)]
			if k < 2 {
				path = paths[4000+rng.IntN(len(paths)-4000)]
			}
			put(t, tr, path, file(text(rng, int(tr.Lookup(path).Size())+rng.IntN(500))))
		}
		opt.Like, opt.Reused = nil, nil
		fresh := bytesOf(t, tr, opt)
		opt.Like = like(t, before)
		opt.Reused = func(r squashfs.Reuse) {
			t.Logf("%+v", r)
			if r.Reason != "" {
				startedOver++
			}
		}
		before = bytesOf(t, tr, opt)
		if len(before) > len(fresh)*105/100 {
			t.Errorf("update %d: %d bytes, but %d alone", i, len(before), len(fresh))
		}
	}
	if startedOver > 3 {
		t.Errorf("%d of 8 updates started over", startedOver)
	}
}

// After the removal of many blocks, about as many move, and the file system is at most 5 % larger
// than without the earlier one.
func TestWriteLikeAfterRemoval(t *testing.T) {
	imagetest.NeedRoot(t)
	rng := rand.New(rand.NewPCG(13, 13))
	tr := tree.New(0)
	for i := range 200 {
		put(t, tr, fmt.Sprintf("usr/lib/%03d", i), file(text(rng, 66_000+rng.IntN(300_000))))
	}
	for i := range 2000 {
		put(t, tr, fmt.Sprintf("usr/share/%04d", i), file(text(rng, rng.IntN(3_000))))
	}
	opt := squashfs.Options{Compression: "zstd:1", BlockSize: 64 << 10}
	before := bytesOf(t, tr, opt)
	for i := range 2 {
		removed := map[string]bool{}
		for k := range 20 {
			removed[fmt.Sprintf("usr/lib/%03d", 10+30*i+k)] = true
		}
		for k := range 50 {
			removed[fmt.Sprintf("usr/share/%04d", 100+200*i+k)] = true
		}
		tr = tr.Without(func(path string) bool { return removed[path] })
		opt.Like, opt.Reused = nil, nil
		fresh := bytesOf(t, tr, opt)
		opt.Like = like(t, before)
		var reuse squashfs.Reuse
		opt.Reused = func(r squashfs.Reuse) { reuse = r }
		path, _ := write(t, tr, opt)
		now, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		_, written := newBlocks(before, now)
		t.Logf("removal %d: %d to %d bytes, %.2f %% of 4 KiB blocks are written; %+v", i, len(before), len(now), 100*written, reuse)
		if len(now) > len(fresh)*105/100 {
			t.Errorf("removal %d: %d bytes, but %d alone", i, len(now), len(fresh))
		}
		if most := 0.02 + 1.2*float64(len(before)-len(now))/float64(len(now)); reuse.Reason != "" || reuse.Moved == 0 || written > most {
			t.Errorf("removal %d: %.2f %% are written, the limit is %.2f %%; %+v", i, 100*written, 100*most, reuse)
		}
		want := describe(t, tr)
		same(t, "reader", want, read(t, path))
		sameMounted(t, tr, want, path)
		unsquash(t, want, path)
		before = now
	}
}

// The same tree again gives the same bytes, also after updates.
func TestWriteLikeItself(t *testing.T) {
	tr, paths := system(t, 6)
	opt := squashfs.Options{Compression: "zstd:1", BlockSize: 128 << 10}
	before := bytesOf(t, tr, opt)
	opt.Like = like(t, before)
	if again := bytesOf(t, tr, opt); !bytes.Equal(before, again) {
		t.Errorf("the same tree gives other bytes: %d and %d", len(before), len(again))
	}
	put(t, tr, paths[7], file("changed"))
	changed := bytesOf(t, tr, opt)
	opt.Like = like(t, changed)
	if again := bytesOf(t, tr, opt); !bytes.Equal(changed, again) {
		_, moved := newBlocks(changed, again)
		t.Errorf("after a change, the same tree gives other bytes: %.2f %% of the blocks", 100*moved)
	}
}

// An earlier file system that is of no use changes nothing, and the reason is reported.
func TestWriteLikeStartsOver(t *testing.T) {
	tr, _ := system(t, 7)
	opt := squashfs.Options{Compression: "zstd:3", BlockSize: 128 << 10}
	want := bytesOf(t, tr, opt)
	other, rng := tree.New(0), rand.New(rand.NewPCG(8, 8))
	for i := range 400 {
		put(t, other, fmt.Sprint(i), file(noise(rng, 200_000)))
	}
	put(t, other, "usr-lib", *tr.Lookup("usr/lib/3")) // far behind the start
	for name, test := range map[string]struct {
		opt    squashfs.Options
		tree   *tree.Tree
		reason string
	}{
		"block size":  {squashfs.Options{Compression: "zstd:3", BlockSize: 64 << 10}, tr, "it has blocks of 65536 bytes, not 131072"},
		"compression": {squashfs.Options{Compression: "lz4", BlockSize: 128 << 10}, tr, "it is compressed with lz4, not zstd"},
		"level":       {squashfs.Options{Compression: "zstd:1", BlockSize: 128 << 10}, tr, "it is compressed with another level than zstd:3"},
		"gaps":        {opt, other, "most of its blocks would move, so that gaps and unused parts take at most 4 %"},
	} {
		opt := opt
		var reuse squashfs.Reuse
		opt.Like = like(t, bytesOf(t, test.tree, test.opt))
		opt.Reused = func(r squashfs.Reuse) { reuse = r }
		if got := bytesOf(t, tr, opt); !bytes.Equal(got, want) {
			t.Errorf("%s: the bytes are not those without the earlier file system", name)
		}
		if len(reuse.Reason) < len(test.reason) || reuse.Reason[:len(test.reason)] != test.reason || reuse.Kept != 0 {
			t.Errorf("%s: %+v, want the reason %q", name, reuse, test.reason)
		}
	}
}

// A file system of other programs can be followed, too.
func TestWriteLikeMksquashfs(t *testing.T) {
	imagetest.NeedRoot(t)
	mksquashfs := imagetest.Need(t, "mksquashfs")
	tr, paths := system(t, 9)
	path, _ := write(t, tr, squashfs.Options{Compression: "lz4"})
	dir, out := t.TempDir()+"/root", t.TempDir()+"/theirs"
	imagetest.Run(t, "unsquashfs", "-no-progress", "-d", dir, path)
	imagetest.Run(t, mksquashfs, dir, out, "-comp", "zstd", "-b", "128K", "-no-progress", "-quiet")
	before, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	put(t, tr, paths[3], file("changed"))
	var reuse squashfs.Reuse
	opt := squashfs.Options{Compression: "zstd:15", BlockSize: 128 << 10, Like: like(t, before), Reused: func(r squashfs.Reuse) { reuse = r }}
	path, _ = write(t, tr, opt)
	if reuse.Kept < int64(len(before))/2 {
		t.Errorf("%+v of %d bytes", reuse, len(before))
	}
	want := describe(t, tr)
	same(t, "reader", want, read(t, path))
	sameMounted(t, tr, want, path)
	unsquash(t, want, path)
}

// A damaged earlier file system leads to an error or is not followed.
func TestWriteLikeDamaged(t *testing.T) {
	tr, _ := system(t, 10)
	want := describe(t, tr)
	failed, rng := 0, rand.New(rand.NewPCG(10, 10))
	for _, codec := range []string{"zstd:1", "lz4"} {
		opt := squashfs.Options{Compression: codec, BlockSize: 128 << 10}
		before := bytesOf(t, tr, opt)
		for range 5 {
			damaged := slices.Clone(before)
			at := rng.IntN(len(damaged) - 200)
			for i := range 200 {
				damaged[at+i] ^= 0x55
			}
			old, err := squashfs.Open(bytes.NewReader(damaged), int64(len(damaged)))
			if err != nil {
				continue
			}
			opt.Like = old
			f, err := os.Create(t.TempDir() + "/image")
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := squashfs.Write(t.Context(), f, tr, opt, nil); err != nil {
				failed++
				continue
			}
			same(t, "reader", want, read(t, f.Name()))
		}
	}
	t.Logf("%d of 10 ended with an error", failed)
}

// One flipped bit in the superblock, the tables or the data of the earlier file system leads to an
// error that names it, or to a file system with the right content.
func TestWriteLikeFlippedBits(t *testing.T) {
	unsquashfs := imagetest.Need(t, "unsquashfs")
	rng := rand.New(rand.NewPCG(13, 13))
	tr := tree.New(0)
	for i := range 60 {
		put(t, tr, fmt.Sprintf("small/%d", i), file(text(rng, 200+rng.IntN(3000))))
	}
	for i := range 8 {
		put(t, tr, fmt.Sprintf("large/%d", i), file(text(rng, 70_000+rng.IntN(200_000))))
	}
	opt := squashfs.Options{Compression: "zstd:3", BlockSize: 64 << 10}
	before := bytesOf(t, tr, opt)
	old := like(t, before).Summary()
	put(t, tr, "small/7", file(text(rng, 1000)))
	put(t, tr, "large/3", file(text(rng, 100_000)))
	want, dir := describe(t, tr), t.TempDir()
	tables := int(old.BytesUsed) - 3000
	failed, followed, over := 0, 0, 0
	for i := range 300 {
		at := rng.IntN(tables)
		switch {
		case i < 96:
			at = i
		case i < 240:
			at = tables + rng.IntN(3000)
		}
		damaged := slices.Clone(before)
		damaged[at] ^= 1 << rng.IntN(8)
		r, err := squashfs.Open(bytes.NewReader(damaged), int64(len(damaged)))
		if err != nil {
			failed++
			continue
		}
		f, err := os.Create(fmt.Sprintf("%s/%d", dir, i))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		opt.Like = r
		opt.Reused = func(r squashfs.Reuse) {
			if r.Reason == "" {
				followed++
			} else {
				over++
			}
		}
		if _, err := squashfs.Write(t.Context(), f, tr, opt, nil); err != nil {
			if _, ok := errors.AsType[*squashfs.LikeError](err); !ok {
				t.Errorf("byte %d: %v", at, err)
			}
			failed++
			continue
		}
		same(t, fmt.Sprintf("byte %d", at), want, read(t, f.Name()))
		if i%10 == 0 {
			imagetest.Run(t, unsquashfs, "-quiet", "-no-progress", "-d", fmt.Sprintf("%s/%d.files", dir, i), f.Name())
		}
	}
	t.Logf("%d errors, %d followed the earlier file system, %d did not", failed, followed, over)
	if failed < 50 || followed < 50 {
		t.Errorf("%d errors, %d followed the earlier file system: this tests too little", failed, followed)
	}
}

// A file system that is too large only in the layout of the earlier one is laid out without it, and
// nothing of the attempt remains behind its end.
func TestWriteLikeTooLarge(t *testing.T) {
	tr, paths := system(t, 12)
	rng := rand.New(rand.NewPCG(12, 12))
	opt := squashfs.Options{Compression: "zstd:1", BlockSize: 128 << 10}
	opt.Like = like(t, bytesOf(t, tr, opt))
	tr = tr.Without(nil)
	for range 10 {
		path := paths[4000+rng.IntN(len(paths)-4000)]
		put(t, tr, path, file(text(rng, int(tr.Lookup(path).Size())+500)))
	}
	plain := opt
	plain.Like = nil
	want, followed := bytesOf(t, tr, plain), bytesOf(t, tr, opt)
	if len(followed) <= len(want) {
		t.Fatalf("%d bytes like the earlier one, %d without: there is nothing to test", len(followed), len(want))
	}
	// Without room for the tables, and without room for some of them.
	for _, max := range []int{len(want), len(followed) - 4096} {
		f, err := os.Create(t.TempDir() + "/image")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		opt.Max = int64(max)
		var reuse []squashfs.Reuse
		opt.Reused = func(r squashfs.Reuse) { reuse = append(reuse, r) }
		size, err := squashfs.Write(t.Context(), f, tr, opt, nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(f.Name())
		if err != nil || size != int64(len(want)) || !bytes.Equal(got[:size], want) || len(got) > max || !image.IsZero(got[size:]) {
			t.Errorf("at most %d bytes: %d bytes in a file of %d, not those without the earlier file system: %v", max, size, len(got), err)
		}
		if len(reuse) != 1 || !strings.Contains(reuse[0].Reason, fmt.Sprintf("bytes in its layout do not fit in %d", max)) {
			t.Errorf("at most %d bytes: %+v", max, reuse)
		}
	}
	opt.Max = int64(len(want)) - 4096
	f, err := os.Create(t.TempDir() + "/image")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	opt.Reused = func(r squashfs.Reuse) { t.Errorf("%+v", r) }
	_, err = squashfs.Write(t.Context(), f, tr, opt, nil)
	if large, ok := errors.AsType[*squashfs.TooLargeError](err); !ok || large.Size != int64(len(want)) || large.Gaps == 0 {
		t.Errorf("%v, want %d bytes in %d", err, len(want), opt.Max)
	}
}
