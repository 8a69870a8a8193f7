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

// Kept ranges move only if the end is too great otherwise, those at the end first, and all of it is
// placed without overlaps.
func TestFit(t *testing.T) {
	kept := []space.Range{{Start: 4, End: 20}, {Start: 60, End: 80}, {Start: 100, End: 110}, {Start: 100, End: 110}, {Start: 120, End: 124}}
	for _, test := range []struct {
		most       int64
		to, starts []int64
		stay, end  int64
	}{
		{124, []int64{4, 60, 100, 100, 120}, []int64{112, 80}, 50, 124},
		{123, []int64{4, 60, 100, 100, 96}, []int64{80, 88}, 46, 110},
		{90, []int64{4, 60, 20, 20, 48}, []int64{32, 40}, 36, 80},
		{0, []int64{20, 36, 56, 56, 68}, []int64{4, 12}, 0, 72},
	} {
		s, to, starts := space.Fit(4, kept, []int64{7, 7}, next4, func(int64) int64 { return test.most })
		if !slices.Equal(to, test.to) || !slices.Equal(starts, test.starts) || s.Stay() != test.stay || s.End() != test.end {
			t.Errorf("most %d: %v, %v, %d stay, the end is %d", test.most, to, starts, s.Stay(), s.End())
		}
	}
}

func TestFitRandom(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 2))
		var kept []space.Range
		total := int64(0)
		for at := int64(48); at < 4000; at = next4(at + rng.Int64N(200)) {
			n := 1 + rng.Int64N(90)
			kept = append(kept, space.Range{Start: at, End: at + n})
			total += n
			at += n
		}
		lens := make([]int64, rng.IntN(20))
		for i := range lens {
			lens[i] = 1 + rng.Int64N(70)
			total += lens[i]
		}
		most := func(n int64) int64 { return 48 + n*110/100 }
		s, to, starts := space.Fit(48, kept, lens, next4, most)
		type place struct{ at, n int64 }
		var all []place
		stay := int64(0)
		for i, r := range kept {
			all = append(all, place{to[i], r.Len()})
			if to[i] == r.Start {
				stay++
			}
		}
		for i, at := range starts {
			all = append(all, place{at, lens[i]})
		}
		taken := map[int64]bool{}
		for _, p := range all {
			for k := p.at; k < p.at+p.n; k++ {
				if k < 48 || p.at%4 != 0 || taken[k] || k >= s.End() {
					t.Fatalf("seed %d: byte %d of %d bytes at %d; the end is %d", seed, k, p.n, p.at, s.End())
				}
				taken[k] = true
			}
		}
		if s.Used() != total || s.End() > most(total) {
			t.Errorf("seed %d: %d of %d bytes are used, the end is %d, at most %d", seed, s.Used(), total, s.End(), most(total))
		}
	}
}
