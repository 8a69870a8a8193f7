package ext4_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imgtool/image"
	"imgtool/image/ext4"
	"imgtool/image/imagetest"
	"imgtool/image/tree"
	"imgtool/image/tree/hostfs"
	"imgtool/image/tree/tarfs"
)

// sparseFile makes a file of size bytes that has data only at the given offsets.
func sparseFile(t testing.TB, path string, size int64, data map[int64]string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	f, err := os.Create(path)
	must(t, err)
	for off, text := range data {
		_, err := f.WriteAt([]byte(text), off)
		must(t, err)
	}
	must(t, f.Truncate(size))
	must(t, f.Close())
}

// sparseDir returns a directory with files that have various holes.
func sparseDir(t testing.TB) string {
	d := t.TempDir()
	block := strings.Repeat("b", 4096)
	sparseFile(t, d+"/var/log/lastlog", 150*mib+1, map[int64]string{150 * mib: "y"})
	sparseFile(t, d+"/front", 10*mib, map[int64]string{0: "x"})
	sparseFile(t, d+"/middle", 5*mib, map[int64]string{0: block, 2*mib - 10: "across two blocks", 5*mib - 1: "z"})
	sparseFile(t, d+"/hole", mib+5, nil)
	sparseFile(t, d+"/whole", 0, map[int64]string{0: strings.Repeat("w", 100_000)})
	pieces := map[int64]string{}
	for i := range int64(3000) { // more than 340 times 4: two levels of extent blocks
		pieces[i*3*4096] = block
	}
	sparseFile(t, d+"/pieces", 3000*3*4096, pieces)
	must(t, os.Link(d+"/pieces", d+"/pieces2"))
	return d
}

// blocksOf returns the number of sectors of each file of a mounted file system.
func blocksOf(t testing.TB, path string) map[string]int64 {
	dir, unmount := mount(t, path)
	defer unmount()
	all := map[string]int64{}
	must(t, filepath.Walk(dir, func(p string, fi os.FileInfo, err error) error {
		if err == nil && fi.Mode().IsRegular() {
			var st unix.Stat_t
			must(t, unix.Lstat(p, &st))
			all[p[len(dir)+1:]] = st.Blocks
		}
		return err
	}))
	return all
}

func TestNewOmitsHoles(t *testing.T) {
	imagetest.Long(t)
	imagetest.NeedRoot(t)
	dir := sparseDir(t)
	theirs := filepath.Join(t.TempDir(), "mke2fs")
	mke2fs(t, dir, theirs, 64*mib)
	want := blocksOf(t, theirs)
	if n := len(want); n != 7 || want["hole"] != 0 {
		t.Fatalf("mke2fs made %v", want)
	}

	trees := map[string]*tree.Tree{}
	var err error
	trees["directory"], err = hostfs.Read(dir, false, modTime)
	must(t, err)
	for _, format := range []string{"--format=gnu", "--sparse-version=0.0", "--sparse-version=0.1", "--sparse-version=1.0"} {
		path := filepath.Join(t.TempDir(), "x.tar")
		args := []string{"--sparse", "--owner=0", "--group=0", "-cf", path, "-C", dir, "."}
		if format != "--format=gnu" {
			args = append([]string{"--format=pax"}, args...)
		}
		imagetest.Run(t, "tar", append([]string{format}, args...)...)
		f, err := os.Open(path)
		must(t, err)
		defer f.Close()
		fi, err := f.Stat()
		must(t, err)
		trees[format], err = tarfs.Read(f, fi.Size(), modTime)
		must(t, err)
	}
	for name, tr := range trees {
		t.Run(name, func(t *testing.T) {
			path := writeDirty(t, build(t, tr, sized(64*mib)))
			got := blocksOf(t, path)
			for file, theirs := range want {
				// mke2fs leaves the blocks of its extent trees half empty.
				if got[file] > theirs || got[file] < theirs && file != "pieces" && file != "pieces2" {
					t.Errorf("%s takes %d sectors, with mke2fs %d", file, got[file], theirs)
				}
			}
			if s := imagetest.Run(t, "debugfs", "-R", "stat /pieces", path); !strings.Contains(s, "(ETB1)") {
				t.Errorf("3000 pieces have one level of extent blocks:\n%.400s", s)
			}
			for _, file := range []string{"middle", "var/log/lastlog", "pieces"} {
				out := filepath.Join(t.TempDir(), "dumped")
				imagetest.Run(t, "debugfs", "-R", "dump /"+file+" "+out, path)
				imagetest.Run(t, "cmp", out, filepath.Join(dir, file))
			}
			judge(t, tr, path)
			if size := minSize(t, tr, ext4.Options{}); size > 40*mib {
				t.Errorf("the smallest file system has %d MiB, want at most 40", size/mib)
			}
		})
	}
}

