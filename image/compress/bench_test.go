package compress_test

import (
	"io"
	"os"
	"testing"

	"imgtool/image/compress"
	"imgtool/image/xz"
)

// BenchmarkDecompress decompresses the file BENCH_PACKED as images are decompressed.
func BenchmarkDecompress(b *testing.B) {
	path := os.Getenv("BENCH_PACKED")
	if path == "" {
		b.Skip("BENCH_PACKED names no file")
	}
	for b.Loop() {
		f, err := os.Open(path)
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			b.Fatal(err)
		}
		head := make([]byte, compress.HeadSize)
		if _, err := f.ReadAt(head, 0); err != nil {
			b.Fatal(err)
		}
		r, err := compress.Options{MaxMemory: compress.LargeMemory(), Ahead: true, Sizes: xz.ReadSizes(f, info.Size())}.NewReader(f, compress.Detect(head))
		if err != nil {
			b.Fatal(err)
		}
		n, err := io.Copy(io.Discard, r)
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(n)
		r.Close()
	}
}
