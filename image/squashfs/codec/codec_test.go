package codec

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"

	kzstd "github.com/klauspost/compress/zstd"
)

func sample(rng *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = "the quick brown fox jumps over the lazy dog"[rng.IntN(1+i%43)]
		if rng.IntN(50) == 0 {
			b[i] = byte(rng.Uint32())
		}
	}
	return b
}

// The result of an encoder does not depend on what it compressed before; else the bytes
// would depend on which worker gets a block. It must also stay valid.
func TestEncodersAreStateless(t *testing.T) {
	// Frequent garbage collections reveal an encoder that is freed while it works.
	defer debug.SetGCPercent(debug.SetGCPercent(1))
	rng := rand.New(rand.NewPCG(1, 1))
	for _, name := range []string{"zstd", "zstd:1", "zstd:2", "zstd:3", "zstd:4", "zstd:6", "zstd:12", "zstd:16", "zstd:19", "zstd:22", "gzip", "gzip:1", "xz", "lz4", "lz4:9"} {
		c, level, err := Parse(name)
		if err != nil {
			continue // a level libzstd has
		}
		const block = 64 << 10
		used, err := c.NewEncoder(level, block)
		if err != nil {
			t.Fatal(err)
		}
		decode, err := c.NewDecoder(block)
		if err != nil {
			t.Fatal(err)
		}
		var before, kept []byte
		for i := range 12 {
			src := sample(rng, 1+rng.IntN(block))
			got, err := used(make([]byte, 2*block), src)
			if err != nil {
				t.Fatal(err)
			}
			fresh, _ := c.NewEncoder(level, block)
			want, err := fresh(make([]byte, 2*block), src)
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%s: block %d: a used encoder returns %d bytes, a new one %d, %v", name, i, len(got), len(want), err)
			}
			if !bytes.Equal(before, kept) {
				t.Fatalf("%s: a result changed during the next call", name)
			}
			before, kept = got, bytes.Clone(got)
			dst := make([]byte, block)
			if n, err := decode(dst, got); len(got) < len(src) && (err != nil || !bytes.Equal(dst[:n], src)) {
				t.Fatalf("%s: %d bytes decompress to %d, %v", name, len(src), n, err)
			}
			if n, err := decode(make([]byte, len(src)-1), got); err == nil && len(got) < len(src) {
				t.Fatalf("%s: %d bytes fit in %d", name, len(src), n)
			}
		}
	}
}

// The kernel refuses a zstd window larger than a block.
func TestZstdFrameHeaders(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 2))
	for level := 1; level <= zstdMax; level++ {
		for _, block := range []int{4096, 128 << 10, 1 << 20} {
			for _, klauspost := range []bool{false, true} {
				newEncoder := zstdEncoder
				if klauspost {
					newEncoder = klauspostZstd
				}
				if klauspost && level > 4 || level > 9 && block > 4096 && level%4 != 0 {
					continue
				}
				encode, err := newEncoder(level, block)
				if err != nil {
					t.Fatal(err)
				}
				for _, n := range []int{block, block - 1, block/2 + 1, 4096, 300} {
					src := sample(rng, n)
					out, err := encode(make([]byte, 2*block), src)
					if err != nil {
						t.Fatal(err)
					}
					var h kzstd.Header
					if err := h.Decode(out); err != nil {
						t.Fatal(err)
					}
					if !h.HasFCS || h.FrameContentSize != uint64(n) || h.HasCheckSum || !h.SingleSegment && h.WindowSize > uint64(block) || h.Skippable {
						t.Errorf("level %d, %d bytes of a block of %d: %+v", level, n, block, h)
					}
				}
			}
		}
	}
}

// Describe names the version of libzstd that is built in.
func TestLibraryVersions(t *testing.T) {
	for _, codec := range []string{"", "gzip", "xz", "lz4", "lz4:3"} {
		words, err := Describe(codec)
		if err != nil || !strings.HasPrefix(words, codec) || !strings.HasSuffix(words, ")") {
			t.Errorf("%q: %q, %v", codec, words, err)
		}
		t.Log(words)
	}
	if zstdMax != 22 {
		return
	}
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/DataDog/zstd").Output()
	if err != nil {
		t.Fatal(err)
	}
	header, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "zstd.h"))
	if err != nil {
		t.Fatal(err)
	}
	var version []string
	for _, part := range []string{"MAJOR", "MINOR", "RELEASE"} {
		_, rest, _ := strings.Cut(string(header), "#define ZSTD_VERSION_"+part)
		version = append(version, strings.Fields(rest)[0])
	}
	if want := "libzstd " + strings.Join(version, "."); zstdLibrary != want {
		t.Errorf("zstdLibrary is %s, want %s", zstdLibrary, want)
	}
}
