package squashfs_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	backend "github.com/diskfs/go-diskfs/backend/file"
	diskfs "github.com/diskfs/go-diskfs/filesystem/squashfs"

	"imgtool/image"
	"imgtool/image/squashfs"
	"imgtool/image/tree"
)

// memory is a file system in memory.
type memory struct{ b []byte }

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if end := int(off) + len(p); end > len(m.b) {
		m.b = append(m.b, make([]byte, end-len(m.b))...)
	}
	return copy(m.b[off:], p), nil
}

func written(t testing.TB, tr *tree.Tree, opt squashfs.Options) []byte {
	t.Helper()
	var m memory
	if _, err := squashfs.Write(context.Background(), &m, tr, opt, nil); err != nil {
		t.Fatal(err)
	}
	return m.b
}

// smallTree has an inode of each type.
func smallTree(t testing.TB) *tree.Tree {
	tr := tree.New(1)
	put(t, tr, "dir/file", file("short"))
	rng := rand.New(rand.NewPCG(1, 2))
	in := put(t, tr, "dir/large", file(text(rng, 10_000)+strings.Repeat("\x00", 9000)+"x"))
	if err := tr.Put("dir/hard", in); err != nil {
		t.Fatal(err)
	}
	put(t, tr, "dir/zero", tree.Inode{Mode: tree.Regular | 0o600, Content: image.Zeros(8192)})
	put(t, tr, "empty", file(""))
	put(t, tr, "link", tree.Inode{Mode: tree.Symlink | 0o777, Target: "dir/file"})
	put(t, tr, "tty", tree.Inode{Mode: tree.CharDev | 0o600, Major: 5, Minor: 300, UID: 7})
	put(t, tr, "pipe", tree.Inode{Mode: tree.Fifo | 0o600, Xattrs: []tree.Xattr{{Name: "security.x", Value: "y"}}})
	put(t, tr, "sock", tree.Inode{Mode: tree.Socket | 0o600})
	put(t, tr, "xdir/sub", tree.Inode{Mode: tree.Dir | 0o700, Xattrs: []tree.Xattr{{Name: "user.a", Value: "b"}}})
	return tr
}

// readAll reads a file system: all metadata, and up to 1 MiB of the files.
func readAll(b []byte) error {
	r, err := squashfs.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return err
	}
	r.Summary()
	tr, err := r.Tree()
	if err != nil {
		return err
	}
	left := int64(1 << 20)
	for _, n := range tr.All() {
		if n.Content == nil {
			continue
		}
		k, err := io.Copy(io.Discard, io.LimitReader(io.NewSectionReader(n.Content, 0, n.Size()), left))
		if err != nil {
			return err
		}
		if left -= k; left <= 0 {
			return nil
		}
	}
	return nil
}

func FuzzOpen(f *testing.F) {
	for _, codec := range []string{"zstd:1", "gzip", "xz", "lz4"} {
		f.Add(written(f, smallTree(f), squashfs.Options{Compression: codec, BlockSize: 4096}))
	}
	f.Add(plain(f, smallTree(f)))
	f.Add(written(f, tree.New(0), squashfs.Options{}))
	f.Fuzz(func(t *testing.T, b []byte) { readAll(b) })
}

// plain is a file system in which nothing is compressed.
func plain(t testing.TB, tr *tree.Tree) []byte {
	return written(t, tr, squashfs.Uncompressed(squashfs.Options{Compression: "lz4", BlockSize: 4096}))
}

// A damaged byte anywhere gives an error or a tree, but no panic and no endless loop.
func TestReadDamaged(t *testing.T) {
	for name, good := range map[string][]byte{
		"zstd":  written(t, smallTree(t), squashfs.Options{Compression: "zstd:1", BlockSize: 4096}),
		"plain": plain(t, smallTree(t)),
	} {
		if err := readAll(good); err != nil {
			t.Fatal(err)
		}
		refused := 0
		for i := range good {
			for _, x := range []byte{0x01, 0x80, 0xff} {
				bad := bytes.Clone(good)
				bad[i] ^= x
				if readAll(bad) != nil {
					refused++
				}
			}
		}
		if refused < 500 {
			t.Errorf("%s: only %d of %d were refused", name, refused, 3*len(good))
		}
		for n := range len(good) - 4096 {
			if err := readAll(good[:n]); err == nil {
				t.Fatalf("%s: the first %d of %d bytes are accepted", name, n, len(good))
			}
		}
	}
}

