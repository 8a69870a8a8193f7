//go:build cgo

package squashfs

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/DataDog/zstd"

	"imgtool/image/tree"
)

// What is declared of libzstd is what it has: but for the levels with a search of their
// own, a block is to the byte what the module's own Go code makes of it.
func TestLevelsAreThoseOfLibzstd(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 9))
	for _, size := range []int{1, 300, 9000, 100_000, 200_000, 1 << 20} {
		src := sample(rng, size)
		for level := 1; level <= zstdMax; level++ {
			if size > 9000 && level%3 != 1 {
				continue // they take long
			}
			encode, err := zstdEncoder(level, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			got, err := encode(nil, src)
			if err != nil {
				t.Fatal(err)
			}
			want, err := zstd.CompressLevel(nil, src, level)
			if err != nil {
				t.Fatal(err)
			}
			if level >= tunedFrom && level <= tunedTo {
				if len(got) > len(want)*107/100+20 {
					t.Errorf("level %d: %d of %d bytes, libzstd %d", level, len(got), size, len(want))
				}
			} else if !bytes.Equal(got, want) {
				t.Errorf("level %d: %d of %d bytes, libzstd %d", level, len(got), size, len(want))
			}
			back, err := zstd.Decompress(nil, got)
			if err != nil || !bytes.Equal(back, src) {
				t.Errorf("level %d: %d bytes do not come back: %v", level, size, err)
			}
		}
	}
}

// A tuned level may lose what the ends of files gain; where they gain too little, it is
// libzstd's own, or deeper where they gain next to nothing, with a cache that has the blocks of the tuned one too.
func TestWhatGainsLittleIsNotTuned(t *testing.T) {
	const size = 128 << 10
	rng := rand.New(rand.NewPCG(9, 1))
	src := sample(rng, 64*size)
	frames := func(level int) (all [][]byte) {
		for i := range 8 {
			frame, err := zstd.CompressLevel(nil, src[i*size:(i+1)*size], level)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, frame)
		}
		return all
	}
	// In blocks of 128 KiB, 9 looked through deeper is what 10 is.
	own, deeper := frames(9), frames(10)
	// Small files, of which each 64th is almost the same: more than a block apart.
	noise := func() []byte {
		b := make([]byte, 3000)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		return b
	}
	var kinds [][]byte
	for range 64 {
		kinds = append(kinds, noise())
	}
	alike := func(i int) []byte { return append(bytes.Clone(kinds[i%64]), byte(i), byte(i>>8)) }
	unlike := func(int) []byte { return noise() }
	blocks := allKept{}
	for _, c := range []struct {
		name   string
		n      int
		small  func(int) []byte
		large  int
		frames [][]byte
		want   int
	}{
		{"alike", 640, alike, 64, own, 0},
		{"none", 0, nil, 64, deeper, 8},
		{"unlike", 640, unlike, 64, own, 8},
		{"a few alike", 65, alike, 64, deeper, 8},
		{"alike again", 640, alike, 64, deeper, 0},
		{"all little", 640, alike, 24, deeper, 8},
	} {
		tr := tree.New(0)
		add := func(path string, b []byte) {
			if err := tr.Put(path, &tree.Inode{Mode: tree.Regular | 0o644, Content: bytes.NewReader(b)}); err != nil {
				t.Fatal(err)
			}
		}
		add("large", src[:c.large*size])
		for i := range c.n {
			add(fmt.Sprintf("small%03d", i), c.small(i))
		}
		out := &memory{}
		if _, err := Write(t.Context(), out, tr, Options{Compression: "zstd:9", BlockSize: size, Cache: blocks, Workers: 1}, nil); err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, frame := range c.frames {
			if bytes.Contains(out.b, frame) {
				n++
			}
		}
		if n != c.want {
			t.Errorf("%s: %d of 8 blocks of a large file are those of libzstd, not %d", c.name, n, c.want)
		}
	}
}

// Text is recognized by what is not in it.
func TestText(t *testing.T) {
	b := bytes.Repeat([]byte("a line of text\n"), 1000)
	if !text(b) || !text(nil) {
		t.Error("text is none")
	}
	b[5] = 0
	if !text(b) {
		t.Error("one zero makes text none")
	}
	for i := range 100 {
		b[i*10] = 0
	}
	if text(b) {
		t.Error("zeros are text")
	}
	rand.NewChaCha8([32]byte{1}).Read(b)
	if text(b) {
		t.Error("noise is text")
	}
}

// What looks as if it was compressed before is looked through to the end, in small
// blocks and large ones, tuned or not: libzstd's rows forget what lies in long stretches
// without a match.
func TestWhatIsPackedIsLookedThrough(t *testing.T) {
	rng := rand.NewChaCha8([32]byte{3})
	for _, size := range []int{100_000, 1 << 20} {
		// Noise, but for some bytes in 3,000 that were there before.
		src := make([]byte, size)
		rng.Read(src)
		repeated := 0
		for at := 20_000; at+3000 < size; at += 3000 {
			from := int(rng.Uint64() % uint64(at-3000))
			repeated += copy(src[at:at+150], src[from:])
		}
		if !packed(src) {
			t.Fatal("noise does not look packed")
		}
		for _, level := range []int{5, 8, 9, 10, 12} {
			for e := range efforts {
				encode, err := zstdWith(level, effort(e))
				if err != nil {
					t.Fatal(err)
				}
				got, err := encode(nil, src)
				if err != nil {
					t.Fatal(err)
				}
				if most := size - repeated*9/10; len(got) > most {
					t.Errorf("level %d, effort %d: %d of %d bytes, not %d at most", level, e, len(got), size, most)
				}
				if back, err := zstd.Decompress(nil, got); err != nil || !bytes.Equal(back, src) {
					t.Errorf("level %d, effort %d: %d bytes do not come back: %v", level, e, size, err)
				}
			}
		}
	}
	for name, b := range map[string][]byte{"text": bytes.Repeat([]byte("a line of text\n"), 1000), "little": make([]byte, 100), "zeros": make([]byte, 10_000)} {
		if packed(b) {
			t.Errorf("%s looks packed", name)
		}
	}
}

// allKept keeps all, for one worker.
type allKept map[[32]byte][]byte

func (c allKept) Get(_ []byte, key [32]byte) []byte { return c[key] }

func (c allKept) Put(key [32]byte, data []byte) { c[key] = append([]byte{}, data...) }

// memory is what was written.
type memory struct{ b []byte }

func (m *memory) WriteAt(b []byte, off int64) (int, error) {
	if end := int(off) + len(b); end > len(m.b) {
		m.b = append(m.b, make([]byte, end-len(m.b))...)
	}
	return copy(m.b[off:], b), nil
}
