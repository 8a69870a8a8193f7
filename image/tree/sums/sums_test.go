package sums_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"imgtool/image"
	"imgtool/image/tree"
	"imgtool/image/tree/sums"
	"imgtool/image/tree/tarfs"
	"imgtool/image/tree/treetest"
)

// patchy has data in some of its blocks; of holes it may know.
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

// Every block of every file has its own hash, whoever knows of holes and whatever
// the number of workers; and the digest is the same for all.
func TestSumsAreThoseOfTheBlocks(t *testing.T) {
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
			told := int64(0)
			all, err := sums.Compute(t.Context(), tr, sums.Options{Block: block, Workers: workers, Progress: func(n int64) { told += n }})
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
						t.Fatalf("file %d, block %d: it is not known from what it is not", i, at/block)
					}
				}
			}
			if told != want {
				t.Errorf("told of %d bytes, not %d", told, want)
			}
			digests[treetest.Digest(t, tr)] = true
		}
	}
	if len(digests) != 1 {
		t.Errorf("%d digests of one tree", len(digests))
	}
}

// nothing is zeros as far as one can see.
type nothing struct{}

func (*nothing) Size() int64          { return 16 << 40 }
func (*nothing) Hole(off int64) int64 { return 16<<40 - off }
func (*nothing) ReadAt([]byte, int64) (int, error) {
	return 0, errors.New("zeros were read")
}

func TestAHoleCostsNothing(t *testing.T) {
	tr := tree.New(0)
	treetest.Must(t, tr.Put("hole", regular(&nothing{})))
	all, err := sums.Compute(t.Context(), tr, sums.Options{Block: 4096})
	treetest.Must(t, err)
	if _, zero := all.Of(tr.Lookup("hole")).Block(3 << 30); !zero {
		t.Error("no zeros there")
	}
}

// What is known of a file serves another tree that has it, and is not read again.
func TestSumsServeOtherTrees(t *testing.T) {
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
		t.Error("they are not there")
	}
	// Blocks of another size are others.
	if _, err := sums.Compute(t.Context(), other, sums.Options{Block: 8192, Known: known}); err != nil || a.read.Load() != 20_000 {
		t.Errorf("%v, %d bytes were read", err, a.read.Load())
	}
}

type short struct{ io.ReaderAt }

func (short) Size() int64 { return 9000 }

func TestAFileThatEndsEarlyIsNamed(t *testing.T) {
	tr := tree.New(0)
	treetest.Must(t, tr.Put("dir/file", regular(short{strings.NewReader(strings.Repeat("x", 5000))})))
	_, err := sums.Compute(t.Context(), tr, sums.Options{Block: 4096})
	if err == nil || err.Error() != "dir/file: reading at byte 5000: it ends there, but has a size of 9000 bytes: unexpected EOF" || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
}

// disk counts how often it is read and how many bytes, and cannot be from bad on.
type disk struct {
	*bytes.Reader
	reads, read atomic.Int64
	bad         int64
}

func (d *disk) ReadAt(b []byte, off int64) (int, error) {
	d.reads.Add(1)
	d.read.Add(int64(len(b)))
	if off+int64(len(b)) > d.bad {
		return 0, errors.New("the disk is old")
	}
	return d.Reader.ReadAt(b, off)
}

// Small files of a tar are read together, in whatever order they come, each is hashed as
// itself, and of one that cannot be read it is said which.
func TestSmallFilesOfATarAreReadTogether(t *testing.T) {
	const block, files = 4096, 400
	rng := rand.New(rand.NewPCG(9, 9))
	for round := range 5 {
		var contents [][]byte
		var disks []*disk
		var nodes []*tree.Inode
		for range 2 {
			var b bytes.Buffer
			w := tar.NewWriter(&b)
			for i := range files {
				data := make([]byte, 1+rng.IntN(block))
				if i%3 == 0 {
					data = make([]byte, block+1+rng.IntN(block*(1+i%2*5)))
				}
				for i := range data {
					data[i] = byte(rng.Uint32())
				}
				contents = append(contents, data)
				treetest.Must(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprint(i), Mode: 0o644, Size: int64(len(data))}))
				_, err := w.Write(data)
				treetest.Must(t, err)
			}
			treetest.Must(t, w.Close())
			d := &disk{Reader: bytes.NewReader(b.Bytes()), bad: math.MaxInt64}
			disks = append(disks, d)
			from, err := tarfs.Read(d, int64(b.Len()), 0, nil)
			treetest.Must(t, err)
			for i := range files {
				nodes = append(nodes, from.Lookup(fmt.Sprint(i)))
			}
			d.reads.Store(0)
			d.read.Store(0)
		}
		order := rng.Perm(len(nodes))
		if round < 3 {
			slices.Sort(order)
		}
		if round == 2 {
			for i := 1; i+1 < len(order); i += 3 {
				order[i], order[i+1] = order[i+1], order[i]
			}
		}
		all, small := tree.New(0), tree.New(0)
		for i, at := range order {
			treetest.Must(t, all.Put(fmt.Sprintf("%04d", i), nodes[at]))
			if nodes[at].Size() <= block {
				treetest.Must(t, small.Put(fmt.Sprintf("%04d", i), nodes[at]))
			}
		}
		got, err := sums.Compute(t.Context(), all, sums.Options{Block: block, Workers: 1 + round%2})
		treetest.Must(t, err)
		for at, data := range contents {
			for i := 0; i < len(data); i += block {
				if sum, _ := got.Of(nodes[at]).Block(int64(i / block)); sum != sums.Sum(sha256.Sum256(data[i:min(i+block, len(data))])) {
					t.Fatalf("round %d: block %d of file %d has the hash of something else", round, i/block, at)
				}
			}
		}
		if n := disks[0].reads.Load() + disks[1].reads.Load(); round < 2 && n > files*3/2 {
			t.Errorf("%d files were read %d times", 2*files, n)
		}
		if d := disks[0]; round < 2 && d.read.Load() > d.Size() {
			t.Errorf("of a tar of %d bytes, %d were read", d.Size(), d.read.Load())
		}
		disks[1].bad = disks[1].Size() / 2
		_, err = sums.Compute(t.Context(), small, sums.Options{Block: block, Workers: 1})
		if err == nil || !strings.HasSuffix(err.Error(), ": reading at byte 0: the disk is old") {
			t.Fatal(err)
		}
		first := slices.IndexFunc(order, func(at int) bool {
			_, err := nodes[at].Content.ReadAt(make([]byte, nodes[at].Size()), 0)
			return nodes[at].Size() <= block && err != nil
		})
		if name, _, _ := strings.Cut(err.Error(), ":"); name != fmt.Sprintf("%04d", first) {
			t.Errorf("round %d: %s cannot be read, it says: the first is %04d", round, name, first)
		}
	}
}
