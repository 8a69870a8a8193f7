package erofs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"imgtool/image/erofs"
	"imgtool/image/imagetest"
	"imgtool/image/tree"
	"imgtool/image/tree/hostfs"
	"imgtool/image/tree/treetest"
)

// sample makes a directory with every type of file, sizes around those of blocks, holes, hard
// links, extended attributes and a directory of several blocks.
func sample(t *testing.T) string {
	dir := filepath.Join(t.TempDir(), "root")
	must := func(err error) {
		t.Helper()
		treetest.Must(t, err)
	}
	must(os.MkdirAll(dir+"/many/deep/er", 0o750))
	random := rand.New(rand.NewPCG(1, 2))
	for _, size := range []int{0, 1, 100, 3900, 4095, 4096, 4097, 8192, 100_001, 1 << 20} {
		data := make([]byte, size)
		for i := range data {
			data[i] = byte(random.Uint32())
		}
		must(os.WriteFile(fmt.Sprintf("%s/size-%d", dir, size), data, 0o640))
	}
	for i := range 900 {
		must(os.WriteFile(fmt.Sprintf("%s/many/%s-%03d", dir, strings.Repeat("n", 40), i), fmt.Append(nil, i), 0o644))
	}
	f, err := os.Create(dir + "/sparse")
	must(err)
	for _, at := range []int64{0, 1 << 20, 5<<20 - 3} {
		_, err = f.WriteAt([]byte("abc"), at)
		must(err)
	}
	must(f.Close())
	must(os.Link(dir+"/size-4097", dir+"/many/link"))
	must(os.Symlink("size-1", dir+"/symlink"))
	must(os.Symlink("/"+strings.Repeat("long/", 200), dir+"/long"))
	must(syscall.Mkfifo(dir+"/fifo", 0o600))
	must(syscall.Mknod(dir+"/char", syscall.S_IFCHR|0o620, 5<<8|1))
	must(syscall.Mknod(dir+"/block", syscall.S_IFBLK|0o660, 0x1234567))
	must(syscall.Mknod(dir+"/socket", syscall.S_IFSOCK|0o755, 0))
	must(os.Chmod(dir+"/size-100", 0o755|os.ModeSetuid|os.ModeSetgid))
	must(os.Chmod(dir+"/many", 0o777|os.ModeSticky))
	must(os.Lchown(dir+"/size-1", 70000, 80000))
	must(unix.Setxattr(dir+"/size-4096", "trusted.a", []byte("x\x00y"), 0))
	must(unix.Setxattr(dir+"/size-4096", "security.capability", []byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0))
	must(filepath.Walk(dir, func(path string, _ os.FileInfo, err error) error {
		at := []syscall.Timespec{{Sec: 1700000000}, {Sec: 1700000000}}
		if info, _ := os.Lstat(path); info.Mode()&os.ModeSymlink != 0 {
			return exec.Command("touch", "-h", "-d", "@1700000000", path).Run()
		}
		return errors.Join(err, syscall.UtimesNano(path, at))
	}))
	return dir
}

func mkfs(t *testing.T, dir string, args ...string) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.erofs")
	imagetest.Run(t, "mkfs.erofs", append(append([]string{"--quiet"}, args...), path, dir)...)
	f, err := os.Open(path)
	treetest.Must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

func open(t *testing.T, f *os.File) *erofs.Reader {
	t.Helper()
	info, err := f.Stat()
	treetest.Must(t, err)
	r, err := erofs.Open(f, info.Size())
	treetest.Must(t, err)
	return r
}

// Trees of file systems of mkfs.erofs are those of the directories that they were made from.
func TestTree(t *testing.T) {
	imagetest.Need(t, "mkfs.erofs")
	imagetest.NeedRoot(t)
	dir := sample(t)
	want, err := hostfs.Read(dir, true, 1<<40)
	treetest.Must(t, err)
	for _, args := range [][]string{nil, {"-x-1"}, {"-Eforce-inode-compact", "-T1700000000", "--all-root"}, {"-Eforce-inode-extended"}, {"--chunksize=4096"}, {"-Enoinline_data"}, {"-Enosbcrc"}} {
		name := strings.Join(args, " ")
		r := open(t, mkfs(t, dir, args...))
		got, err := r.Tree()
		if err != nil {
			t.Errorf("%q: %v", name, err)
			continue
		}
		n := 0
		for c, err := range tree.Diff(t.Context(), want, got, nil) {
			if err != nil {
				t.Fatalf("%q: %v", name, err)
			}
			if name == "-x-1" && c.What == tree.Xattrs || strings.HasSuffix(name, "--all-root") && c.What == tree.Owner {
				continue // left out as asked
			}
			n++
			t.Errorf("%q: %s differs: %b at %d", name, c.Path, c.What, c.At)
		}
		if got.Len() != want.Len() || n > 0 {
			t.Errorf("%q: %d files, wanted %d; %d differ", name, got.Len(), want.Len(), n)
		}
		if s := r.Summary(); s.Codecs != nil || s.Compression() != "not compressed" || s.BlockSize != 4096 {
			t.Errorf("%q: %+v", name, s)
		}
	}
}

