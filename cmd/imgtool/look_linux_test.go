package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"imgtool/image/fileinfo"
	"imgtool/image/imagetest"
	"imgtool/image/tree"
	"imgtool/image/tree/hostfs"
)

// ls prints what lstat returns on the kernel's mount of the same file system, and cat prints
// what is read there.
func TestLsAndCatMatchTheKernel(t *testing.T) {
	imagetest.NeedRoot(t)
	dir := filepath.Join(t.TempDir(), "root")
	noError(t, os.MkdirAll(filepath.Join(dir, "sub/deeper"), 0o755))
	odd := "odd \n\xff\\ name"
	for path, text := range map[string]string{"sub/file": strings.Repeat("text ", 50000), odd: "odd", "empty": "", "sub/deeper/x": "x"} {
		noError(t, os.WriteFile(filepath.Join(dir, path), []byte(text), 0o640))
	}
	at := func(p string) string { return filepath.Join(dir, p) }
	noError(t, os.Chmod(at("sub"), 0o1777|os.ModeSticky))
	noError(t, unix.Chmod(at("sub/file"), 0o6711))
	noError(t, os.Lchown(at("sub/file"), 70000, 4000000000))
	noError(t, os.Symlink("sub/file", at("link")))
	noError(t, os.Link(at("sub/file"), at("other")))
	noError(t, unix.Mknod(at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 300))))
	noError(t, unix.Mknod(at("disk"), unix.S_IFBLK|0o660, int(unix.Mkdev(259, 70000))))
	noError(t, unix.Mkfifo(at("fifo"), 0o600))
	noError(t, unix.Mknod(at("socket"), unix.S_IFSOCK|0o600, 0))
	noError(t, unix.Setxattr(at("sub/file"), "user.color", []byte("red\x00"), 0))
	noError(t, unix.Setxattr(at("sub"), "trusted.x", []byte("\x00\xff"), 0))

	squashfs, ext4 := filepath.Join(t.TempDir(), "x.squashfs"), filepath.Join(t.TempDir(), "x.ext4")
	imagetest.Run(t, "mksquashfs", dir, squashfs, "-quiet", "-no-progress")
	imagetest.Run(t, "mkfs.ext4", "-q", "-d", dir, ext4, "8M")
	for _, image := range []string{squashfs, ext4} {
		t.Run(filepath.Ext(image), func(t *testing.T) {
			var list []fileinfo.File
			noError(t, json.Unmarshal([]byte(imgtool(t, "ls", "-R", "--json", "--xattrs", image)), &list))
			dev, mounted := imagetest.Loop(t, image), t.TempDir()
			imagetest.Run(t, "mount", "-o", "ro", dev, mounted)
			t.Cleanup(func() { exec.Command("umount", mounted).Run() })
			real, err := hostfs.Read(mounted, true, 0)
			noError(t, err)
			want, got := map[string]string{}, map[string]string{}
			for path, n := range real.All() {
				if path == "" {
					continue
				}
				want["/"+path] = fmt.Sprint(fileinfo.Type(n), fileinfo.Octal(n.Mode), n.UID, n.GID, n.Size(), time.Unix(n.ModTime, 0).UTC().Format(time.RFC3339), n.Target, n.Major, n.Minor, n.Xattrs)
			}
			for _, f := range list {
				if f.Raw != nil {
					f.Path = string(f.Raw)
				}
				var xattrs []tree.Xattr
				for name, value := range f.Xattrs {
					xattrs = append(xattrs, tree.Xattr{Name: name, Value: string(value)})
				}
				got[f.Path] = fmt.Sprint(f.Type, f.Mode, f.UID, f.GID, f.Size, f.Time, f.Target, f.Major, f.Minor, xattrs)
			}
			if d := cmp.Diff(want, got); d != "" || len(got) < 12 {
				t.Errorf("%d paths: %s", len(got), d)
			}
			for _, path := range []string{"sub/file", "link", "other", odd, "empty", "sub/deeper/x"} {
				data, err := os.ReadFile(filepath.Join(mounted, path))
				noError(t, err)
				if printed := imgtool(t, "cat", image+":/"+path); printed != string(data) {
					t.Errorf("%q: %d bytes are printed, there are %d", path, len(printed), len(data))
				}
			}
		})
	}
}

// ls reads no content of files, so damage there does not matter.
func TestLsReadsMetadataOnly(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	noError(t, makeInputs("in"))
	imgtool(t, "build", "--board", "in/tiny.toml", "--inputs", "in", "-o", "x.img.zst")
	data, err := os.ReadFile("x.img.zst")
	noError(t, err)
	want := imgtool(t, "ls", "-R", "x.img.zst:rootfs-a")
	// Damage the frames of the kernel, which are most of the file.
	from, to := len(data)*6/10, len(data)*9/10
	copy(data[from:to], bytes.Repeat([]byte{0xaa}, to-from))
	noError(t, os.WriteFile("y.img.zst", data, 0o644))
	if got := imgtool(t, "ls", "-R", "y.img.zst:rootfs-a"); got != want {
		t.Error(cmp.Diff(want, got))
	}
	if out, err := tool(t, "cat", "y.img.zst:boot-a/Image").Output(); err == nil || len(out) > 4<<20 {
		t.Errorf("cat printed %d bytes of a damaged file", len(out))
	}
}

func noError(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