// A directory that contains the root, itself or its neighbour is refused.
func TestReadDirectoryInTwoPlaces(t *testing.T) {
	tr := tree.New(0)
	for _, path := range []string{"a", "b", "c"} {
		put(t, tr, path+"/d", tree.Inode{Mode: tree.Dir | 0o755})
	}
	good := plain(t, tr)
	le := binary.LittleEndian
	dirs, root := le.Uint64(good[72:]), le.Uint64(good[32:])
	// The listings of a, b and c: a header and one entry with a name of one byte.
	const listing = 12 + 8 + 1
	at := func(i uint64) uint64 { return dirs + 2 + i*listing }
	for name, change := range map[string]func(b []byte){
		"root": func(b []byte) { le.PutUint16(b[at(0)+12:], uint16(root)) },
		"neighbour": func(b []byte) {
			copy(b[at(0):at(1)], b[at(1):at(2)])
		},
		"neighbour with another inode number": func(b []byte) {
			copy(b[at(0):at(1)], b[at(1):at(2)])
			le.PutUint32(b[at(0)+8:], 1000)
		},
	} {
		bad := bytes.Clone(good)
		change(bad)
		if err := readAll(bad); err == nil || !strings.Contains(err.Error(), "in more than one place") {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A listing that is far longer than the table.
	bad := bytes.Clone(good)
	inodes := le.Uint64(good[64:])
	le.PutUint16(bad[inodes+2+uint64(uint16(root))+24:], 0xffff)
	if err := readAll(bad); err == nil {
		t.Error("a listing that exceeds its table is accepted")
	}
}

func TestFileReadAt(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	content := text(rng, 70_000) + strings.Repeat("\x00", 20_000) + noise(rng, 10_001)
	tr := tree.New(0)
	put(t, tr, "f", file(content))
	put(t, tr, "g", file("other"))
	b := written(t, tr, squashfs.Options{BlockSize: 4096})
	r, err := squashfs.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	back, err := r.Tree()
	if err != nil {
		t.Fatal(err)
	}
	f := back.Lookup("f").Content
	for range 500 {
		off := rng.Int64N(int64(len(content)) + 10)
		p := make([]byte, rng.IntN(20_000))
		n, err := f.ReadAt(p, off)
		want := min(max(len(content)-int(off), 0), len(p))
		if n != want || (err == io.EOF) != (n < len(p)) || err != nil && err != io.EOF || n > 0 && string(p[:n]) != content[off:int(off)+n] {
			t.Fatalf("%d bytes at %d: %d, %v", len(p), off, n, err)
		}
	}
}

// go-diskfs reads the same names and bytes. It has another model of owners and links.
func TestDiskfsReadsFiles(t *testing.T) {
	for _, codec := range []string{"gzip", "zstd"} {
		tr := tree.New(1_600_000_000)
		rng := rand.New(rand.NewPCG(8, 8))
		put(t, tr, "small", file("small"))
		put(t, tr, "dir/large", file(text(rng, 300_000)))
		put(t, tr, "dir/sub/exact", file(noise(rng, 131072)))
		path, size := write(t, tr, squashfs.Options{Compression: codec, BlockSize: 128 << 10})
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		fs, err := diskfs.Read(backend.New(f, true), size, 0, 0)
		if err != nil {
			t.Fatalf("%s: %v", codec, err)
		}
		for path, n := range tr.All() {
			if n.Type() != tree.Regular {
				continue
			}
			r, err := fs.OpenFile(path, os.O_RDONLY)
			if err != nil {
				t.Fatalf("%s: %s: %v", codec, path, err)
			}
			got, err := io.ReadAll(r)
			want := make([]byte, n.Size())
			n.Content.ReadAt(want, 0)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: %s: %d bytes of %d, %v", codec, path, len(got), len(want), err)
			}
		}
	}
}