// The superblock has what dump.erofs finds there.
func TestSummary(t *testing.T) {
	imagetest.Need(t, "mkfs.erofs")
	dir := t.TempDir()
	treetest.WriteFile(t, dir+"/a", strings.Repeat("text ", 10_000))
	const id = "01234567-89ab-cdef-0123-456789abcdef"
	for codec, want := range map[string]string{"": "not compressed", "lz4": "lz4", "lz4hc": "lz4", "lz4 for Linux before 5.3": "lz4"} {
		args := []string{"-U" + id, "-T1700000000"}
		name, _, old := strings.Cut(codec, " for ")
		if codec != "" {
			args = append(args, "-z"+name)
		}
		if old {
			args = append(args, "-Elegacy-compress")
		}
		f := mkfs(t, dir, args...)
		r := open(t, f)
		s := r.Summary()
		info, _ := f.Stat()
		if s.Compression() != want || s.UUID != id || s.Inodes != 2 || s.BytesUsed != info.Size() || s.ModTime != 1700000000 {
			t.Errorf("%q: %+v", codec, s)
		}
		dump := imagetest.Run(t, "dump.erofs", "-s", f.Name())
		for _, line := range []string{fmt.Sprint("Filesystem inode count:                       ", s.Inodes), s.UUID, time.Unix(s.ModTime, 0).Local().Format("Mon Jan _2 15:04:05 2006")} {
			if !strings.Contains(dump, line) {
				t.Errorf("%q: dump.erofs does not say %q:\n%s", codec, line, dump)
			}
		}
		if _, err := r.Tree(); errors.Is(err, erofs.ErrCompressed) != (codec != "") {
			t.Errorf("%q: %v", codec, err)
		}
	}
}

// A file system whose content is in another file is refused.
func TestDevices(t *testing.T) {
	imagetest.Need(t, "mkfs.erofs")
	dir := t.TempDir()
	treetest.WriteFile(t, dir+"/a", strings.Repeat("text ", 10_000))
	f := mkfs(t, dir, "--chunksize=4096", "--blobdev="+filepath.Join(t.TempDir(), "blob"))
	info, err := f.Stat()
	treetest.Must(t, err)
	if _, err := erofs.Open(f, info.Size()); err == nil || !strings.Contains(err.Error(), "in 1 other files or disks") {
		t.Errorf("got %v", err)
	}
}

// Damaged file systems are an error, or have other files, and end soon.
func TestDamaged(t *testing.T) {
	imagetest.Need(t, "mkfs.erofs")
	dir := t.TempDir()
	for i := range 20 {
		treetest.WriteFile(t, fmt.Sprintf("%s/d/%d/f", dir, i), strings.Repeat("x", i*700))
	}
	text, err := os.ReadFile(mkfs(t, dir, "-Enosbcrc").Name())
	treetest.Must(t, err)
	if _, err := erofs.Open(bytes.NewReader(text), int64(len(text))-1); err == nil || !strings.Contains(err.Error(), "cut off after") {
		t.Errorf("cut: %v", err)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range 3000 {
		b := bytes.Clone(text)
		for range 1 + random.IntN(4) {
			b[random.IntN(min(len(b), 16<<10))] = byte(random.Uint32())
		}
		read(b)
	}
	for at := range 1152 {
		b := bytes.Clone(text)
		b[at] ^= 1 << random.IntN(8)
		read(b)
	}
}

func read(b []byte) {
	r, err := erofs.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return
	}
	if files, err := r.Tree(); err == nil {
		for _, n := range files.All() {
			if n.Content != nil {
				io.CopyN(io.Discard, io.NewSectionReader(n.Content, 0, n.Size()), 1<<20)
			}
		}
	}
}

// The checksum of the superblock finds every changed byte of it.
func TestChecksum(t *testing.T) {
	imagetest.Need(t, "mkfs.erofs")
	dir := t.TempDir()
	treetest.WriteFile(t, dir+"/a", "text")
	text, err := os.ReadFile(mkfs(t, dir).Name())
	treetest.Must(t, err)
	for at := erofs.SuperOffset; at < 4096; at++ {
		b := bytes.Clone(text)
		b[at] ^= 0x80
		if _, err := erofs.Open(bytes.NewReader(b), int64(len(b))); err == nil && at != erofs.SuperOffset+8 {
			t.Errorf("byte %d: no error", at)
		}
	}
}
