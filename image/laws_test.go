package image_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"imgtool/image"
	"imgtool/image/imagetest"
)

// randomImage returns an image of random extents, some of them images, and the bytes it
// should read as.
func randomImage(r *rand.Rand, size, depth int) (*image.Image, []byte) {
	painted := make([]byte, size)
	var extents []image.Extent
	for at := 0; at < size; {
		at += r.IntN(size/3 + 1)
		n := r.IntN(size/3+1) + 1
		if at+n > size {
			break
		}
		e := image.Extent{Name: fmt.Sprint("e", len(extents)), Off: int64(at)}
		switch {
		case depth > 0 && r.IntN(3) == 0:
			inner, data := randomImage(r, n, depth-1)
			e.Content = inner
			copy(painted[at:], data)
		case r.IntN(4) == 0:
			e.Content = image.Zeros(int64(n))
		default:
			data := make([]byte, n)
			for i := range data {
				data[i] = byte(r.Uint32())
			}
			e.Content = bytes.NewReader(data)
			copy(painted[at:], data)
		}
		extents = append(extents, e)
		at += n
	}
	r.Shuffle(len(extents), func(i, j int) { extents[i], extents[j] = extents[j], extents[i] })
	m, err := image.New(int64(size), extents...)
	if err != nil {
		panic(err)
	}
	return m, painted
}

// each calls f with 300 random images.
func each(t *testing.T, f func(t *testing.T, r *rand.Rand, m *image.Image, painted []byte)) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		size := 1 + r.IntN(200_000)
		m, painted := randomImage(r, size, 3)
		f(t, r, m, painted)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// disk is a disk in memory.
type disk []byte

