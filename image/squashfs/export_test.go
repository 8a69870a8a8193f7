package squashfs

import (
	"context"
	"slices"

	"imgtool/image/tree"
	"imgtool/image/tree/sums"
)

// Plain has f write lz4 images that are not compressed, so that tests can change
// what is in them.
func Plain(f func()) {
	for i := range codecs {
		if c := &codecs[i]; c.name == "lz4" {
			was := c.encoder
			defer func() { c.encoder = was }()
			c.encoder = func(int, int) (encoder, error) {
				return func(_, src []byte) ([]byte, error) { return src, nil }, nil
			}
		}
	}
	f()
}

// ZstdMax is the highest level of zstd.
const ZstdMax = zstdMax

// Before is where each hash of sketches was before.
func Before(each int, all []uint32, lens []uint8) []int32 {
	return (&sketches{each, all, lens}).before()
}

// Twice is how many bytes are in a block of ends twice, by likeness, by path and as they
// are put together, as far as sketches tell.
func Twice(ctx context.Context, t *tree.Tree, block int64) (like, paths, taken float64, err error) {
	p, err := newPlan(t)
	if err != nil {
		return 0, 0, 0, err
	}
	known, err := sums.Compute(ctx, t, sums.Options{Block: hashed(block), Workers: 1})
	if err != nil {
		return 0, 0, 0, err
	}
	p.cut(known, block)
	s, err := p.sketch(ctx, Options{Workers: 1, BlockSize: int(block)})
	if err != nil {
		return 0, 0, 0, err
	}
	order := s.byLikeness()
	like = s.twice(p, p.fragments(order, block))
	slices.Sort(order)
	return like, s.twice(p, p.fragments(order, block)), s.twice(p, p.together(s, block)), nil
}
