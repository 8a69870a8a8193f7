package sums_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"imgtool/image/tree"
	"imgtool/image/tree/sums"
	"imgtool/image/tree/treetest"
)

// store has one value, as Known needs no more.
type store struct {
	data []byte
	puts int
}

func (s *store) Get([]byte, [32]byte) []byte { return bytes.Clone(s.data) }

func (s *store) Put(_ [32]byte, data []byte) { s.data, s.puts = bytes.Clone(data), s.puts+1 }

// records is how many there are, all different and in order.
func (s *store) records(t *testing.T) int {
	t.Helper()
	all := slices.Collect(slices.Chunk(s.data, sums.RecordLen))
	for i := range all[:len(all)-1] {
		if bytes.Compare(all[i], all[i+1]) >= 0 {
			t.Fatalf("record %d of %d is not before the next", i, len(all))
		}
	}
	return len(all)
}

// filesOf is a tree of files with 1 to 5 blocks, some of zeros; those from changed on have
// other bytes in their last block.
func filesOf(t *testing.T, n, changed int) (tr *tree.Tree, blocks int) {
	rng := rand.New(rand.NewPCG(7, 7))
	tr = tree.New(0)
	for i := range n {
		b := make([]byte, rng.IntN(5*sums.BlockSize)+1)
		for j := range b {
			b[j] = byte(rng.Uint32())
		}
		if i%3 == 0 {
			clear(b[:min(len(b)-1, sums.BlockSize)])
		}
		if i >= changed {
			b[len(b)-1] ^= 1
		}
		for part := b; len(part) > 0; part = part[min(len(part), sums.BlockSize):] {
			if part := part[:min(len(part), sums.BlockSize)]; len(part) >= sums.MemoMin && len(bytes.Trim(part, "\x00")) > 0 {
				blocks++
			}
		}
		treetest.Must(t, tr.Put(fmt.Sprintf("f%03d", i), &tree.Inode{Mode: tree.Regular | 0o644, Content: bytes.NewReader(b)}))
	}
	return tr, blocks
}

// What is remembered is what would be found out, and only what is new is hashed.
func TestKnownBlocksAreNotHashed(t *testing.T) {
	s := &store{}
	digest := func(tr *tree.Tree) string {
		t.Helper()
		k := sums.OpenMemo(s)
		got, _, err := sums.Digest(t.Context(), tr, sums.Options{Memo: k})
		treetest.Must(t, err)
		k.Keep()
		return got
	}
	plain := func(tr *tree.Tree) string {
		t.Helper()
		got, _, err := sums.Digest(t.Context(), tr, sums.Options{})
		treetest.Must(t, err)
		return got
	}
	const files = 40
	tr, blocks := filesOf(t, files, files)
	want := plain(tr)
	for i := range 3 {
		if got := digest(tr); got != want {
			t.Fatalf("time %d: %s, and without %s", i, got, want)
		}
		if s.puts != 1 || s.records(t) != blocks {
			t.Fatalf("time %d: %d puts, %d records of %d blocks", i, s.puts, s.records(t), blocks)
		}
	}
	changed, _ := filesOf(t, files, files-3)
	if got := digest(changed); got != plain(changed) || got == want {
		t.Errorf("changed: %s, and without %s", got, plain(changed))
	}
	if s.puts != 2 || s.records(t) != blocks+3 {
		t.Errorf("after a change of 3 blocks of %d there are %d records", blocks, s.records(t))
	}
	// Equal blocks are one.
	more, equal := changed, bytes.Repeat([]byte{7}, 3*sums.BlockSize)
	treetest.Must(t, more.Put("equal", &tree.Inode{Mode: tree.Regular, Content: bytes.NewReader(equal)}))
	if digest(more); s.records(t) != blocks+4 {
		t.Errorf("3 equal blocks more make %d records of %d", s.records(t), blocks+3)
	}
	// It is what is remembered that is taken.
	wrong := &store{data: bytes.Clone(s.data)}
	for i := range s.records(t) {
		wrong.data[i*sums.RecordLen+32] ^= 1
	}
	if got, _, err := sums.Digest(t.Context(), tr, sums.Options{Memo: sums.OpenMemo(wrong)}); err != nil || got == want {
		t.Errorf("%s %v of records that are wrong", got, err)
	}
	// Those of other blocks are not.
	for i := range s.records(t) {
		wrong.data[i*sums.RecordLen+31] ^= 1
	}
	if got, _, err := sums.Digest(t.Context(), tr, sums.Options{Memo: sums.OpenMemo(wrong)}); err != nil || got != want {
		t.Errorf("%s %v of records of other blocks", got, err)
	}
	// What makes no sense is nothing.
	for _, cut := range []int{0, 1, 67, len(s.data) - 1} {
		cut := &store{data: s.data[:cut]}
		if got, _, err := sums.Digest(t.Context(), tr, sums.Options{Memo: sums.OpenMemo(cut)}); err != nil || got != want {
			t.Errorf("%s %v of %d bytes", got, err, len(cut.data))
		}
	}
}

// What is remembered does not grow without end: what was not used is forgotten.
func TestOnlySoMuchIsRemembered(t *testing.T) {
	defer func(n int) { *sums.MemoMax = n }(*sums.MemoMax)
	first, blocks := filesOf(t, 30, 30)
	*sums.MemoMax = blocks + blocks/5
	s := &store{}
	remembers := func(tr *tree.Tree) bool {
		t.Helper()
		puts := s.puts
		k := sums.OpenMemo(s)
		_, _, err := sums.Digest(t.Context(), tr, sums.Options{Memo: k})
		treetest.Must(t, err)
		k.Keep()
		if s.records(t) > *sums.MemoMax {
			t.Fatalf("%d records, not %d", s.records(t), *sums.MemoMax)
		}
		return s.puts == puts
	}
	// Those whose number is odd, or all, have other bytes.
	other := func(all bool, x byte) *tree.Tree {
		tr, i := tree.New(0), 0
		for path, n := range first.All() {
			if path == "" {
				continue
			}
			b := make([]byte, n.Size())
			n.Content.ReadAt(b, 0)
			if i++; all || i%2 == 1 {
				for j := range b {
					b[j] ^= x
				}
			}
			treetest.Must(t, tr.Put(path, &tree.Inode{Mode: n.Mode, Content: bytes.NewReader(b)}))
		}
		return tr
	}
	second, half := other(true, 0x55), other(false, 0xaa)
	if remembers(first) || !remembers(first) || remembers(second) || !remembers(second) || remembers(first) {
		t.Error("it remembers what it cannot, or not what it can")
	}
	if remembers(half) || !remembers(half) {
		t.Error("what was used of what it had is not remembered")
	}
	// What was used, and what is new, are too much together.
	*sums.MemoMax = blocks * 3 / 4
	s.data = nil
	remembers(first)
	remembers(half)
	// Of more than there is room for, some is.
	*sums.MemoMax, s.data = 10, nil
	remembers(first)
	remembers(second)
}
