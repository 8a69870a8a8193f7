package image

import (
	"cmp"
	"slices"
)

// Span is a range of bytes.
type Span struct{ Off, Len int64 }

// End returns the offset of the first byte after s.
func (s Span) End() int64 { return s.Off + s.Len }

// Subtract returns the ranges of a that no span of b covers, in order. Ranges that overlap
// or touch are merged.
func Subtract(a, b []Span) []Span {
	byPlace := func(s []Span) []Span {
		return slices.SortedFunc(slices.Values(s), func(x, y Span) int { return cmp.Compare(x.Off, y.Off) })
	}
	var joined []Span
	for _, s := range byPlace(a) {
		if n := len(joined); n > 0 && s.Off <= joined[n-1].End() {
			joined[n-1].Len = max(joined[n-1].End(), s.End()) - joined[n-1].Off
		} else if s.Len > 0 {
			joined = append(joined, s)
		}
	}
	var left []Span
	b = byPlace(b)
	for _, s := range joined {
		for _, t := range b {
			if t.End() <= s.Off || t.Len <= 0 {
				continue
			}
			if t.Off >= s.End() {
				break
			}
			if t.Off > s.Off {
				left = append(left, Span{s.Off, t.Off - s.Off})
			}
			s = Span{t.End(), max(0, s.End()-t.End())}
		}
		if s.Len > 0 {
			left = append(left, s)
		}
	}
	return left
}
