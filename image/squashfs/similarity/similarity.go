// Package similarity puts contents in an order in which similar ones are near each other.
package similarity

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

// Similar contents near each other are in the same compressed block, which makes it
// smaller. (Broder, "On the resemblance and containment of documents", 1997.)
//
//   - A window hash is a hash of about 32 consecutive bytes: see sketch.
//   - The sketch of a content is the sketchLen smallest different window hashes of its
//     first Sketched bytes.
//   - The similarity of two contents is the number of hashes that both sketches have.
//   - The predecessor of a content is the earlier one with the greatest similarity, if
//     that is at least minSimilarity; the later of two that are equally similar. For
//     each hash, only the last lookBack contents that have it are considered.
//   - The order is a depth-first traversal of the forest of predecessors, in which
//     contents without a predecessor stay in their order.
//
// If one content changes, few others change their predecessors, so the order stays
// mostly the same.
const (
	Sketched      = 64 << 10 // bytes of each content that are considered
	sketchLen     = 32
	sketchTotal   = 2 << 20 // limit of all hashes: with very many contents, each has fewer
	sketchMin     = 2
	minSimilarity = 2
	lookBack      = 64
)

// gear is a table of random numbers, made with SplitMix64.
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

// sketch appends the n smallest different window hashes of b to s, which is empty.
//
// The hash at a byte is a gear hash: h = h<<1 + gear[byte], of which the upper half
// is used. A byte has most of its influence on that half for 32 bytes, and none
// after 64.
func sketch(s []uint32, b []byte, n int) []uint32 {
	var h uint64
	most := ^uint32(0)
	if len(b) > 8*n {
		// Almost certainly n hashes are below this limit, which saves the search for
		// most of the others.
		most = uint32(uint64(4*n) << 32 / uint64(len(b)))
	}
	for _, c := range b {
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

// Contents are the contents to put in order.
type Contents struct {
	Len int
	Key func(i int) Key
	// Start reads up to Sketched bytes from the start of a content. It may use buf,
	// which has Buffer bytes.
	Start  func(i int, buf []byte) ([]byte, error)
	Buffer int
}

// Key identifies a content.
type Key struct {
	Sum sums.Sum
	Len int32
}

// Options are the options of [Order].
type Options struct {
	Workers int
	Cache   sums.Store // of sketches; nil is none
}

// Order returns the indexes of contents in an order by similarity.
func Order(ctx context.Context, c Contents, opt Options) ([]int32, error) {
	s, err := sketchAll(ctx, c, opt)
	if err != nil {
		return nil, err
	}
	return s.order(), nil
}

// groupSize is about how many contents a group has. The sketches of a group are one
// entry of the cache. A content belongs to a group by its checksum, so a change to one
// changes one or two groups.
const groupSize = 128

type sketches struct {
	Contents
	keys []Key
	each int      // capacity of a sketch
	all  []uint32 // the sketch of content i begins at i*each
	lens []uint8  // lengths of the sketches
}

func (s *sketches) of(i int) []uint32 { return s.all[i*s.each : i*s.each+int(s.lens[i])] }

// sketchAll computes the sketches of all contents, or takes them from the cache.
func sketchAll(ctx context.Context, c Contents, opt Options) (*sketches, error) {
	n, each := c.Len, sketchLen
	for each > sketchMin && n*each > sketchTotal {
		each /= 2
	}
	s := &sketches{c, make([]Key, n), each, make([]uint32, n*each), make([]uint8, n)}
	for i := range s.keys {
		s.keys[i] = c.Key(i)
	}
	groups := s.groups()
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for range opt.Workers {
		g.Go(func() error {
			buf := make([]byte, c.Buffer)
			for {
				i := int(next.Add(1) - 1)
				if i >= len(groups) {
					return nil
				}
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				if err := s.sketchGroup(groups[i], buf, opt.Cache); err != nil {
					return err
				}
			}
		})
	}
	return s, g.Wait()
}

// groups divides the contents into groups by the first bits of their checksums. Empty
// groups are left out.
func (s *sketches) groups() [][]int32 {
	shift := 32 - bits.Len(uint(s.Len/groupSize))
	groups := make([][]int32, 1<<(32-shift))
	for i, k := range s.keys {
		at := uint64(binary.BigEndian.Uint32(k.Sum[:])) >> shift
		groups[at] = append(groups[at], int32(i))
	}
	return slices.DeleteFunc(groups, func(g []int32) bool { return len(g) == 0 })
}

// sketchGroup sets the sketches of one group.
func (s *sketches) sketchGroup(group []int32, buf []byte, cache sums.Store) error {
	key := s.sketchKey(group)
	if cache != nil && s.decode(cache.Get(nil, key), group) {
		return nil
	}
	var encoded []byte
	for _, i := range group {
		b, err := s.Start(int(i), buf)
		if err != nil {
			return err
		}
		from := int(i) * s.each
		hashes := sketch(s.all[from:from:from+s.each], b, s.each)
		s.lens[i] = uint8(len(hashes))
		encoded = append(encoded, s.lens[i])
		for _, h := range hashes {
			encoded = binary.LittleEndian.AppendUint32(encoded, h)
		}
	}
	if cache != nil {
		cache.Put(key, encoded)
	}
	return nil
}

// sketchKey sorts a group and returns a hash of everything that determines its
// sketches. The version in the hash must be incremented if sketch produces
// different hashes.
func (s *sketches) sketchKey(group []int32) [sha256.Size]byte {
	slices.SortFunc(group, func(a, b int32) int {
		x, y := &s.keys[a], &s.keys[b]
		return cmp.Or(bytes.Compare(x.Sum[:], y.Sum[:]), cmp.Compare(x.Len, y.Len))
	})
	rec := fmt.Appendf(nil, "squashfs sketches 1\n%d %d\n", Sketched, s.each)
	for _, i := range group {
		rec = binary.LittleEndian.AppendUint32(rec, uint32(s.keys[i].Len))
		rec = append(rec, s.keys[i].Sum[:]...)
	}
	return sha256.Sum256(rec)
}

// decode sets the sketches of a group from a cache entry: for each, a byte with its
// length, then its hashes. It reports whether the entry is complete.
func (s *sketches) decode(entry []byte, group []int32) bool {
	for _, i := range group {
		if len(entry) == 0 || int(entry[0]) > s.each || len(entry) < 1+4*int(entry[0]) {
			return false
		}
		s.lens[i] = entry[0]
		for k := range s.of(int(i)) {
			s.all[int(i)*s.each+k] = binary.LittleEndian.Uint32(entry[1+4*k:])
		}
		entry = entry[1+4*int(s.lens[i]):]
	}
	return len(entry) == 0
}

// previous returns, for each hash in s.all, the index of the same hash in the last
// earlier sketch that has it, or -1.
func (s *sketches) previous() []int32 {
	last := make(map[uint32]int32, len(s.all))
	previous := make([]int32, len(s.all))
	for i := range s.lens {
		for k, h := range s.of(i) {
			at := i*s.each + k
			previous[at] = -1
			if p, ok := last[h]; ok {
				previous[at] = p
			}
			last[h] = int32(at)
		}
	}
	return previous
}

// predecessors returns the most similar earlier content of each, or -1.
func (s *sketches) predecessors() []int32 {
	previous := s.previous()
	result := make([]int32, len(s.lens))
	similarity := make([]uint8, len(s.lens)) // to content i; zero but for candidates
	var candidates []int32
	for i := range s.lens {
		candidates = candidates[:0]
		for k := range s.of(i) {
			at := previous[i*s.each+k]
			for back := 0; at >= 0 && back < lookBack; back++ {
				j := at / int32(s.each)
				if similarity[j] == 0 {
					candidates = append(candidates, j)
				}
				similarity[j]++
				at = previous[at]
			}
		}
		best, most := int32(-1), uint8(minSimilarity)
		for _, j := range candidates {
			if similarity[j] > most || similarity[j] == most && j > best {
				best, most = j, similarity[j]
			}
			similarity[j] = 0
		}
		result[i] = best
	}
	return result
}

// order returns the contents in the order described above.
func (s *sketches) order() []int32 {
	n := len(s.lens)
	predecessors := s.predecessors()
	// Linked lists of the successors of each content, in order. Those without a
	// predecessor are the successors of n.
	first, next := make([]int32, n+1), make([]int32, n)
	for i := range first {
		first[i] = -1
	}
	for i := n - 1; i >= 0; i-- {
		p := predecessors[i]
		if p < 0 {
			p = int32(n)
		}
		next[i], first[p] = first[p], int32(i)
	}
	order := make([]int32, 0, n)
	stack := []int32{first[n]}
	for len(stack) > 0 {
		at := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if at < 0 {
			continue
		}
		order = append(order, at)
		stack = append(stack, next[at], first[at])
	}
	return order
}
