package squashfs

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"imgtool/image/tree/sums"
)

// Ends are compared by sketches: of the hashes of all runs of some 32 bytes in the
// first sketched bytes of one, the smallest few. The more of these two ends
// share, the more of their bytes they share.
const (
	sketched    = 64 << 10
	sketchLen   = 32
	sketchTotal = 2 << 20 // of the hashes of all ends together: with very many ends, fewer of each
	sketchMin   = 2
	alike       = 2  // shared hashes that make two ends alike
	lookBack    = 64 // how many ends before it an end is compared with, for each hash
)

// gear is a table of random numbers, those of SplitMix64.
var gear = func() (table [256]uint64) {
	x := uint64(0)
	for i := range table {
		x += 0x9e3779b97f4a7c15
		z := (x ^ x>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		table[i] = z ^ z>>31
	}
	return table
}()

// sketch adds the n smallest different hashes in b to s, which is empty.
func sketch(s []uint32, b []byte, n int) []uint32 {
	var h uint64
	most := ^uint32(0)
	if len(b) > 8*n {
		// All but surely there are n below this, and most of the others need not be
		// looked at.
		most = uint32(uint64(4*n) << 32 / uint64(len(b)))
	}
	for _, c := range b {
		// What a byte adds has left the upper half after 64 more, and most of it
		// after 32.
		h = h<<1 + gear[c]
		v := uint32(h >> 32)
		if v >= most {
			continue
		}
		i, found := slices.BinarySearch(s, v)
		if found {
			continue
		}
		if len(s) == n {
			s = s[:n-1]
		}
		s = slices.Insert(s, i, v)
		if len(s) == n {
			most = s[n-1]
		}
	}
	return s
}

// sketchGroup is how many ends a group has, about. The sketches of a group are kept
// together, and it is what their hashes begin with that puts ends in one: where one
// file changes, most groups stay as they were.
const sketchGroup = 128

// sketches are those of all ends, with room for so many hashes of each, and how many
// it has.
type sketches struct {
	each int
	all  []uint32
	lens []uint8
}

// of are the hashes of an end.
func (s *sketches) of(i int) []uint32 { return s.all[i*s.each : i*s.each+int(s.lens[i])] }

// sketch makes those of all ends.
func (p *plan) sketch(ctx context.Context, opt Options) (*sketches, error) {
	size := int64(opt.BlockSize)
	n := len(p.ends)
	each := sketchLen
	for each > sketchMin && n*each > sketchTotal {
		each /= 2
	}
	all, lens := make([]uint32, n*each), make([]uint8, n)
	// 1. The ends, group by group.
	shift := 32 - bits.Len(uint(n/sketchGroup))
	group := func(i int) uint32 {
		sum := sumOf(p.ends[i].piece(), size)
		return uint32(uint64(binary.BigEndian.Uint32(sum[:])) >> shift)
	}
	starts := make([]int32, 1<<(32-shift)+1)
	for i := range n {
		starts[group(i)+1]++
	}
	for i := range len(starts) - 1 {
		starts[i+1] += starts[i]
	}
	ends, at := make([]int32, n), slices.Clone(starts)
	for i := range n {
		g := group(i)
		ends[at[g]] = int32(i)
		at[g]++
	}

	// 2. The sketches of each group: those that are kept, or anew.
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for range opt.Workers {
		g.Go(func() error {
			buf := make([]byte, hashed(size))
			var data []byte
			for {
				i := int(next.Add(1) - 1)
				if i >= len(starts)-1 {
					return nil
				}
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				group := ends[starts[i]:starts[i+1]]
				key := p.sketchKey(group, each, size)
				if opt.Cache != nil {
					data = opt.Cache.Get(data, key)
					if takeSketches(data, group, each, all, lens) {
						continue
					}
				}
				data = data[:0]
				for _, i := range group {
					b, err := p.ends[i].begin(buf, size)
					if err != nil {
						return err
					}
					s := sketch(all[int(i)*each:int(i)*each:(int(i)+1)*each], b, each)
					lens[i] = uint8(len(s))
					data = appendTo(append(data, lens[i]), s)
				}
				if opt.Cache != nil && len(group) > 0 {
					opt.Cache.Put(key, data)
				}
			}
		})
	}
	return &sketches{each, all, lens}, g.Wait()
}

// begin is what is sketched of an end: so many bytes that it can be seen to be what
// was hashed, cut.
func (e *end) begin(buf []byte, size int64) ([]byte, error) {
	p := e.piece()
	p.len = min(p.len, len(buf))
	if err := p.read(buf[:p.len], size); err != nil {
		return nil, err
	}
	return buf[:min(p.len, sketched)], nil
}

// sketchKey puts a group in order, and is a hash of all that makes a difference to its
// sketches. The number in it counts up when sketch makes others than it did.
func (p *plan) sketchKey(group []int32, each int, size int64) [sha256.Size]byte {
	type summed struct {
		sum sums.Sum
		end int32
	}
	order := make([]summed, len(group))
	for i, e := range group {
		order[i] = summed{sumOf(p.ends[e].piece(), size), e}
	}
	slices.SortFunc(order, func(a, b summed) int {
		return cmp.Or(bytes.Compare(a.sum[:], b.sum[:]), cmp.Compare(p.ends[a.end].len, p.ends[b.end].len))
	})
	rec := fmt.Appendf(nil, "squashfs sketches 1\n%d %d\n", sketched, each)
	for i, s := range order {
		group[i] = s.end
		rec = append(appendTo(rec, p.ends[s.end].len), s.sum[:]...)
	}
	return sha256.Sum256(rec)
}

// takeSketches takes those of a group from what was kept, if it is of so many.
func takeSketches(data []byte, group []int32, each int, all []uint32, lens []uint8) bool {
	for _, i := range group {
		if len(data) == 0 || int(data[0]) > each || len(data) < 1+4*int(data[0]) {
			return false
		}
		lens[i] = data[0]
		for k := range int(lens[i]) {
			all[int(i)*each+k] = binary.LittleEndian.Uint32(data[1+4*k:])
		}
		data = data[1+4*int(lens[i]):]
	}
	return len(group) > 0 && len(data) == 0
}

// before is for each hash in all where it was last before, in another end, or -1.
func (s *sketches) before() []int32 {
	last := make(map[uint32]int32, len(s.all))
	before := make([]int32, len(s.all))
	for i := range s.lens {
		for k, h := range s.of(i) {
			at := i*s.each + k
			before[at] = -1
			if was, ok := last[h]; ok {
				before[at] = was
			}
			last[h] = int32(at)
		}
	}
	return before
}

// byLikeness is an order of all ends in which those that are alike are near one
// another, and else near those of the same folder. Each is put behind the end
// before it that it shares most with; so where one file changes, few others move.
func (s *sketches) byLikeness() []int32 {
	n, each := len(s.lens), s.each
	before := s.before()

	// The end behind which each is put, and a list of those behind each.
	const none = -1
	first, last, sibling := make([]int32, n), make([]int32, n), make([]int32, n)
	for i := range first {
		first[i], last[i], sibling[i] = none, none, none
	}
	root := make([]bool, n)
	shared := make([]uint8, n)
	var seen []int32
	for i := range n {
		seen = seen[:0]
		for k := range int(s.lens[i]) {
			at := before[i*each+k]
			for back := 0; at >= 0 && back < lookBack; back++ {
				end := at / int32(each)
				if shared[end] == 0 {
					seen = append(seen, end)
				}
				shared[end]++
				at = before[at]
			}
		}
		best, most := int32(none), uint8(alike-1)
		for _, j := range seen {
			if shared[j] > most || shared[j] == most && best >= 0 && j > best {
				best, most = j, shared[j]
			}
			shared[j] = 0
		}
		if best < 0 {
			root[i] = true
			continue
		}
		if first[best] < 0 {
			first[best] = int32(i)
		} else {
			sibling[last[best]] = int32(i)
		}
		last[best] = int32(i)
	}

	order := make([]int32, 0, n)
	var stack []int32
	for i := range n {
		if !root[i] {
			continue
		}
		stack = append(stack, int32(i))
		for len(stack) > 0 {
			at := stack[len(stack)-1]
			stack = stack[:len(stack)-1]
			order = append(order, at)
			// What is behind an end comes before the one beside it.
			if at != int32(i) && sibling[at] >= 0 {
				stack = append(stack, sibling[at])
			}
			if first[at] >= 0 {
				stack = append(stack, first[at])
			}
		}
	}
	return order
}
