// Package space finds room for ranges between ranges that stay where they are.
package space

import (
	"cmp"
	"math"
	"slices"
	"sort"
)

// Range is the bytes from Start up to End.
type Range struct{ Start, End int64 }

// Len returns the number of bytes.
func (r Range) Len() int64 { return r.End - r.Start }

// Space is the bytes from some position on, of which some are used.
type Space struct {
	align func(int64) int64
	gaps  []gap // the smallest first
	end   int64 // of all that is used
	stay  int64 // bytes of the ranges that stay where they are
	used  int64 // bytes of all ranges
}

// gap is the room from start on, which is aligned.
type gap struct{ room, start int64 }

func (g gap) compare(h gap) int {
	return cmp.Or(cmp.Compare(g.room, h.room), cmp.Compare(g.start, h.start))
}

// New returns the space from first on without the used ranges, which may overlap. align
// returns the next position at which a range may begin.
func New(first int64, used []Range, align func(int64) int64) *Space {
	s := &Space{align: align, end: first}
	for _, r := range slices.SortedFunc(slices.Values(used), func(a, b Range) int { return cmp.Compare(a.Start, b.Start) }) {
		if start := align(s.end); r.Start > start {
			s.gaps = append(s.gaps, gap{r.Start - start, start})
		}
		s.used += max(0, r.End-max(r.Start, s.end))
		s.end = max(s.end, r.End)
	}
	s.stay = s.used
	slices.SortFunc(s.gaps, gap.compare)
	return s
}

// End returns the end of all that is used, Used the number of bytes that are used, and Stay those of
// them that are not placed.
func (s *Space) End() int64  { return s.end }
func (s *Space) Used() int64 { return s.used }
func (s *Space) Stay() int64 { return s.stay }

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
		k, _ := slices.BinarySearchFunc(s.gaps, gap{room: lens[i], start: math.MinInt64}, gap.compare)
		if k < len(s.gaps) {
			g := s.gaps[k]
			starts[i] = g.start
			s.gaps = slices.Delete(s.gaps, k, k+1)
			next := s.align(g.start + lens[i])
			if rest := (gap{g.start + g.room - next, next}); rest.room > 0 {
				k, _ = slices.BinarySearchFunc(s.gaps, rest, gap.compare)
				s.gaps = slices.Insert(s.gaps, k, rest)
			}
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

// Fit returns where ranges go: to has the start of each kept range, and starts those of the new
// ranges of these lengths, which are placed as Place does it. If that ends behind most(n), where
// n is the number of bytes that are used, the kept ranges with the greatest ends move, too, as few
// as are needed, or all. Equal kept ranges stay equal.
func Fit(first int64, kept []Range, lens []int64, align func(int64) int64, most func(n int64) int64) (s *Space, to, starts []int64) {
	ends := make([]int64, len(kept))
	for i, r := range kept {
		ends[i] = r.End
	}
	slices.Sort(ends)
	ends = slices.Compact(ends)
	try := func(bound int64) bool { // moves what ends at bound or behind it
		all := slices.Clone(lens)
		var stay []Range
		moved := map[Range]int{} // index in all
		for _, r := range kept {
			if r.End < bound {
				stay = append(stay, r)
			} else if _, ok := moved[r]; !ok {
				moved[r] = len(all)
				all = append(all, r.Len())
			}
		}
		s = New(first, stay, align)
		starts = s.Place(all)
		to = make([]int64, len(kept))
		for i, r := range kept {
			to[i] = r.Start
			if k, ok := moved[r]; ok {
				to[i] = starts[k]
			}
		}
		return s.end <= most(s.used)
	}
	// All ranges behind the limit have to move. More may not be better if they find no gap, so small
	// numbers are tried one by one.
	if fits := try(math.MaxInt64); !fits && len(ends) > 0 {
		limit := most(s.used)
		k := sort.Search(len(ends)-1, func(i int) bool { return ends[i] > limit })
		for n := 1; !try(ends[k]) && k > 0; n++ {
			k = max(0, k-1-n/16)
		}
	}
	return s, to, starts[:len(lens)]
}
