package source_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imgtool/image"
	"imgtool/image/imagetest"
	"imgtool/image/source"
	"imgtool/image/tree"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t testing.TB, path, data string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, []byte(data), 0o644))
}

func opener(t testing.TB, opt source.Options) *source.Opener {
	t.Helper()
	if opt.Arch == "" {
		opt.Arch = "arm64"
	}
	if opt.TempDir == "" {
		opt.TempDir = t.TempDir()
	}
	opt.ModTime = 1700000000
	o := source.NewOpener(opt)
	t.Cleanup(func() {
		if err := o.Close(); err != nil {
			t.Error(err)
		}
		if left, _ := os.ReadDir(opt.TempDir); len(left) > 0 {
			t.Errorf("left in the scratch directory: %v", left)
		}
	})
	return o
}

func contents(t testing.TB, c image.Content) string {
	t.Helper()
	data, err := io.ReadAll(io.NewSectionReader(c, 0, c.Size()))
	must(t, err)
	return string(data)
}

func sum(s string) string {
	h := sha256.Sum256([]byte(s))
	return hex.EncodeToString(h[:])
}

// dump formats a tree, without times.
func dump(t testing.TB, tr *tree.Tree) string {
	var b strings.Builder
	first := map[*tree.Inode]string{}
	for path, n := range tr.All() {
		if same, ok := first[n]; ok {
			fmt.Fprintf(&b, "%s = %s\n", path, same)
			continue
		}
		first[n] = path
		fmt.Fprintf(&b, "/%s %o %d:%d %s", path, n.Mode, n.UID, n.GID, n.Target)
		if n.Content != nil {
			fmt.Fprintf(&b, " %.40q", contents(t, n.Content))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// rootfs creates a small root file system owned by 0:0, and a tar of it.
func rootfs(t testing.TB) (dir, tarball string) {
	t.Helper()
	top := t.TempDir()
	dir, tarball = top+"/rootfs", top+"/rootfs.tar"
	write(t, dir+"/etc/hostname", "board\n")
	noise := make([]byte, 300000)
	rand.NewChaCha8([32]byte{}).Read(noise)
	write(t, dir+"/usr/bin/init", string(noise))
	write(t, dir+"/usr/share/zeros", strings.Repeat("\x00", 100000))
	must(t, os.Symlink("usr/bin", dir+"/bin"))
	must(t, os.Link(dir+"/etc/hostname", dir+"/etc/mailname"))
	must(t, unix.Mkfifo(dir+"/pipe", 0o600))
	must(t, unix.Chmod(dir+"/usr/bin/init", 0o4755))
	if err := unix.Setxattr(dir+"/usr/bin/init", "user.origin", []byte("x"), 0); err != nil {
		t.Log("no extended attributes here:", err)
	}
	imagetest.Run(t, "tar", "--format=pax", "--xattrs", "--owner=0", "--group=0", "-cf", tarball, "-C", dir, ".")
	return dir, tarball
}

// compress compresses a file with a program and returns the path of the result.
func compress(t testing.TB, program, path string, args ...string) string {
	t.Helper()
	out := path + "." + program
	must(t, os.WriteFile(out, []byte(imagetest.Run(t, program, append(args, "-c", path)...)), 0o644))
	return out
}

func TestRootSources(t *testing.T) {
	dir, tarball := rootfs(t)
	o := opener(t, source.Options{Dir: filepath.Dir(dir)})
	want, err := o.Root(t.Context(), "rootfs")
	must(t, err)
	if want.Tree.Lookup("usr/bin/init") == nil || len(want.Digest) != 64 {
		t.Fatal(want.Digest, dump(t, want.Tree))
	}
	refs := []string{"rootfs/", dir, "rootfs.tar", tarball}
	for _, program := range []string{"gzip", "xz", "zstd", "bzip2"} {
		refs = append(refs, compress(t, program, tarball))
	}
	// File names do not matter.
	must(t, os.Rename(tarball+".zstd", dir+".squashfs"))
	refs[len(refs)-2] = "rootfs.squashfs"
	many := filepath.Dir(dir) + "/many.gz"
	must(t, exec.Command("sh", "-c", `head -c 99999 "$0" | gzip -c > "$1"; tail -c +100000 "$0" | gzip -c >> "$1"`, tarball, many).Run())
	blocks := compress(t, "xz", tarball, "-T2", "--block-size=100000", "--check=sha256")
	refs = append(refs, many, blocks)
	for i, filters := range [][]string{{"--x86", "--lzma2=preset=1"}, {"--delta=dist=4", "--arm", "--lzma2=preset=1"}} {
		name := fmt.Sprintf("filtered%d", i)
		must(t, os.WriteFile(filepath.Join(filepath.Dir(dir), name), []byte(imagetest.Run(t, "xz", append(filters, "-c", tarball)...)), 0o644))
		refs = append(refs, name)
	}
	for _, ref := range refs {
		got, err := o.Root(t.Context(), ref)
		if err != nil {
			t.Errorf("%s: %v", filepath.Base(ref), err)
			continue
		}
		if got.Digest != want.Digest || got.Origin != "" || got.Ready != nil {
			t.Errorf("%s: %+v, want digest %s", filepath.Base(ref), got, want.Digest)
		}
	}
}

func TestSquashfsIsNotChanged(t *testing.T) {
	dir, _ := rootfs(t)
	path := filepath.Dir(dir) + "/x"
	imagetest.Run(t, "mksquashfs", dir, path, "-quiet", "-no-progress")
	data, err := os.ReadFile(path)
	must(t, err)
	o := opener(t, source.Options{})
	for _, ref := range []string{path, compress(t, "zstd", path)} {
		r, err := o.Root(t.Context(), ref)
		must(t, err)
		if r.Tree != nil || r.Ready == nil || contents(t, r.Ready) != string(data) || r.Digest != sum(string(data)) || r.Ready.SHA256 != r.Digest {
			t.Errorf("%s: %+v", ref, r)
		}
	}
}

func TestFileIsNotChanged(t *testing.T) {
	d := t.TempDir()
	write(t, d+"/sub/idbloader.img", "RK33")
	write(t, d+"/empty", "")
	o := opener(t, source.Options{Dir: d})
	f, err := o.File(t.Context(), "sub/idbloader.img")
	must(t, err)
	if contents(t, f) != "RK33" || f.SHA256 != sum("RK33") || f.Origin != "" {
		t.Errorf("%+v", f)
	}
	if f, err := o.File(t.Context(), d+"/empty"); err != nil || f.Size() != 0 || f.SHA256 != sum("") {
		t.Error(f, err)
	}
	for ref, want := range map[string]string{
		"nope": "stat nope: no such file or directory", "sub": "sub is not a regular file, but a directory", "": "no path is given",
		"deb:x": "deb:x: it must be deb:PACKAGE/PATH", "deb:/x": "deb:/x: it must be deb:PACKAGE/PATH",
	} {
		_, err := o.File(t.Context(), ref)
		if err == nil || err.Error() != want {
			t.Errorf("%q: %v", ref, err)
		}
		if ref == "nope" && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%v is not fs.ErrNotExist", err)
		}
	}
	must(t, o.Close())
	if _, err := f.ReadAt(make([]byte, 1), 0); err == nil {
		t.Error("read after Close")
	}
}

func TestRootRefusesOtherFiles(t *testing.T) {
	d := t.TempDir()
	write(t, d+"/text", strings.Repeat("text\n", 1000))
	write(t, d+"/empty", "")
	write(t, d+"/ext4", strings.Repeat("\x00", 1024)+strings.Repeat("text\n", 1000))
	compress(t, "zstd", d+"/text")
	must(t, unix.Mkfifo(d+"/fifo", 0o600))
	must(t, os.Mkdir(d+"/build.out", 0o755))
	o := opener(t, source.Options{Dir: d})
	for ref, want := range map[string]string{
		"text":                         "text: not a directory, tar, squashfs, erofs or container image",
		"empty":                        "empty: not a directory, tar, squashfs, erofs or container image",
		"ext4":                         "ext4: not a directory, tar, squashfs, erofs or container image",
		"text.zstd":                    "text.zstd: not a tar, squashfs or erofs after decompression",
		"fifo":                         "fifo is not a regular file, but a pipe",
		"rootfs.tar.gz":                "stat rootfs.tar.gz: no such file or directory",
		"debian:12":                    "stat debian:12: no such file or directory",
		"./localhost/x:y":              "stat ./localhost/x:y: no such file or directory",
		"build.out/rootfs:1":           "stat build.out/rootfs:1: no such file or directory",
		"registry.example/rootfs.tar":  "stat registry.example/rootfs.tar: no such file or directory",
		"oci:build.out":                "oci:build.out: not an OCI layout",
		"oci:nope:tag":                 "stat oci:nope:tag: no such file or directory",
		"docker://UPPER CASE/is wrong": "docker://UPPER CASE/is wrong is not the name of an image in a registry, such as docker://HOST/REPOSITORY:TAG",
	} {
		_, err := o.Root(t.Context(), ref)
		if err == nil || err.Error() != want {
			t.Errorf("%v\nwant %s", err, want)
		}
		if strings.Contains(want, "no such") != errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%v is or is not fs.ErrNotExist", err)
		}
	}
}

func corrupt(err error) bool {
	var c *source.CorruptError
	return errors.As(err, &c)
}

func TestDamagedArchives(t *testing.T) {
	_, tarball := rootfs(t)
	d := t.TempDir()
	warned := ""
	o := opener(t, source.Options{Dir: d, Warn: func(text string) { warned = text }})
	root := func(name string, data []byte) error {
		t.Helper()
		write(t, d+"/"+name, string(data))
		_, err := o.Root(t.Context(), name)
		return err
	}
	for _, program := range []string{"", "gzip", "xz", "zstd", "bzip2"} {
		path := tarball
		if program != "" {
			path = compress(t, program, tarball)
		}
		data, err := os.ReadFile(path)
		must(t, err)
		cuts := []int{600, 5000, len(data) / 2, len(data) - 20000}
		if program != "" {
			cuts = append(cuts, 20, len(data)-20, len(data)-8, len(data)-5, len(data)-1)
		}
		for _, n := range cuts {
			if err := root("cut", data[:n]); !corrupt(err) || !strings.HasPrefix(err.Error(), "cut: ") || !strings.Contains(err.Error(), "cut short") {
				t.Errorf("%s cut at %d of %d: %v", program, n, len(data), err)
			}
		}
		if program == "" {
			continue
		}
		for _, n := range []int{len(data) / 3, len(data) / 2, len(data) - 200} {
			bad := bytes.Clone(data)
			bad[n] ^= 0x10
			if err := root("flipped", bad); !corrupt(err) {
				t.Errorf("%s with a bit flipped at %d of %d: %v", program, n, len(data), err)
			}
		}
		// gzip and bzip2 ignore trailing data. tar ignores them only after bzip2 data.
		for _, garbage := range []string{"x", "garb", "garbage that is long enough for a header", strings.Repeat("\x00", 512), strings.Repeat("\x00", 512) + "x"} {
			warned = ""
			err := root("garbage", append(bytes.Clone(data), garbage...))
			zero := strings.Trim(garbage, "\x00") == ""
			switch said := fmt.Sprintf("compressed stream: %d bytes of other data follow the end of the %s data: it is complete without them", len(garbage), program); {
			case zero && program != "zstd" || program == "bzip2":
				if err != nil || zero == strings.Contains(warned, fmt.Sprintf("garbage: %d bytes after the end of the bzip2 data", len(garbage))) {
					t.Errorf("%s with %q behind: %v, warned %q", program, garbage, err, warned)
				}
			case program == "gzip" && garbage == "x": // gzip says that it ends unexpectedly
				if !corrupt(err) {
					t.Errorf("gzip with %q behind: %v", garbage, err)
				}
			case !corrupt(err) || !strings.Contains(err.Error(), said):
				t.Errorf("%s with %q behind: %v", program, garbage, err)
			}
		}
	}

	// A complete stream of an incomplete tar.
	data, err := os.ReadFile(tarball)
	must(t, err)
	write(t, d+"/half.tar", string(data[:len(data)/2]))
	half, err := os.ReadFile(compress(t, "zstd", d+"/half.tar"))
	must(t, err)
	if err := root("half", half); !corrupt(err) || !strings.Contains(err.Error(), "half: cut short at byte ") {
		t.Error(err)
	}
	// A stream that needs too much memory is not damaged.
	long := exec.Command(imagetest.Need(t, "zstd"), "-1", "--long=30", "-q", "-c")
	long.Stdin = bytes.NewReader(data)
	packed, err := long.Output()
	must(t, err)
	if err := root("long", packed); err == nil || corrupt(err) || !strings.Contains(err.Error(), "128 MiB") {
		t.Error(err)
	}
}

func TestXZCutBetweenBlocks(t *testing.T) {
	_, tarball := rootfs(t)
	data, err := os.ReadFile(compress(t, "xz", tarball, "--block-size=100000"))
	must(t, err)
	d := t.TempDir()
	for n := len(data) - 100; n < len(data); n++ {
		o := opener(t, source.Options{Dir: d})
		write(t, d+"/cut", string(data[:n]))
		if _, err := o.Root(t.Context(), "cut"); !corrupt(err) {
			t.Errorf("cut at %d of %d: %v", n, len(data), err)
		}
		must(t, o.Close())
	}
	write(t, d+"/padded", string(data)+strings.Repeat("\x00", 64))
	if _, err := opener(t, source.Options{Dir: d}).Root(t.Context(), "padded"); err != nil {
		t.Error(err)
	}
}

func TestContextIsRespected(t *testing.T) {
	dir, tarball := rootfs(t)
	o := opener(t, source.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, ref := range []string{dir, tarball, compress(t, "gzip", tarball)} {
		if _, err := o.Root(ctx, ref); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", filepath.Base(ref), err)
		}
	}
	if _, err := o.File(ctx, tarball); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
