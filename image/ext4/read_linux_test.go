package ext4_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imgtool/image"
	"imgtool/image/ext4"
	"imgtool/image/imagetest"
	"imgtool/image/tree"
	"imgtool/image/tree/treetest"
)

func TestReadMke2fs(t *testing.T) {
	imagetest.Long(t)
	tr := common(t, 500)
	names(t, tr, "indexed/%d", 2000)
	dir := stage(t, tr)
	for name, args := range map[string][]string{
		"as it is":                 nil,
		"blocks of 1 KiB":          {"-b", "1024"},
		"blocks of 2 KiB":          {"-b", "2048"},
		"no checksums":             {"-O", "^metadata_csum"},
		"old checksums":            {"-O", "^metadata_csum,uninit_bg"},
		"descriptors of 32":        {"-O", "^64bit"},
		"descriptors of 32 2":      {"-O", "^64bit,^metadata_csum,^flex_bg,^resize_inode"},
		"inodes of 128":            {"-I", "128"},
		"inodes of 512":            {"-I", "512"},
		"a separate checksum seed": {"-O", "metadata_csum_seed"},
		"no types":                 {"-O", "^filetype"},
	} {
		path := filepath.Join(t.TempDir(), "image")
		imagetest.Run(t, "mke2fs", append(append([]string{"-q", "-F", "-t", "ext4", "-L", "theirs", "-U", "01234567-89ab-4def-8123-456789abcdef",
			"-E", "root_owner=0:0,hash_seed=01020304-0506-0708-090a-0b0c0d0e0f10", "-d", dir}, args...), path, "64m")...)
		got, opt := read(t, path)
		for _, p := range []string{"", "lost+found"} { // whose times are the clock's
			n := tree.Inode{Mode: got.Lookup(p).Mode, ModTime: modTime}
			put(t, got, p, n)
		}
		same(t, name, describe(t, withLost(t, tr)), got)
		if opt.Label != "theirs" || opt.UUID != options.UUID || opt.HashSeed != options.HashSeed || opt.Size != 64*mib || opt.JournalSize < 4*mib || opt.Reserved != 5 {
			t.Errorf("%s: %+v", name, opt)
		}
	}
	for args, want := range map[string]string{
		"^extent,^64bit":                 "indirect blocks, as in ext2, are not supported",
		"inline_data":                    "unsupported features 0x8000",
		"encrypt":                        "unsupported features 0x10000",
		"^flex_bg,meta_bg,^resize_inode": "unsupported features 0x10",
	} {
		path := filepath.Join(t.TempDir(), "image")
		imagetest.Run(t, "mke2fs", "-q", "-F", "-t", "ext4", "-O", args, "-d", dir, path, "64m")
		f, err := os.Open(path)
		must(t, err)
		if _, _, err := ext4.Read(f, 64*mib); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v and not %q", args, err, want)
		}
		f.Close()
	}
}

func TestReadAfterKernelWrites(t *testing.T) {
	imagetest.NeedRoot(t)
	tr := everything(t)
	path := writeDirty(t, build(t, tr, sized(100*mib)))
	dir, unmount := mount(t, path)
	use(t, dir)
	for i := range 3000 {
		must(t, os.WriteFile(fmt.Sprintf("%s/xattrs/directory/%d", dir, i), []byte("x"), 0o644))
		if i%2 == 0 {
			must(t, os.Remove(fmt.Sprintf("%s/xattrs/directory/%d", dir, i)))
		}
	}
	f, err := os.Create(dir + "/holes")
	must(t, err)
	for i := range 1000 {
		_, err := f.WriteAt([]byte("island"), int64(i)*20_000)
		must(t, err)
	}
	must(t, unix.Fallocate(int(f.Fd()), 0, 30*mib, mib))
	must(t, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 31*mib, mib))
	must(t, f.Close())
	must(t, unix.Lsetxattr(dir+"/kinds/one", "user.later", bytes.Repeat([]byte("later"), 100), 0))
	want, _ := treetest.Walk(t, dir)
	words := describe(t, want)
	unmount()
	got, _ := read(t, path)
	same(t, "Read", words, got)
}

