package sums_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"hash/crc32"
	"math/rand/v2"
	"testing"

	"imgtool/image/tree"
	"imgtool/image/tree/sums"
	"imgtool/image/tree/treetest"
)

// store holds one value, as a Memo needs no more.
type store struct {
	data []byte
	puts int
}

func (s *store) Get([]byte, [32]byte) []byte { return bytes.Clone(s.data) }

func (s *store) Put(_ [32]byte, data []byte) { s.data, s.puts = bytes.Clone(data), s.puts+1 }

func (s *store) records() int { return len(s.data) / sums.MemoRecord }

// digestWith returns the digest of a tree with the memo of s, and saves the memo.
func digestWith(t *testing.T, tr *tree.Tree, s *store) string {
	t.Helper()
	m := sums.LoadMemo(s)
	got, _, err := sums.Digest(t.Context(), tr, sums.Options{Memo: m})
	treetest.Must(t, err)
	m.Save()
	return got
}

func TestMemoReplacesHashing(t *testing.T) {
	rng := rand.NewChaCha8([32]byte{7})
	data := make([]byte, 10*sums.BlockSize+sums.MemoMin-1) // the last block is too small to be remembered
	rng.Read(data)
	clear(data[sums.BlockSize:][:sums.BlockSize])
	tr := tree.New(0)
	treetest.Must(t, tr.Put("f", regular(bytes.NewReader(data))))
	want := treetest.Digest(t, tr)

	s := &store{}
	for i := range 3 {
		if got := digestWith(t, tr, s); got != want || s.puts != 1 || s.records() != 9 {
			t.Fatalf("run %d: digest %s, want %s; %d puts of %d records", i, got, want, s.puts, s.records())
		}
	}
	// The memo is used: wrong records give another digest.
	wrong := &store{data: bytes.Clone(s.data)}
	for i := range s.records() {
		wrong.data[i*sums.MemoRecord+32] ^= 1
	}
	if digestWith(t, tr, wrong) == want {
		t.Error("the memo is not used")
	}
	// Records of other blocks are not.
	for i := range s.records() {
		wrong.data[i*sums.MemoRecord] ^= 1
	}
	if got := digestWith(t, tr, wrong); got != want {
		t.Errorf("%s with records of other blocks, want %s", got, want)
	}
	// Nor is a value of another length.
	for _, n := range []int{0, 1, sums.MemoRecord - 1, len(s.data) - 1} {
		if got := digestWith(t, tr, &store{data: s.data[:n]}); got != want {
			t.Errorf("%s with a value of %d bytes, want %s", got, n, want)
		}
	}
	// A changed block is hashed and remembered.
	data[0] ^= 1
	want = treetest.Digest(t, tr)
	if got := digestWith(t, tr, s); got != want || s.puts != 2 || s.records() != 10 {
		t.Errorf("after a change: %s, want %s; %d puts, %d records", got, want, s.puts, s.records())
	}
	var none *sums.Memo
	none.Save()
}

// The memo keeps the blocks in use and drops others rather than grow beyond its limit.
func TestMemoIsBounded(t *testing.T) {
	block := func(i uint32) []byte {
		b := make([]byte, sums.MemoMin)
		binary.LittleEndian.PutUint32(b, i+1)
		return b
	}
	s := &store{}
	for i := range uint32(sums.MemoMax) {
		var r [sums.MemoRecord]byte
		binary.BigEndian.PutUint32(r[:], i)
		s.data = append(s.data, r[:]...)
	}
	m := sums.LoadMemo(s)
	for i := range uint32(100) {
		b := block(i)
		if sum, crc := m.Sum(b); sum != sha256.Sum256(b) || crc != crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) {
			t.Fatalf("block %d: %x %x", i, sum, crc)
		}
	}
	if m.Save(); s.records() != 100 {
		t.Errorf("%d records, want the 100 that were used", s.records())
	}
	m = sums.LoadMemo(s)
	m.Sum(block(100))
	if m.Save(); s.records() != 101 {
		t.Errorf("%d records, want 101: there is room for all", s.records())
	}
}
