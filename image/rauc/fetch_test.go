package rauc_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"imgtool/image"
	"imgtool/image/cms/cmstest"
	"imgtool/image/rauc"
	"imgtool/image/squashfs"
	"imgtool/image/tree"
	"imgtool/image/verity"
)

// recorder is a file that keeps which of its blocks of 4 KiB were read.
type recorder struct {
	r    io.ReaderAt
	read map[int64]bool
}

func (r *recorder) ReadAt(b []byte, off int64) (int, error) {
	for at := off / verity.BlockSize; at*verity.BlockSize < off+int64(len(b)); at++ {
		r.read[at] = true
	}
	return r.r.ReadAt(b, off)
}

// fetched is what a device reads of a bundle, in bytes.
type fetched struct {
	needed int64 // blocks of the images that the device does not have
	index  int64 // block hash indexes
	all    int64 // with what they are read with, the tables of the squashfs and the hash tree
}

// fetch reads of a bundle what RAUC reads if the device has the images old, by the classes of their
// slots: the indexes, and each block that the device does not have. The kernel reads whole blocks of
// the squashfs, and the lowest level of the hash tree in units of 256 KiB. Its read-ahead is off, as
// docs/how-to/updates.md advises.
func fetch(t testing.TB, path string, old map[string]image.Content) (f fetched) {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{file, map[int64]bool{}}
	b, err := rauc.Open(r, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range b.Manifest.Images {
		index, err := b.File(i.Index())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := image.Head(index, index.Size()); err != nil {
			t.Fatal(err)
		}
		f.index += index.Size()
		have := map[[sha256.Size]byte]bool{sha256.Sum256(make([]byte, verity.BlockSize)): true}
		for _, sum := range sums(t, old[i.Class]) {
			have[sum] = true
		}
		c, err := b.File(i.File)
		if err != nil {
			t.Fatal(err)
		}
		// The bundle's own blocks are read without being recorded, to know which are new.
		plain, err := rauc.Open(file, info.Size())
		if err != nil {
			t.Fatal(err)
		}
		known, err := plain.File(i.File)
		if err != nil {
			t.Fatal(err)
		}
		block := make([]byte, verity.BlockSize)
		for n, sum := range sums(t, known) {
			if have[sum] {
				continue
			}
			have[sum] = true
			f.needed += verity.BlockSize
			if _, err := image.ReadFull(c, block, int64(n)*verity.BlockSize); err != nil {
				t.Fatal(err)
			}
		}
	}
	blocks := b.Payload / verity.BlockSize
	for at := range maps.Clone(r.read) {
		if at < blocks {
			hashes(r.read, at, blocks)
		}
	}
	f.all = int64(len(r.read)) * verity.BlockSize
	return f
}

// hashes adds the blocks of the hash tree behind blocks of data that are read with a block of data.
func hashes(read map[int64]bool, at, blocks int64) {
	var levels []int64
	for n := blocks; n > 1; {
		n = (n + 127) / 128
		levels = append(levels, n)
	}
	slices.Reverse(levels)
	start, end := blocks, blocks+verity.TreeSize(blocks*verity.BlockSize)/verity.BlockSize
	for i, n := range levels {
		up := int64(1)
		for range levels[i:] {
			up *= 128
		}
		hash := start + at/up
		if read[hash] = true; i == len(levels)-1 {
			for k := hash &^ 63; k <= min(hash|63, end-1); k++ {
				read[k] = true
			}
		}
		start += n
	}
}

func sums(t testing.TB, c image.Content) (all [][sha256.Size]byte) {
	t.Helper()
	b, err := image.Head(c, c.Size())
	if err != nil {
		t.Fatal(err)
	}
	for ; len(b) > 0; b = b[verity.BlockSize:] {
		all = append(all, sha256.Sum256(b[:verity.BlockSize]))
	}
	return all
}

// root returns a squashfs of 200 files, of which a share, in percent, is of another version.
func root(t testing.TB, share int, like *squashfs.Reader) image.Content {
	t.Helper()
	files := tree.New(1)
	for n := range 200 {
		b := random(byte(n), 100_000+1000*n)
		if n*37%100 < share {
			b = random(byte(n+1), len(b))
		}
		if err := files.Put(fmt.Sprintf("f%03d", n), &tree.Inode{Mode: tree.Regular | 0o644, Content: bytes.NewReader(b)}); err != nil {
			t.Fatal(err)
		}
	}
	file, err := os.Create(filepath.Join(t.TempDir(), "root"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	size, err := squashfs.Write(t.Context(), file, files, squashfs.Options{Compression: "zstd:1", Like: like}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return io.NewSectionReader(file, 0, size)
}

// aligned checks that a bundle has the blocks of 4 KiB of an image at multiples of 4 KiB.
func aligned(t testing.TB, path string, c image.Content, block int64) {
	t.Helper()
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	have := map[[sha256.Size]byte]bool{sha256.Sum256(make([]byte, verity.BlockSize)): true}
	for at := 0; at+verity.BlockSize <= len(file); at += verity.BlockSize {
		have[sha256.Sum256(file[at:at+verity.BlockSize])] = true
	}
	for n, sum := range sums(t, io.NewSectionReader(c, 0, c.Size()/block*block)) {
		if !have[sum] {
			t.Errorf("blocks of %d: block %d of the image is not in the bundle at a multiple of 4 KiB", block, n)
			return
		}
	}
}

// A device that has the previous version fetches few bytes besides the new blocks, the indexes and
// the hash tree.
func TestFetchedOfAnUpdate(t *testing.T) {
	signer := cmstest.Issue(t, cmstest.EC(t), nil, nil)
	old := root(t, 0, nil)
	like, err := squashfs.Open(old, old.Size())
	if err != nil {
		t.Fatal(err)
	}
	had := map[string]image.Content{"rootfs": old, "boot": bytes.NewReader(random(9, 4<<20))}
	for _, c := range []struct {
		share, block int
		most         float64 // times the new blocks and the indexes
	}{{2, 64 << 10, 1.43}, {5, 64 << 10, 1.15}, {20, 64 << 10, 1.06}, {20, 16 << 10, 1.03}} {
		opt := options(t, signer)
		opt.Squashfs.BlockSize = c.block
		opt.Manifest.Images[0].Adaptive = []string{rauc.BlockHashIndex}
		opt.Images = map[string]image.Content{"rootfs.squashfs": root(t, c.share, like), "boot.vfat": had["boot"]}
		path := create(t, opt)
		aligned(t, path, opt.Images["rootfs.squashfs"], int64(c.block))
		f := fetch(t, path, had)
		times := float64(f.all) / float64(f.needed+f.index)
		t.Logf("%d %% changed, blocks of %d: %+v, %.3f times the new blocks and the indexes", c.share, c.block, f, times)
		if times < 1 || times > c.most {
			t.Errorf("%d %% changed, blocks of %d: a device fetches %.3f times the new blocks and the indexes, want at most %.2f", c.share, c.block, times, c.most)
		}
	}
}