func TestReadNeedsReplay(t *testing.T) {
	imagetest.NeedRoot(t)
	path := write(t, build(t, nil, sized(64*mib)))
	dir, _ := mount(t, path)
	must(t, os.WriteFile(dir+"/x", []byte("x"), 0o644))
	unix.Sync()
	b, err := os.ReadFile(path)
	must(t, err)
	if _, _, err := ext4.Read(bytes.NewReader(b), int64(len(b))); err == nil || !strings.Contains(err.Error(), "was not unmounted") {
		t.Error(err)
	}
}

// metadata returns the positions in an image at which Read must detect damage.
func metadata(tr *tree.Tree, m *image.Image) []image.Span {
	var all []image.Span
	for e := range m.Extents() {
		n := tr.Lookup(e.Name)
		switch {
		case n != nil && (n.Type() == tree.Regular || n.Type() == tree.Symlink):
		case e.Name == "journal", e.Name == "resize inode", e.Name == "reserved group descriptors", strings.HasSuffix(e.Name, "bitmap"):
		case (e.Name == "superblock" || e.Name == "group descriptors") && e.Off > 8192:
		case e.Name == "superblock":
			all = append(all, image.Span{Off: 1024, Len: 1024})
		case e.Name == "group descriptors":
			all = append(all, image.Span{Off: e.Off, Len: 64})
		case e.Name == "inode table":
			all = append(all, image.Span{Off: e.Off + 256, Len: 256}, image.Span{Off: e.Off + 10*256, Len: 10 * 256})
		default:
			all = append(all, image.Span{Off: e.Off, Len: e.Size()})
		}
	}
	return all
}

func TestReadDamagedMetadata(t *testing.T) {
	imagetest.Long(t)
	tr := tree.New(modTime)
	names(t, tr, "indexed/%d"+strings.Repeat("x", 200), 400)
	for i := range 8 {
		n := file("x")
		n.Xattrs = []tree.Xattr{{Name: "user.x", Value: strings.Repeat("x", 1000)}}
		put(t, tr, fmt.Sprintf("some/%d", i), n)
	}
	m := build(t, tr, sized(16*mib))
	data := make([]byte, m.Size())
	_, err := m.ReadAt(data, 0)
	must(t, err)
	want := describe(t, withLost(t, tr))
	rng := rand.New(rand.NewPCG(5, 5))
	spans := metadata(tr, m)
	for i := range 3000 {
		s := spans[i%len(spans)]
		off := s.Off + rng.Int64N(s.Len)
		bit := byte(1) << rng.IntN(8)
		data[off] ^= bit
		got, _, err := ext4.Read(bytes.NewReader(data), int64(len(data)))
		data[off] ^= bit
		if err == nil {
			// The rest of some blocks is unused.
			same(t, fmt.Sprintf("one flipped bit at %d, not found", off), want, got)
			if s.Len == 4096 && off%4096 < 4084 && !unusedIndex(data[off/4096*4096:][:4096], off%4096) {
				t.Errorf("one flipped bit at %d is not found", off)
			}
			continue
		}
		words := err.Error()
		if off >= 4096 && !strings.Contains(words, fmt.Sprintf("block %d", off/4096)) {
			t.Errorf("a flipped bit in block %d: %v", off/4096, err)
		}
	}
}

// flipped is a reader with one wrong bit.
type flipped struct {
	io.ReaderAt
	off int64
	bit byte
}

func (f flipped) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.ReaderAt.ReadAt(p, off)
	if f.off >= off && f.off < off+int64(n) {
		p[f.off-off] ^= f.bit
	}
	return n, err
}

