package sums_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"

	"imgtool/image"
	"imgtool/image/tree"
	"imgtool/image/tree/sums"
	"imgtool/image/tree/treetest"
)

// patchy is a file with blocks of zeros, which it reports as holes or not.
type patchy struct {
	data  []byte
	holes bool
	read  atomic.Int64
}

func (p *patchy) Size() int64 { return int64(len(p.data)) }
func (p *patchy) ReadAt(b []byte, off int64) (int, error) {
	n, err := bytes.NewReader(p.data).ReadAt(b, off)
	p.read.Add(int64(n))
	return n, err
}
func (p *patchy) Hole(off int64) int64 {
	n := int64(0)
	for p.holes && off+n < p.Size() && p.data[off+n] == 0 {
		n++
	}
	return n
}

func regular(c image.Content) *tree.Inode { return &tree.Inode{Mode: tree.Regular | 0o644, Content: c} }

// The checksums and the digest depend neither on whether the holes of a file are known
// nor on the number of workers.
func TestComputeHashesEveryBlock(t *testing.T) {
	const block = 512
	rng := rand.New(rand.NewPCG(8, 8))
	var files [][]byte
	for range 60 {
		data := make([]byte, rng.IntN(100*block))
		for i := 0; i < len(data); i += block {
			if n := rng.IntN(8); n < 5 {
				for j := i; j < min(i+block, len(data)); j++ {
					data[j] = byte(rng.Uint32())
				}
			}
		}
		files = append(files, data)
	}
	digests := map[string]bool{}
	for _, holes := range []bool{false, true} {
		for _, workers := range []int{1, 3} {
			tr := tree.New(0)
			for i, data := range files {
				treetest.Must(t, tr.Put(string(rune('a'+i)), regular(&patchy{data: data, holes: holes})))
			}
			reported := int64(0)
			all, err := sums.Compute(t.Context(), tr, sums.Options{Block: block, Workers: workers, Progress: func(n int64) { reported += n }})
			treetest.Must(t, err)
			want := int64(0)
			for i, data := range files {
				want += int64(len(data))
				f := all.Of(tr.Lookup(string(rune('a' + i))))
				for at := 0; at < len(data); at += block {
					b := data[at:min(at+block, len(data))]
					zero := len(bytes.Trim(b, "\x00")) == 0
					sum, isZero := f.Block(int64(at / block))
					if zero != isZero || !zero && sum != sums.Sum(sha256.Sum256(b)) {
						t.Fatalf("file %d, block %d, holes %v: %x %v", i, at/block, holes, sum, isZero)
					}
					other := bytes.Clone(b)
					other[rng.IntN(len(b))] ^= 1
					if !f.Same(int64(at/block), b) || f.Same(int64(at/block), other) {
						t.Fatalf("file %d, block %d: Same does not tell it from another block", i, at/block)
					}
				}
			}
			if reported != want {
				t.Errorf("progress reports %d bytes, want %d", reported, want)
			}
			digests[treetest.Digest(t, tr)] = true
		}
	}
	if len(digests) != 1 {
		t.Errorf("%d digests of one tree", len(digests))
	}
}

// nothing is a hole of 16 TiB that must not be read.
type nothing struct{}

func (*nothing) Size() int64          { return 16 << 40 }
func (*nothing) Hole(off int64) int64 { return 16<<40 - off }
func (*nothing) ReadAt([]byte, int64) (int, error) {
	return 0, errors.New("zeros were read")
}

func TestHolesAreNotRead(t *testing.T) {
	tr := tree.New(0)
	treetest.Must(t, tr.Put("hole", regular(&nothing{})))
	all, err := sums.Compute(t.Context(), tr, sums.Options{Block: 4096})
	treetest.Must(t, err)
	if _, zero := all.Of(tr.Lookup("hole")).Block(3 << 30); !zero {
		t.Error("block 3<<30 of a hole is not zero")
	}
}

// Checksums of a file are reused in another tree that has the same inode.
func TestKnownFilesAreNotRead(t *testing.T) {
	a, b := &patchy{data: []byte(strings.Repeat("a", 10_000))}, &patchy{data: []byte(strings.Repeat("b", 10_000))}
	tr := tree.New(0)
	treetest.Must(t, tr.Put("a", regular(a)))
	known, err := sums.Compute(t.Context(), tr, sums.Options{Block: 4096})
	treetest.Must(t, err)
	other := tr.Without(nil)
	treetest.Must(t, other.Put("dir/a", tr.Lookup("a")))
	treetest.Must(t, other.Put("b", regular(b)))
	both, err := sums.Compute(t.Context(), other, sums.Options{Block: 4096, Known: known})
	treetest.Must(t, err)
	if a.read.Load() != 10_000 || b.read.Load() != 10_000 {
		t.Errorf("%d and %d bytes were read", a.read.Load(), b.read.Load())
	}
	if both.Of(other.Lookup("b")) == nil || both.Of(other.Lookup("dir/a")) != known.Of(tr.Lookup("a")) {
		t.Error("checksums are missing or differ")
	}
	// Checksums of blocks of another size are of no use.
	if _, err := sums.Compute(t.Context(), other, sums.Options{Block: 8192, Known: known}); err != nil || a.read.Load() != 20_000 {
		t.Errorf("%v, %d bytes were read", err, a.read.Load())
	}
}

type short struct{ io.ReaderAt }

func (short) Size() int64 { return 9000 }

func TestShortFileIsNamed(t *testing.T) {
	tr := tree.New(0)
	treetest.Must(t, tr.Put("dir/file", regular(short{strings.NewReader(strings.Repeat("x", 5000))})))
	_, err := sums.Compute(t.Context(), tr, sums.Options{Block: 4096})
	if err == nil || err.Error() != "dir/file: reading at byte 5000: it ends there, but has a size of 9000 bytes: unexpected EOF" || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
}