func TestNewLargeHole(t *testing.T) {
	for _, size := range []int64{tib, 16*tib - 4096} {
		tr := tree.New(modTime)
		put(t, tr, "hole", tree.Inode{Mode: tree.Regular | 0o644, ModTime: modTime, Content: &pieces{size, []piece{{0, "first"}, {size / 2, "middle"}, {size - 4, "last"}}}})
		path := writeDirty(t, build(t, tr, sized(16*mib)))
		fsck(t, path)
		if s := imagetest.Run(t, "debugfs", "-R", "stat /hole", path); !strings.Contains(s, fmt.Sprintf("Size: %d", size)) || !strings.Contains(s, "Blockcount: 24") {
			t.Errorf("debugfs: %.300s", s)
		}
		dir, unmount := mount(t, path)
		f, err := os.Open(dir + "/hole")
		must(t, err)
		for _, at := range []int64{0, 4096, size/2 - 4096, size / 2, size - 4096} {
			want, got := make([]byte, 4096), make([]byte, 4096)
			tr.Lookup("hole").Content.ReadAt(want, at)
			if _, err := f.ReadAt(got, at); err != nil || !bytes.Equal(want, got) {
				t.Errorf("%d bytes: the kernel reads something else at %d: %v", size, at, err)
			}
		}
		f.Close()
		unmount()
	}
}

func TestNewFirstKeepsHoles(t *testing.T) {
	tr := tree.New(modTime)
	content := &pieces{mib, []piece{{0, "kernel"}, {mib - 3, "end"}}}
	put(t, tr, "boot/Image", tree.Inode{Mode: tree.Regular | 0o644, ModTime: modTime, Content: content})
	put(t, tr, "other", tree.Inode{Mode: tree.Regular | 0o644, ModTime: modTime, Content: content})
	opt := sized(16 * mib)
	opt.First = []string{"boot/Image"}
	path := write(t, build(t, tr, opt))
	for file, blocks := range map[string]string{"boot/Image": "Blockcount: 2048", "other": "Blockcount: 16"} {
		if s := imagetest.Run(t, "debugfs", "-R", "stat /"+file, path); !strings.Contains(s, blocks) {
			t.Errorf("%s: not %s: %.400s", file, blocks, s)
		}
	}
	judge(t, tr, path)
}

type piece struct {
	at   int64
	text string
}

// pieces is a sparse file with many holes.
type pieces struct {
	size int64
	data []piece
}

func (p *pieces) Size() int64 { return p.size }

func (p *pieces) Hole(off int64) int64 {
	end := p.size
	for _, d := range p.data {
		if d.at+int64(len(d.text)) > off {
			end = d.at / image.Block * image.Block
			break
		}
	}
	return max(0, end-off)
}

func (p *pieces) ReadAt(b []byte, off int64) (int, error) {
	n := int(min(int64(len(b)), p.size-off))
	if n <= 0 {
		return 0, io.EOF
	}
	clear(b[:n])
	for _, d := range p.data {
		for i := range d.text {
			if at := d.at + int64(i) - off; at >= 0 && at < int64(n) {
				b[at] = d.text[i]
			}
		}
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}