func TestReadDamagedExtentTree(t *testing.T) {
	tr := tree.New(modTime)
	put(t, tr, "huge", tree.Inode{Mode: tree.Regular | 0o644, ModTime: modTime, Content: pattern(200 * gib)})
	m := build(t, tr, sized(220*gib))
	rng := rand.New(rand.NewPCG(7, 7))
	blocks := 0
	for e := range m.Extents() {
		if e.Name != "extents of huge" {
			continue
		}
		blocks++
		for range 20 {
			off := e.Off + rng.Int64N(e.Size())
			_, _, err := ext4.Read(flipped{m, off, 1 << rng.IntN(8)}, m.Size())
			if err == nil || !strings.HasPrefix(err.Error(), "ext4: huge: ") || !strings.Contains(err.Error(), fmt.Sprintf("in block %d", off/4096)) {
				t.Errorf("a flipped bit at %d of block %d: %v", off%4096, off/4096, err)
			}
		}
	}
	if blocks < 5 {
		t.Errorf("%d blocks are no tree", blocks)
	}
}

// small returns a file system without checksums, which would detect every change.
func small(t testing.TB) []byte {
	tr := tree.New(modTime)
	for i := range 40 {
		n := file("content")
		n.Xattrs = []tree.Xattr{{Name: "user.x", Value: strings.Repeat("x", i*5)}}
		put(t, tr, fmt.Sprintf("d/%d"+strings.Repeat("x", 100), i), n)
	}
	put(t, tr, "e/subdir/g", tree.Inode{Mode: tree.Symlink | 0o777, Target: strings.Repeat("x", 100)})
	put(t, tr, "e/another/dev", tree.Inode{Mode: tree.CharDev, Major: 1000})
	opt := sized(mib)
	opt.Inodes = 64
	m := build(t, tr, opt)
	data := make([]byte, m.Size())
	_, err := m.ReadAt(data, 0)
	must(t, err)
	features := data[1024+0x64:]
	binary.LittleEndian.PutUint32(features, binary.LittleEndian.Uint32(features)&^0x400)
	return data
}

func TestReadMalicious(t *testing.T) {
	le := binary.LittleEndian
	entry := func(b []byte, name string) []byte {
		i := bytes.Index(b, append([]byte{byte(len(name)), 2}, name...))
		if i < 0 {
			t.Fatalf("no entry %q", name)
		}
		return b[i-6:]
	}
	// Inode 2 is the root. The inode table follows the bitmaps.
	inode := func(b []byte, n uint32) []byte {
		return b[int(le.Uint32(b[4096+8:]))*4096+int(n-1)*256:]
	}
	for name, c := range map[string]struct {
		change func(b []byte)
		want   string
	}{
		"nothing":                     {func(b []byte) {}, ""},
		"a directory with two names":  {func(b []byte) { copy(entry(b, "another"), entry(b, "subdir")[:4]) }, "e/subdir: directory of inode"},
		"a directory in itself":       {func(b []byte) { copy(entry(b, "subdir"), entry(b, "e")[:4]) }, "directory of inode"},
		"the root in a directory":     {func(b []byte) { le.PutUint32(entry(b, "subdir"), 2) }, "directory of inode 2"},
		"a missing inode":             {func(b []byte) { le.PutUint32(entry(b, "subdir"), 1<<31) }, "does not exist, there are 64"},
		"an unused inode":             {func(b []byte) { le.PutUint32(entry(b, "subdir"), 5) }, "0 links"},
		"an entry without a size":     {func(b []byte) { le.PutUint16(entry(b, "subdir")[4:], 0) }, "has 0 bytes"},
		"an entry beyond the block":   {func(b []byte) { le.PutUint16(entry(b, "subdir")[4:], 8000) }, "has 8000 bytes"},
		"a name with a slash":         {func(b []byte) { entry(b, "subdir")[9] = '/' }, `invalid name "s/bdir"`},
		"a huge directory":            {func(b []byte) { le.PutUint32(inode(b, 2)[0x6c:], 1) }, "it has 4294971392 bytes and 1 blocks"},
		"a huge file":                 {func(b []byte) { le.PutUint32(inode(b, 13)[0x6c:], 1<<31) }, "damaged: invalid file size"},
		"a tree of no end":            {func(b []byte) { inode(b, 13)[0x28+6] = 6 }, "at level 6"},
		"a tree that is its own leaf": {func(b []byte) { inode(b, 13)[0x28+6] = 1 }, "does not exist, there are 256"},
		"blocks beyond the end":       {func(b []byte) { le.PutUint32(inode(b, 13)[0x28+12+8:], 255); le.PutUint16(inode(b, 13)[0x28+12+4:], 2) }, "2 blocks at 255 exceed the file system of 256"},
		"too many blocks":             {func(b []byte) { le.PutUint32(b[1024+4:], 257) }, "the file system has 257 blocks"},
		"groups of no blocks":         {func(b []byte) { le.PutUint32(b[1024+0x20:], 0) }, "invalid geometry"},
		"groups of no inodes":         {func(b []byte) { le.PutUint32(b[1024+0x28:], 0) }, "invalid geometry"},
		"inodes of odd size":          {func(b []byte) { le.PutUint16(b[1024+0x58:], 200) }, "invalid geometry"},
		"a table beyond the end":      {func(b []byte) { le.PutUint32(b[4096+8:], 300) }, "an inode table at 300"},
	} {
		b := small(t)
		c.change(b)
		_, _, err := ext4.Read(bytes.NewReader(b), int64(len(b)))
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v and not %q", name, err, c.want)
		}
	}
}

