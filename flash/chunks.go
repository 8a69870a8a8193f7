package flash

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"sync"

	"imgtool/image"
)

// near is the distance below which two places are written as one, in bytes: small
// scattered writes are slower than some more bytes. These are at most a joined share of
// the bytes that have to be written, so that a small change does not write much more.
const (
	near   = 256 << 10
	joined = 10
)

// differences returns the starts and ends of the ranges of blocks in which old differs
// from data. Ranges with less than near bytes between them are joined, the nearest first, up
// to the limit of joined.
func differences(data, old []byte) iter.Seq2[int, int] {
	type span struct{ start, end int }
	var all []span
	room := 0
	for at := 0; at < len(data); at += image.Block {
		to := min(at+image.Block, len(data))
		if bytes.Equal(data[at:to], old[at:to]) {
			continue
		}
		room += to - at
		if last := len(all) - 1; last >= 0 && all[last].end == at {
			all[last].end = to
		} else {
			all = append(all, span{at, to})
		}
	}
	room /= joined
	gap := func(i int) int { return all[i].start - all[i-1].end } // in front of range i
	order := make([]int, 0, len(all))
	for i := 1; i < len(all); i++ {
		order = append(order, i)
	}
	slices.SortStableFunc(order, func(i, k int) int { return cmp.Compare(gap(i), gap(k)) })
	join := map[int]bool{}
	for _, i := range order {
		if n := gap(i); n < near && n <= room {
			join[i] = true
			room -= n
		}
	}
	return func(yield func(int, int) bool) {
		for i := 0; i < len(all); {
			start, end := all[i].start, all[i].end
			for i++; join[i]; i++ {
				end = all[i].end
			}
			if !yield(start, end) {
				return
			}
		}
	}
}

func part(c image.Chunk, start, end int) image.Chunk {
	return image.Chunk{Off: c.Off + int64(start), Data: c.Data[start:end:end]}
}

// splitHead returns the parts of the chunks that are in the guard, and the rest, both from
// the end of the disk to its start.
func splitHead(head []image.Chunk) (tables, rest []image.Chunk) {
	for _, c := range head {
		n := int(max(0, min(int64(len(c.Data)), guard-c.Off)))
		if n > 0 {
			tables = append(tables, part(c, 0, n))
		}
		if n < len(c.Data) {
			rest = append(rest, part(c, n, len(c.Data)))
		}
	}
	descending := func(a, b image.Chunk) int { return cmp.Compare(b.Off, a.Off) }
	slices.SortFunc(tables, descending)
	slices.SortFunc(rest, descending)
	return tables, rest
}

// checked returns the chunks and appends their spans to seen. It fails at a chunk that starts
// before byte off.
func checked(chunks iter.Seq2[image.Chunk, error], off int64, seen *[]image.Span) iter.Seq2[image.Chunk, error] {
	return func(yield func(image.Chunk, error) bool) {
		if chunks == nil {
			return
		}
		for c, err := range chunks {
			if err == nil && c.Off < off {
				c, err = image.Chunk{}, fmt.Errorf("the image has content at byte %d, and the first %d bytes of the disk are reserved for partition tables and the in-progress record", c.Off, off)
			}
			if err == nil {
				*seen = append(*seen, image.Span{Off: c.Off, Len: int64(len(c.Data))})
			}
			if !yield(c, err) || err != nil {
				return
			}
		}
	}
}

// withoutWiped removes zeros in wiped spans from the chunks: these are on the disk and
// were read back.
func withoutWiped(chunks []image.Chunk, wipes []image.Span) []image.Chunk {
	var left []image.Chunk
	for _, c := range chunks {
		old := make([]byte, len(c.Data))
		for _, s := range image.Subtract(spansOf([]image.Chunk{c}), wipes) {
			for i := s.Off - c.Off; i < s.End()-c.Off; i++ {
				old[i] = ^c.Data[i] // unknown, so it counts as different
			}
		}
		at := len(left)
		for start, end := range differences(c.Data, old) {
			left = slices.Insert(left, at, part(c, start, end))
		}
	}
	return left
}

// checkOverlap returns an error if the head overlaps the body, which was already read back.
func checkOverlap(head []image.Chunk, body []image.Span) error {
	for _, h := range spansOf(head) {
		for _, s := range body {
			if h.Off < s.End() && s.Off < h.End() {
				return fmt.Errorf("the %d bytes of the boot area at byte %d overlap the %d bytes of content at byte %d", h.Len, h.Off, s.Len, s.Off)
			}
		}
	}
	return nil
}

func zeros(spans []image.Span) iter.Seq2[image.Chunk, error] {
	zero := make([]byte, 1<<20)
	return func(yield func(image.Chunk, error) bool) {
		for _, s := range spans {
			for at := s.Off; at < s.End(); at += int64(len(zero)) {
				if !yield(image.Chunk{Off: at, Data: zero[:min(s.End()-at, int64(len(zero)))]}, nil) {
					return
				}
			}
		}
	}
}

func each(chunks []image.Chunk) iter.Seq2[image.Chunk, error] {
	return func(yield func(image.Chunk, error) bool) {
		for _, c := range chunks {
			if !yield(c, nil) {
				return
			}
		}
	}
}

func one(c image.Chunk) iter.Seq2[image.Chunk, error] { return each([]image.Chunk{c}) }

func spansOf(chunks []image.Chunk) (spans []image.Span) {
	for _, c := range chunks {
		spans = append(spans, image.Span{Off: c.Off, Len: int64(len(c.Data))})
	}
	return spans
}

func totalLen(spans []image.Span) (n int64) {
	for _, s := range spans {
		n += s.Len
	}
	return n
}

// padded returns b with zeros up to a multiple of the block size.
func padded(b []byte) []byte {
	return append(slices.Clone(b), make([]byte, -len(b)&(image.Block-1))...)
}

func size(m *image.Manifest) int64 { return totalLen(spansIn(m)) }

func spansIn(m *image.Manifest) (spans []image.Span) {
	for _, e := range m.Entries {
		spans = append(spans, image.Span{Off: e.Off, Len: e.Len})
	}
	return spans
}

func zeroEntries(spans []image.Span) *image.Manifest {
	m := &image.Manifest{}
	sums := map[int]string{} // by length: nearly all are of the largest
	for c := range zeros(spans) {
		n := len(c.Data)
		if sums[n] == "" {
			sum := sha256.Sum256(c.Data)
			sums[n] = hex.EncodeToString(sum[:])
		}
		m.Entries = append(m.Entries, image.Entry{Off: c.Off, Len: int64(n), SHA256: sums[n]})
	}
	return m
}

func merge(a, b *image.Manifest) *image.Manifest {
	entries := slices.Concat(a.Entries, b.Entries)
	slices.SortFunc(entries, func(a, b image.Entry) int { return cmp.Compare(a.Off, b.Off) })
	return &image.Manifest{Entries: entries}
}

// sample returns the entries to read back.
func sample(m *image.Manifest, v Verify) *image.Manifest {
	if v == Full {
		return m
	}
	s := &image.Manifest{Size: m.Size}
	for i, e := range m.Entries {
		if v == Sampled && (i == 0 || i == len(m.Entries)-1 || rand.N(sampleOf) == 0) {
			s.Entries = append(s.Entries, e)
		}
	}
	return s
}

// locked returns a progress that several goroutines may use.
func locked(p image.Progress) image.Progress {
	var mu sync.Mutex
	return func(n int64) {
		mu.Lock()
		defer mu.Unlock()
		p.Add(n)
	}
}
