package space_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	"imgtool/image/squashfs/space"
)

func next4(n int64) int64 { return n + -n&3 }

func TestPlace(t *testing.T) {
	used := []space.Range{{Start: 30, End: 40}, {Start: 10, End: 20}, {Start: 12, End: 18}, {Start: 61, End: 70}}
	s := space.New(4, used, next4)
	if s.End() != 70 || s.Used() != 29 {
		t.Errorf("end %d, used %d", s.End(), s.Used())
	}
	// The gaps are 4 to 10, 20 to 30 and 40 to 61.
	got := s.Place([]int64{6, 9, 22, 3, 21, 1})
	if want := []int64{4, 20, 72, 96, 40, 100}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if s.End() != 101 || s.Used() != 29+62 {
		t.Errorf("end %d, used %d", s.End(), s.Used())
	}
}

// Nothing overlaps, and everything is aligned.
func TestPlaceRandom(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var used []space.Range
		for at := int64(50); at < 2000; at += rng.Int64N(100) {
			n := rng.Int64N(60)
			used = append(used, space.Range{Start: at, End: at + n})
		}
		lens := make([]int64, rng.IntN(40))
		for i := range lens {
			lens[i] = 1 + rng.Int64N(70)
		}
		taken := map[int64]bool{}
		for _, r := range used {
			for i := r.Start; i < r.End; i++ {
				taken[i] = true
			}
		}
		s := space.New(50, used, next4)
		for i, at := range s.Place(lens) {
			if at < 50 || at%4 != 0 || at+lens[i] > s.End() {
				t.Fatalf("seed %d: %d bytes at %d, the end is %d", seed, lens[i], at, s.End())
			}
			for k := at; k < at+lens[i]; k++ {
				if taken[k] {
					t.Fatalf("seed %d: byte %d is used twice", seed, k)
				}
				taken[k] = true
			}
		}
		if int64(len(taken)) != s.Used() {
			t.Fatalf("seed %d: %d bytes are used, Used returns %d", seed, len(taken), s.Used())
		}
	}
}
