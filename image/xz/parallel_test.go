package xz_test

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"imgtool/image/imagetest"
	"imgtool/image/xz"
)

// parallel decompresses b with the sizes in its index, within some memory.
func parallel(b []byte, memory int64) ([]byte, error) {
	p, err := xz.NewParallel(bytes.NewReader(b), xz.Options{MaxDict: xz.MaxDict, Memory: memory, Sizes: xz.ReadSizes(bytes.NewReader(b), int64(len(b)))})
	if err != nil {
		return nil, err
	}
	defer p.Close()
	return io.ReadAll(p)
}

// program returns data with code, text, noise and zeros.
func program(t testing.TB) []byte {
	t.Helper()
	data, err := os.ReadFile("/bin/bash")
	if err != nil {
		t.Fatal(err)
	}
	noise := make([]byte, 300_000)
	rand.NewChaCha8([32]byte{4}).Read(noise)
	return append(append(data, noise...), make([]byte, 5<<20)...)
}

// blocks are files of several blocks as xz writes them.
func blocks(t testing.TB, data []byte) map[string][]byte {
	t.Helper()
	file := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
	pack := func(args ...string) []byte {
		return []byte(imagetest.Run(t, "xz", append(args, "-c", file)...))
	}
	sized, listed := pack("-0", "-T2", "--block-size=200KiB"), pack("-0", "-T1", "--block-size=200KiB")
	return map[string][]byte{
		"one block":                  pack("-0", "-T1"),
		"sizes in the headers":       sized,
		"sizes in the index":         listed,
		"two streams and padding":    append(append(bytes.Clone(sized), make([]byte, 8)...), listed...),
		"SHA-256":                    pack("-0", "-T2", "--block-size=1MiB", "--check=sha256"),
		"CRC-32 and x86":             pack("-T2", "--block-size=300KiB", "--check=crc32", "--x86", "--lzma2=preset=0"),
		"no checks, ARM64 and delta": pack("-T1", "--block-size=300KiB", "--check=none", "--arm64", "--delta=dist=4", "--lzma2=preset=0"),
	}
}

func TestParallel(t *testing.T) {
	data := program(t)
	for name, b := range blocks(t, data) {
		want := data
		if name == "two streams and padding" {
			want = append(bytes.Clone(data), data...)
		}
		for _, memory := range []int64{1 << 30, 6 << 20, 4 << 20, 0} { // all at once, two, one beside the next, none
			if got, err := parallel(b, memory); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s with %d bytes of memory: %d bytes of %d, %v", name, memory, len(got), len(want), err)
			}
		}
	}
}

// A file that is cut or changed is an error, as for a Reader.
func TestParallelFindsDamage(t *testing.T) {
	imagetest.Long(t)
	data := program(t)[1<<20:][:1<<20]
	r := rand.New(rand.NewPCG(5, 5))
	for name, b := range blocks(t, data) {
		for range 25 {
			damaged := bytes.Clone(b)
			at := r.IntN(len(b))
			if r.IntN(2) == 0 {
				damaged = damaged[:at]
			} else {
				damaged[at] ^= 1 << r.IntN(8)
			}
			got, err := parallel(damaged, 1<<30)
			if err == nil && name != "no checks, ARM64 and delta" && !(name == "two streams and padding" && len(got) == len(data)) {
				t.Errorf("%s: a change of byte %d is not found", name, at)
			}
		}
	}
}

// Reading the start of a file starts no work on the rest of it, and Close ends all.
func TestParallelCloseEndsAllGoroutines(t *testing.T) {
	b := blocks(t, program(t))["sizes in the headers"]
	before := runtime.NumGoroutine()
	for _, n := range []int64{0, 1, 3 << 20} {
		p, err := xz.NewParallel(bytes.NewReader(b), xz.Options{MaxDict: xz.MaxDict, Memory: 1 << 30})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(io.Discard, p, n); err != nil {
			t.Fatal(err)
		}
		p.Close()
	}
	for range 18_000 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d goroutines, %d before", runtime.NumGoroutine(), before)
}

// A bomb of zeros whose header does not state a size does not take the memory of its content.
func TestParallelMemoryIsBounded(t *testing.T) {
	imagetest.Long(t)
	b := []byte(imagetest.Run(t, "sh", "-c", "head -c 1G /dev/zero | xz -0 -T1 -c"))
	p, err := xz.NewParallel(bytes.NewReader(b), xz.Options{MaxDict: xz.MaxDict, Memory: 64 << 20, Sizes: xz.ReadSizes(bytes.NewReader(b), int64(len(b)))})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	var most uint64
	buf := make([]byte, 32<<20)
	for {
		_, err := io.ReadFull(p, buf)
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		most = max(most, m.HeapInuse)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if most > 128<<20 {
		t.Errorf("%d MiB were in use", most>>20)
	}
}
