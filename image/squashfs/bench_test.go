package squashfs_test

import (
	"context"
	"os"
	"testing"

	"imgtool/image/squashfs"
	"imgtool/image/tree"
	"imgtool/image/tree/hostfs"
	"imgtool/image/tree/sums"
	"imgtool/image/tree/tarfs"
)

// BenchmarkWrite writes the tar or directory that BENCH_ROOTFS names to BENCH_OUT,
// from opening it to the last byte. BENCH_LIKE names an earlier file system.
func BenchmarkWrite(b *testing.B) {
	from, to := os.Getenv("BENCH_ROOTFS"), os.Getenv("BENCH_OUT")
	if from == "" || to == "" {
		b.Skip("BENCH_ROOTFS and BENCH_OUT name what to read and to write")
	}
	opt := squashfs.Options{Compression: os.Getenv("BENCH_COMPRESSION"), BlockSize: 1 << 20, Packed: os.Getenv("BENCH_PACKED") != ""}
	if os.Getenv("BENCH_BLOCK") == "128K" {
		opt.BlockSize = 128 << 10
	}
	if path := os.Getenv("BENCH_LIKE"); path != "" {
		opt.Like, opt.Reused = open(b, path), func(r squashfs.Reuse) { b.Logf("%+v", r) }
	}
	for b.Loop() {
		tr, done, err := openTree(from)
		if err != nil {
			b.Fatal(err)
		}
		if opt.Sums, err = sums.Compute(b.Context(), tr, sums.Options{}); err != nil {
			b.Fatal(err)
		}
		tr, _, _ = tr.WithoutXattrs(func(name string) bool { return name == tree.ACL || name == tree.DefaultACL })
		out, err := os.Create(to)
		if err != nil {
			b.Fatal(err)
		}
		n, err := squashfs.Write(context.Background(), out, tr, opt, nil)
		if err != nil {
			b.Fatal(err)
		}
		if err := out.Close(); err != nil {
			b.Fatal(err)
		}
		done()
		b.ReportMetric(float64(n), "bytes")
	}
}

func openTree(path string) (*tree.Tree, func() error, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	if info.IsDir() {
		t, err := hostfs.Read(path, true, 0)
		return t, f.Close, err
	}
	t, err := tarfs.Read(f, info.Size(), 0)
	return t, f.Close, err
}
