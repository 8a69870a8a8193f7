// Package space finds room for ranges between ranges that stay where they are.
package space

import (
	"cmp"
	"slices"
)

// Range is the bytes from Start up to End.
type Range struct{ Start, End int64 }

// Space is the bytes from some position on, of which some are used.
type Space struct {
	align func(int64) int64
	gaps  []Range
	end   int64 // of all that is used
	used  int64 // bytes
}

// New returns the space from first on without the used ranges, which may overlap. align
// returns the next position at which a range may begin.
func New(first int64, used []Range, align func(int64) int64) *Space {
	s := &Space{align: align, end: first}
	for _, r := range slices.SortedFunc(slices.Values(used), func(a, b Range) int { return cmp.Compare(a.Start, b.Start) }) {
		if r.Start > s.end {
			s.gaps = append(s.gaps, Range{s.end, r.Start})
		}
		s.used += max(0, r.End-max(r.Start, s.end))
		s.end = max(s.end, r.End)
	}
	return s
}

// End returns the end of all that is used, and Used the number of bytes that are used.
func (s *Space) End() int64  { return s.end }
func (s *Space) Used() int64 { return s.used }

// Place returns where ranges of these lengths go. The longest is placed first, in the
// smallest gap with room for it. Those without a gap go behind the end, in their order.
func (s *Space) Place(lens []int64) []int64 {
	starts := make([]int64, len(lens))
	order := make([]int, len(lens))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(lens[b], lens[a]) })
	for _, i := range order {
		starts[i] = -1
		if g := s.smallest(lens[i]); g >= 0 {
			starts[i] = s.align(s.gaps[g].Start)
			s.gaps[g].Start = starts[i] + lens[i]
		}
	}
	for i, n := range lens {
		if s.used += n; starts[i] < 0 {
			starts[i] = s.align(s.end)
			s.end = starts[i] + n
		}
	}
	return starts
}

// smallest returns the index of the smallest gap with room for n bytes, or -1.
func (s *Space) smallest(n int64) int {
	best, least := -1, int64(0)
	for i, g := range s.gaps {
		if room := g.End - s.align(g.Start); room >= n && (best < 0 || room < least) {
			best, least = i, room
		}
	}
	return best
}