func (d disk) WriteAt(p []byte, off int64) (int, error) { return copy(d[off:], p), nil }
func (d disk) ReadAt(p []byte, off int64) (int, error) {
	n := copy(p, d[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func TestReadAtReadsExtentsAndZeros(t *testing.T) {
	each(t, func(t *testing.T, r *rand.Rand, m *image.Image, painted []byte) {
		all := make([]byte, len(painted))
		if n, err := m.ReadAt(all, 0); n != len(all) || err != nil {
			t.Fatalf("reading all: %d of %d, %v", n, len(all), err)
		}
		if !bytes.Equal(all, painted) {
			t.Error("the whole differs")
		}
		for range 20 {
			off := r.IntN(len(painted))
			p := bytes.Repeat([]byte{0x55}, r.IntN(len(painted)))
			n, err := m.ReadAt(p, int64(off))
			want := painted[off:min(len(painted), off+len(p))]
			if !bytes.Equal(p[:n], want) {
				t.Errorf("%d bytes at %d differ", len(p), off)
			}
			if (err == io.EOF) != (n < len(p)) || err != nil && err != io.EOF {
				t.Errorf("%d bytes at %d of %d: %d, %v", len(p), off, len(painted), n, err)
			}
		}
		leaves := make([]byte, len(painted))
		last := int64(0)
		for e := range m.Extents() {
			if e.Off < last {
				t.Errorf("%s at %d comes after %d", e.Name, e.Off, last)
			}
			last = e.End()
			io.ReadFull(io.NewSectionReader(e, 0, e.Size()), leaves[e.Off:e.End()])
		}
		if !bytes.Equal(leaves, painted) {
			t.Error("the leaves differ")
		}
	})
}

func TestWriteToADirtyDiskChangesOnlyContent(t *testing.T) {
	imagetest.Long(t)
	each(t, func(t *testing.T, r *rand.Rand, m *image.Image, painted []byte) {
		size := int64(image.Block * (1 + r.IntN(4)))
		blank, dirty := make(disk, len(painted)), disk(bytes.Repeat([]byte{0xAA}, len(painted)))
		for _, d := range []disk{blank, dirty} {
			manifest, err := image.Write(t.Context(), d, m.Chunks(size), nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := image.Verify(t.Context(), d, manifest, nil); err != nil {
				t.Error(err)
			}
		}
		if !bytes.Equal(blank, painted) {
			t.Error("a blank disk is not the image")
		}
		// Content is rounded out to blocks, and there the image holds.
		in := make([]bool, len(painted))
		var n int64
		for e := range m.Extents() {
			for i := e.Off / image.Block * image.Block; i < min(m.Size(), (e.End()+image.Block-1)/image.Block*image.Block); i++ {
				if !in[i] {
					n++
				}
				in[i] = true
			}
		}
		if n != m.ContentSize() {
			t.Errorf("content is %d bytes, said to be %d", n, m.ContentSize())
		}
		for i := range dirty {
			want := byte(0xAA)
			if in[i] {
				want = painted[i]
			}
			if dirty[i] != want {
				t.Fatalf("byte %d of the dirty disk is %#x, not %#x", i, dirty[i], want)
			}
		}
	})
}

func TestChunksAreAlignedAndInOrder(t *testing.T) {
	each(t, func(t *testing.T, r *rand.Rand, m *image.Image, painted []byte) {
		size := int64(image.Block * (1 + r.IntN(4)))
		last := int64(0)
		for c, err := range m.Chunks(size) {
			end := c.Off + int64(len(c.Data))
			switch {
			case err != nil:
				t.Fatal(err)
			case c.Off%image.Block != 0, end%image.Block != 0 && end != m.Size():
				t.Errorf("chunk %d to %d is not aligned", c.Off, end)
			case c.Off/size != (end-1)/size:
				t.Errorf("chunk %d to %d crosses a multiple of %d", c.Off, end, size)
			case c.Off < last:
				t.Errorf("chunk %d to %d comes after %d", c.Off, end, last)
			}
			last = end
		}
	})
}

func TestFlippedBitIsFoundAtItsOffset(t *testing.T) {
	imagetest.Long(t)
	each(t, func(t *testing.T, r *rand.Rand, m *image.Image, painted []byte) {
		var spans []image.Span
		for s := range m.Spans() {
			spans = append(spans, s)
		}
		if len(spans) == 0 {
			return
		}
		d := make(disk, len(painted))
		manifest, err := image.Write(t.Context(), d, m.Chunks(image.Block), nil)
		if err != nil {
			t.Fatal(err)
		}
		sums, err := image.Sum(t.Context(), m, nil)
		if err != nil {
			t.Fatal(err)
		}
		s := spans[r.IntN(len(spans))]
		at := s.Off + r.Int64N(s.Len)
		d[at] ^= 1 << r.IntN(8)

		var wrong *image.MismatchError
		for _, m := range []*image.Manifest{manifest, sums.Pieces} {
			if err := image.Verify(t.Context(), d, m, nil); !errors.As(err, &wrong) {
				t.Fatalf("a flipped bit at %d: %v", at, err)
			}
			if at < wrong.Off || at >= wrong.Off+wrong.Len {
				t.Errorf("a flipped bit at %d found at %d+%d", at, wrong.Off, wrong.Len)
			}
		}
		if err := image.Compare(t.Context(), d, m.Chunks(image.PieceSize), nil); !errors.As(err, &wrong) || wrong.Off != at || wrong.Len != 1 {
			t.Errorf("a flipped bit at %d: %v", at, err)
		}
		inLeaf := false
		for e := range m.Extents() {
			inLeaf = inLeaf || e.Off <= at && at < e.End()
		}
		if err := image.Verify(t.Context(), d, sums.Extents, nil); (err != nil) != inLeaf {
			t.Errorf("a flipped bit at %d by leaves: %v", at, err)
		}
	})
}

// Extents are split at piece boundaries, and every hash is correct.
func TestSumHashesExtentsAndPieces(t *testing.T) {
	cut := 0
	for seed := range uint64(12) {
		r := rand.New(rand.NewPCG(seed, 2))
		m, painted := randomImage(r, 1+r.IntN(8*image.PieceSize), 2)
		d := make(disk, len(painted))
		done := int64(0)
		sums, err := image.WriteSum(t.Context(), d, m, func(n int64) { done += n })
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(d, painted) || done != m.ContentSize() {
			t.Errorf("seed %d: what is written is not the image, or %d bytes of %d", seed, done, m.ContentSize())
		}
		for _, list := range []*image.Manifest{sums.Extents, sums.Pieces} {
			for _, e := range list.Entries {
				if want := fmt.Sprintf("%x", sha256.Sum256(painted[e.Off:e.Off+e.Len])); e.SHA256 != want {
					t.Errorf("seed %d: %s at %d, %d bytes: %s, not %s", seed, e.Name, e.Off, e.Len, e.SHA256, want)
				}
				if e.Off/image.PieceSize != (e.Off+e.Len-1)/image.PieceSize {
					t.Errorf("seed %d: %s at %d, %d bytes, is of several pieces", seed, e.Name, e.Off, e.Len)
				}
			}
		}
		left := sums.Extents.Entries
		for e := range m.Extents() {
			for off := e.Off; off < e.End(); left = left[1:] {
				if len(left) == 0 || left[0].Off != off || left[0].Name != e.Name {
					t.Fatalf("seed %d: %s goes on at %d, not with %+v", seed, e.Name, off, left[:min(1, len(left))])
				}
				if off += left[0].Len; off < e.End() {
					cut++
				}
			}
		}
		if len(left) > 0 {
			t.Errorf("seed %d: %+v is of no extent", seed, left[0])
		}
	}
	if cut == 0 {
		t.Error("nothing was cut: that proves nothing")
	}
}

// broken fails to write from an offset on.
type broken struct {
	disk
	from  int64
	short bool
}

var errBroken = errors.New("input/output error")

func (b broken) WriteAt(p []byte, off int64) (int, error) {
	if end := off + int64(len(p)); end > b.from {
		n, _ := b.disk.WriteAt(p[:max(0, b.from-off)], off)
		if b.short {
			return n, nil
		}
		return n, errBroken
	}
	return b.disk.WriteAt(p, off)
}

func TestWriteReportsErrorsOfTheDisk(t *testing.T) {
	data := bytes.Repeat([]byte("data"), 10*image.Block)
	m, err := image.New(int64(len(data)), image.Extent{Name: "e", Content: bytes.NewReader(data)})
	if err != nil {
		t.Fatal(err)
	}
	for _, short := range []bool{false, true} {
		want := errBroken
		if short {
			want = io.ErrShortWrite
		}
		for from := int64(0); from < m.Size(); from += 1777 {
			_, err := image.Write(t.Context(), broken{make(disk, len(data)), from, short}, m.Chunks(image.Block), nil)
			var werr *image.WriteError
			if !errors.Is(err, want) || !errors.As(err, &werr) || werr.Off != from {
				t.Fatalf("failing from %d: %v", from, err)
			}
		}
	}
}

// rotten fails to read from an offset on.
type rotten struct {
	*bytes.Reader
	from int64
	err  error
}

func (r rotten) ReadAt(p []byte, off int64) (int, error) {
	if end := off + int64(len(p)); end > r.from {
		n, _ := r.Reader.ReadAt(p[:max(0, r.from-off)], off)
		return n, r.err
	}
	return r.Reader.ReadAt(p, off)
}

func TestContentThatEndsEarlyIsAnError(t *testing.T) {
	data := make([]byte, 10*image.Block)
	for _, cause := range []error{errBroken, io.EOF, nil} {
		m, err := image.New(1<<20, image.Extent{Name: "outer", Off: 4096, Content: must(image.New(1<<19,
			image.Extent{Name: "inner", Off: 512, Content: rotten{bytes.NewReader(data), 5000, cause}}))})
		if err != nil {
			t.Fatal(err)
		}
		_, err = image.Write(t.Context(), make(disk, 1<<20), m.Chunks(image.Block), nil)
		want := cause
		if cause != errBroken {
			want = io.ErrUnexpectedEOF
		}
		if !errors.Is(err, want) || !strings.Contains(err.Error(), "inner at 5000") {
			t.Errorf("%v gives %v", cause, err)
		}
		if _, err := image.Sum(t.Context(), m, nil); !errors.Is(err, want) {
			t.Errorf("%v gives %v when summed", cause, err)
		}
	}
}

func TestWriteStopsWhenCancelled(t *testing.T) {
	m := must(image.New(1<<20, image.Extent{Name: "z", Content: image.Zeros(1 << 20)}))
	ctx, cancel := context.WithCancel(t.Context())
	_, err := image.Write(ctx, make(disk, 1<<20), m.Chunks(image.Block), func(int64) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestNewRefusesOverlapsAndOverruns(t *testing.T) {
	z := image.Zeros
	for _, c := range []struct {
		name    string
		extents []image.Extent
		want    string
	}{
		{"overlap by one byte", []image.Extent{{"b", 9, z(5)}, {"a", 0, z(10)}}, "b (bytes 9 to 14) overlaps a (bytes 0 to 10)"},
		{"one inside another", []image.Extent{{"a", 0, z(10)}, {"b", 3, z(2)}}, "b (bytes 3 to 5) overlaps a (bytes 0 to 10)"},
		{"beyond the end", []image.Extent{{"a", 95, z(6)}}, "a: bytes 95 to 101 do not fit in an image of 100 bytes"},
		{"before the start", []image.Extent{{"a", -1, z(1)}}, "a: bytes -1 to 0 do not fit in an image of 100 bytes"},
		{"an offset that wraps", []image.Extent{{"a", 1<<63 - 1, z(1 << 62)}}, "do not fit"},
		{"touching", []image.Extent{{"b", 50, z(50)}, {"a", 0, z(50)}}, ""},
		{"empty ones anywhere inside", []image.Extent{{"a", 0, z(50)}, {"b", 20, z(0)}}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := image.New(100, c.extents...)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestOverlayReplacesRanges(t *testing.T) {
	each(t, func(t *testing.T, r *rand.Rand, m *image.Image, painted []byte) {
		patches, over := randomImage(r, len(painted), 1)
		var extents []image.Extent
		for e := range patches.Extents() {
			extents = append(extents, e)
			copy(painted[e.Off:], over[e.Off:e.End()])
		}
		got, err := m.Overlay(extents...)
		if err != nil {
			t.Fatal(err)
		}
		all := make([]byte, len(painted))
		if _, err := got.ReadAt(all, 0); err != nil || !bytes.Equal(all, painted) {
			t.Errorf("the whole differs (%v)", err)
		}
		// Nothing is content that was none, and nothing is lost.
		covered := func(m ...*image.Image) []bool {
			in := make([]bool, len(painted))
			for _, m := range m {
				for e := range m.Extents() {
					for i := e.Off; i < e.End(); i++ {
						in[i] = true
					}
				}
			}
			return in
		}
		if !reflect.DeepEqual(covered(got), covered(m, patches)) {
			t.Error("other bytes are content")
		}
	})
	m := must(image.New(100, image.Extent{Name: "e", Content: image.Zeros(100)}))
	if _, err := m.Overlay(image.Extent{Name: "p", Off: 95, Content: image.Zeros(6)}); err == nil {
		t.Error("a patch beyond the end is taken")
	}
}

func TestSubtract(t *testing.T) {
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 9))
		random := func() (spans []image.Span, in [100]bool) {
			for range r.IntN(6) {
				s := image.Span{Off: r.Int64N(90), Len: r.Int64N(11)}
				spans = append(spans, s)
				for i := s.Off; i < s.End(); i++ {
					in[i] = true
				}
			}
			return spans, in
		}
		a, inA := random()
		b, inB := random()
		var got [100]bool
		last := int64(-1)
		for _, s := range image.Subtract(a, b) {
			if s.Off < last || s.Len <= 0 {
				t.Errorf("seed %d: %v after %d", seed, s, last)
			}
			last = s.End()
			for i := s.Off; i < s.End(); i++ {
				got[i] = true
			}
		}
		for i := range got {
			if got[i] != (inA[i] && !inB[i]) {
				t.Fatalf("seed %d: byte %d of %v less %v", seed, i, a, b)
			}
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func FuzzNew(f *testing.F) {
	f.Add(int64(100), int64(0), int64(10), int64(9), int64(5))
	f.Add(int64(1)<<62, int64(1)<<61, int64(1)<<61, int64(0), int64(1)<<61)
	f.Fuzz(func(t *testing.T, size, off1, len1, off2, len2 int64) {
		m, err := image.New(size, image.Extent{Name: "a", Off: off1, Content: image.Zeros(len1)}, image.Extent{Name: "b", Off: off2, Content: image.Zeros(len2)})
		if err != nil {
			return
		}
		last := int64(0)
		for e := range m.Extents() {
			if e.Off < last || e.End() > m.Size() || e.End() < e.Off {
				t.Errorf("%s at %d to %d in %d, after %d", e.Name, e.Off, e.End(), m.Size(), last)
			}
			last = e.End()
		}
	})
}
