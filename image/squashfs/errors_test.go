package squashfs_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"imgtool/image/imagetest"
	"imgtool/image/squashfs"
	"imgtool/image/tree"
)

// broken has size bytes, of which only the first can be read.
type broken struct {
	size, have int64
	err        error
}

type failing struct{ after int64 }

func TestWriteTooLarge(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 2))
	tr := tree.New(0)
	for i := range 20 {
		put(t, tr, fmt.Sprint(i), file(noise(rng, 50_000)))
	}
	_, size := write(t, tr, squashfs.Options{BlockSize: 4096})
	if _, same := write(t, tr, squashfs.Options{BlockSize: 4096, Max: size}); same != size {
		t.Errorf("%d bytes, but %d with that as limit", size, same)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, err = squashfs.Write(context.Background(), f, tr, squashfs.Options{BlockSize: 4096, Max: 300_000}, nil)
	var tooLarge *squashfs.TooLargeError
	if !errors.As(err, &tooLarge) || *tooLarge != (squashfs.TooLargeError{Size: size, Max: 300_000}) {
		t.Fatalf("%v, not %d bytes in 300000", err, size)
	}
	if info, _ := f.Stat(); info.Size() > 300_000 {
		t.Errorf("%d bytes were written", info.Size())
	}
}

func TestWriteErrors(t *testing.T) {
	imagetest.Long(t)
	cause := errors.New("bad sector")
	for _, test := range []struct {
		name string
		node tree.Inode
		want string
	}{
		{"a short file", tree.Inode{Mode: tree.Regular, Content: broken{10_000, 5000, io.EOF}}, "some/path: reading at byte 5000: it ends there, but has a size of 10000 bytes"},
		{"a file that cannot be read", tree.Inode{Mode: tree.Regular, Content: broken{10_000, 5000, cause}}, "some/path: reading at byte 5000: bad sector"},
		{"a device number too large", tree.Inode{Mode: tree.CharDev, Major: 4096}, "some/path: device 4096:0 is beyond"},
		{"an unsupported attribute", tree.Inode{Mode: tree.Fifo, Xattrs: []tree.Xattr{{Name: "system.posix_acl_access"}}}, "some/path: squashfs cannot hold the attribute \"system.posix_acl_access\""},
		{"an attribute too large", tree.Inode{Mode: tree.Fifo, Xattrs: []tree.Xattr{{Name: "user.a", Value: strings.Repeat("a", 65537)}}}, "some/path: attribute user.a of 65537 bytes"},
		{"a target too long", tree.Inode{Mode: tree.Symlink, Target: strings.Repeat("a", 4096)}, "some/path: the target"},
		{"an empty target", tree.Inode{Mode: tree.Symlink}, "some/path: the target"},
		{"no type", tree.Inode{Mode: 0o644}, "some/path: mode 0644 has no file type"},
	} {
		t.Run(test.name, func(t *testing.T) {
			tr := tree.New(0)
			put(t, tr, "some/path", test.node)
			put(t, tr, "zz", file("ok"))
			_, err := squashfs.Write(context.Background(), discard{}, tr, squashfs.Options{BlockSize: 4096}, nil)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, not %q", err, test.want)
			}
		})
	}
	t.Run("too many owners", func(t *testing.T) {
		tr := tree.New(0)
		for i := range 65536 {
			put(t, tr, fmt.Sprint(i), tree.Inode{Mode: tree.Fifo, UID: uint32(i)})
		}
		_, err := squashfs.Write(context.Background(), discard{}, tr, squashfs.Options{}, nil)
		if err == nil || !strings.Contains(err.Error(), "65535 different owners") {
			t.Error(err)
		}
		tr.Remove("65535")
		path, _ := write(t, tr, squashfs.Options{})
		want := describe(t, tr)
		same(t, "reader", want, read(t, path))
		sameMounted(t, tr, want, path)
	})
	t.Run("a disk that fails", func(t *testing.T) {
		_, err := squashfs.Write(context.Background(), failing{100_000}, randomTree(t, 4, 64<<10), squashfs.Options{}, nil)
		if err == nil || !strings.Contains(err.Error(), "medium error") {
			t.Error(err)
		}
	})
	t.Run("a context that ends", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(context.Background())
		cancel(cause)
		_, err := squashfs.Write(ctx, discard{}, randomTree(t, 4, 64<<10), squashfs.Options{}, nil)
		if !errors.Is(err, cause) {
			t.Error(err)
		}
	})
}

func TestOptionsCheck(t *testing.T) {
	for _, test := range []struct {
		opt  squashfs.Options
		want string
	}{
		{squashfs.Options{}, ""},
		{squashfs.Options{Compression: "gzip:9", BlockSize: 4096}, ""},
		{squashfs.Options{Compression: "bzip2"}, `compression "bzip2" is unknown`},
		{squashfs.Options{Compression: "gzip:10"}, "has the levels 1 to 9"},
		{squashfs.Options{Compression: "gzip:"}, "has the levels 1 to 9"},
		{squashfs.Options{Compression: "zstd:23"}, "has the levels 1 to "},
		{squashfs.Options{Compression: "xz:6"}, "has no levels"},
		{squashfs.Options{BlockSize: 2048}, "block size 2048"},
		{squashfs.Options{BlockSize: 100_000}, "block size 100000"},
		{squashfs.Options{BlockSize: 2 << 20}, "block size 2097152"},
	} {
		err := test.opt.Check()
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v: %v, not %q", test.opt, err, test.want)
		}
	}
}

func (b broken) Size() int64 { return b.size }

func (b broken) ReadAt(p []byte, off int64) (int, error) {
	n := max(min(int64(len(p)), b.have-off), 0)
	if n < int64(len(p)) {
		return int(n), b.err
	}
	return int(n), nil
}

func (w failing) WriteAt(p []byte, off int64) (int, error) {
	if off > w.after {
		return 0, errors.New("medium error")
	}
	return len(p), nil
}