// unusedIndex reports whether a byte of an index block of a directory is not in an entry.
func unusedIndex(b []byte, off int64) bool {
	index := int64(32)
	if binary.LittleEndian.Uint32(b) == 0 {
		index = 8
	} else if string(b[8:10]) != ".\x00" {
		return false
	}
	return off >= index+8*int64(binary.LittleEndian.Uint16(b[index+2:]))
}

func TestReadTruncated(t *testing.T) {
	m := build(t, everything(t), sized(16*mib))
	for _, size := range []int64{0, 1, 1024, 2047, 2048, 4096, mib, 16*mib - 1} {
		if _, _, err := ext4.Read(m, size); err == nil {
			t.Errorf("%d bytes are a file system", size)
		}
		if _, _, err := ext4.Read(io.NewSectionReader(m, 0, size), 16*mib); err == nil && size < mib {
			t.Errorf("%d bytes that were said to be more are a file system", size)
		}
	}
	if _, _, err := ext4.Read(bytes.NewReader(make([]byte, mib)), mib); err == nil || !strings.Contains(err.Error(), "no magic number") {
		t.Error(err)
	}
}

func FuzzRead(f *testing.F) {
	base := small(f)
	// A patch is an offset in the part that is not zeros, and a value.
	var places []int
	for i, b := range base {
		if b != 0 {
			places = append(places, i)
		}
	}
	rng := rand.New(rand.NewPCG(6, 6))
	for range 300 {
		f.Add([]byte(noise(rng, 4+4*rng.IntN(4))))
	}
	f.Fuzz(func(t *testing.T, patch []byte) {
		data := bytes.Clone(base)
		for ; len(patch) >= 4; patch = patch[4:] {
			at := places[int(binary.LittleEndian.Uint16(patch))%len(places)]
			copy(data[at:], patch[2:4])
		}
		got, opt, err := ext4.Read(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return
		}
		buf := make([]byte, 5000)
		for path, n := range got.All() {
			if n.Size() > 0 {
				for _, off := range []int64{0, n.Size() / 2, n.Size() - 1} {
					if k, err := n.Content.ReadAt(buf, off); k < len(buf) && err == nil {
						t.Fatalf("%s: %d of %d bytes at %d and no error", path, k, n.Size(), off)
					}
				}
			}
		}
		// A tree that was read can be written, or the error names the reason.
		if opt.Size <= 4*mib {
			if m, err := ext4.New(got, *opt); err == nil && m.Size() != opt.Size {
				t.Fatalf("%d bytes and not %d", m.Size(), opt.Size)
			}
		}
	})
}
