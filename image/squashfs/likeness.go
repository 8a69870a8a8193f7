package squashfs

import (
	"context"
	"slices"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// Ends are compared by sketches: of the hashes of all runs of some 32 bytes in the
// first sketched bytes of one, the smallest few. The more of these two ends
// share, the more of their bytes they share.
const (
	sketched    = 64 << 10
	sketchLen   = 32
	sketchTotal = 4 << 20 // of the hashes of all ends together: with very many ends, fewer of each
	sketchMin   = 4
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

// byLikeness is an order of all ends in which those that are alike are near one
// another, and else near those of the same folder. Each is put behind the end
// before it that it shares most with; so where one file changes, few others move.
func (p *plan) byLikeness(ctx context.Context, workers int) ([]int32, error) {
	n := len(p.ends)
	each := max(sketchMin, min(sketchLen, sketchTotal/max(1, n)))
	all := make([]uint32, n*each)
	lens := make([]uint8, n)
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for range workers {
		g.Go(func() error {
			buf := make([]byte, sketched)
			for {
				i := int(next.Add(1) - 1)
				if i >= n {
					return nil
				}
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				e := &p.ends[i]
				b := buf[:min(len(buf), int(e.len))]
				if err := e.node.read(b, e.piece().off); err != nil {
					return err
				}
				lens[i] = uint8(len(sketch(all[i*each:i*each:(i+1)*each], b, each)))
			}
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}

	// Where each hash stands, sorted by hash and then by end.
	table := make([]uint64, 0, n*each)
	for i := range n {
		for k, h := range all[i*each : i*each+int(lens[i])] {
			table = append(table, uint64(h)<<32|uint64(i*each+k))
		}
	}
	slices.Sort(table)
	position := make([]int32, n*each)
	for at, t := range table {
		position[uint32(t)] = int32(at)
	}

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
		for k := range int(lens[i]) {
			at := int(position[i*each+k])
			for j := at - 1; j >= 0 && j >= at-lookBack && table[j]>>32 == table[at]>>32; j-- {
				end := int32(table[j]) / int32(each)
				if shared[end] == 0 {
					seen = append(seen, end)
				}
				shared[end]++
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
	return order, nil
}
