package factory

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"imgtool/image/imagetest"
	"imgtool/image/tree"
	"imgtool/image/tree/hostfs"
	"imgtool/image/tree/treetest"
)

// outsides are ways to make a link that leads out of a root directory.
var outsides = map[string]func(t *testing.T, link, outside string) error{
	"absolute": func(t *testing.T, link, outside string) error { return os.Symlink(outside, link) },
	"relative": func(t *testing.T, link, outside string) error {
		rel, err := filepath.Rel(filepath.Dir(link), outside)
		treetest.Must(t, err)
		return os.Symlink(rel, link)
	},
	"by two links": func(t *testing.T, link, outside string) error {
		treetest.Must(t, os.Symlink(outside, link+".2"))
		return os.Symlink(filepath.Base(link)+".2", link)
	},
}

func openRoot(dir string) (*rootDir, error) {
	root, err := os.OpenRoot(dir)
	return &rootDir{root}, err
}

// leak returns a root with a directory and a file that are links to the outside, and the
// outside directory.
func leak(t *testing.T, how string) (r *rootDir, outside string) {
	t.Helper()
	dir := t.TempDir()
	outside = filepath.Join(dir, "outside")
	root := filepath.Join(dir, "root")
	treetest.Must(t, os.MkdirAll(filepath.Join(outside, "sub"), 0o755))
	treetest.Must(t, os.Mkdir(root, 0o755))
	treetest.Must(t, os.WriteFile(filepath.Join(outside, "file"), []byte("secret"), 0o640))
	treetest.Must(t, os.WriteFile(filepath.Join(outside, "sub", "file"), []byte("secret"), 0o640))
	treetest.Must(t, os.WriteFile(filepath.Join(root, "own"), []byte("own"), 0o640))
	treetest.Must(t, outsides[how](t, filepath.Join(root, "dir"), outside))
	treetest.Must(t, outsides[how](t, filepath.Join(root, "link"), filepath.Join(outside, "file")))
	r, err := openRoot(root)
	treetest.Must(t, err)
	t.Cleanup(func() { r.Close() })
	return r, outside
}

func TestRootDirKeepsInside(t *testing.T) {
	imagetest.NeedRoot(t)
	reg := func(p string) change {
		return change{Path: p, Mode: tree.Regular | 0o600, UID: 5, GID: 5, Data: []byte("new"), Xattrs: map[string][]byte{"user.x": []byte("y")}}
	}
	for how := range outsides {
		for name, do := range map[string]func(r *rootDir) error{
			"file":                   func(r *rootDir) error { c := reg("dir/file"); return c.make(r) },
			"new file":               func(r *rootDir) error { c := reg("dir/new"); return c.make(r) },
			"file further down":      func(r *rootDir) error { c := reg("dir/sub/file"); return c.make(r) },
			"file in place of link":  func(r *rootDir) error { c := reg("link"); return c.make(r) },
			"with a backup":          func(r *rootDir) error { c := reg("own"); c.Backup = "dir/own.bck"; return c.make(r) },
			"with a backup above":    func(r *rootDir) error { c := reg("own"); c.Backup = "../own.bck"; return c.make(r) },
			"directory":              func(r *rootDir) error { c := change{Path: "dir/sub", Mode: tree.Dir | 0o700, UID: 5}; return c.make(r) },
			"new directory":          func(r *rootDir) error { c := change{Path: "dir/new", Mode: tree.Dir | 0o700, UID: 5}; return c.make(r) },
			"directory for the link": func(r *rootDir) error { c := change{Path: "dir", Mode: tree.Dir | 0o700, UID: 5}; return c.make(r) },
			"link": func(r *rootDir) error {
				c := change{Path: "dir/l", Mode: tree.Symlink | 0o777, Target: "x"}
				return c.make(r)
			},
			"second name":          func(r *rootDir) error { c := change{Path: "n", Link: "dir/file"}; return c.make(r) },
			"second name outside":  func(r *rootDir) error { c := change{Path: "dir/n", Link: "own"}; return c.make(r) },
			"removal":              func(r *rootDir) error { c := change{Path: "dir/file", Remove: true}; return c.make(r) },
			"removal of a tree":    func(r *rootDir) error { c := change{Path: "dir/sub", Remove: true}; return c.make(r) },
			"removal of the link":  func(r *rootDir) error { c := change{Path: "dir", Remove: true}; return c.make(r) },
			"above":                func(r *rootDir) error { c := reg("../outside/file"); return c.make(r) },
			"state file":           func(r *rootDir) error { return r.replaceFile("/dir/file", []byte("new"), 0o644) },
			"state file as a link": func(r *rootDir) error { return r.replaceFile("/link", []byte("new"), 0o644) },
			"removed state file":   func(r *rootDir) error { return r.removeFile("/dir/file") },
			"removed linked file":  func(r *rootDir) error { return r.removeFile("/link") },
		} {
			r, outside := leak(t, how)
			before := dump(t, outside)
			err := do(r)
			if d := cmp.Diff(before, dump(t, outside)); d != "" {
				t.Errorf("%s, %s: outside has changed (%v): %s", how, name, err, d)
			}
			entries, _ := os.ReadDir(filepath.Dir(outside))
			if len(entries) != 2 {
				t.Errorf("%s, %s: there is %v beside the root", how, name, entries)
			}
			if data, _ := os.ReadFile(filepath.Join(r.Name(), "n")); string(data) == "secret" {
				t.Errorf("%s, %s: a file from outside is in the root now", how, name)
			}
		}
		r, _ := leak(t, how)
		for _, p := range []string{"/dir/file", "/link", "/../outside/file", "/dir/../outside/file"} {
			if b, err := r.readFile(p); err == nil {
				t.Errorf("%s: %s reads %q", how, p, b)
			}
			if p != "/link" && r.exists(p) {
				t.Errorf("%s: there is %s", how, p)
			}
		}
	}
}

// Links are followed as by a program in a chroot.
func TestRootDirFollowsLinksAsChroot(t *testing.T) {
	imagetest.NeedRoot(t)
	chroot, busybox := imagetest.Need(t, "chroot"), imagetest.Need(t, "busybox")
	root := t.TempDir()
	treetest.Must(t, os.MkdirAll(filepath.Join(root, "a/b"), 0o755))
	treetest.Must(t, os.WriteFile(filepath.Join(root, "a/b/file"), []byte("text\n"), 0o644))
	imagetest.Run(t, "cp", busybox, filepath.Join(root, "busybox"))
	for link, target := range map[string]string{
		"abs": "/a/b", "abs-file": "/a/b/file", "a/up": "../a/b", "far": "../../../../a/b", "chain": "abs", "a/abs": "/abs",
		"loop": "loop", "gone": "/nothing", "a/b/root": "/", "dots": "a/up/../b/./file",
	} {
		treetest.Must(t, os.Symlink(target, filepath.Join(root, link)))
	}
	treetest.Must(t, unix.Mkfifo(filepath.Join(root, "pipe"), 0o600))
	r, err := openRoot(root)
	treetest.Must(t, err)
	defer r.Close()
	for _, p := range []string{"/abs/file", "/abs-file", "/a/up/file", "/far/file", "/chain/file", "/a/abs/file", "/loop", "/loop/x", "/gone", "/gone/x",
		"/a/b/root/a/b/root/abs/file", "/dots", "/none/x", "/a/b/file/x", "/abs/"} {
		want, wantErr := exec.Command(chroot, root, "/busybox", "cat", p).Output()
		got, err := r.readFile(p)
		if string(got) != string(want) || (err == nil) != (wantErr == nil) {
			t.Errorf("%s: %q, %v; in a chroot %q, %v", p, got, err, want, wantErr)
		}
	}
	done := make(chan error, 1)
	go func() { _, err := r.readFile("/pipe"); done <- err }()
	select {
	case err := <-done:
		if err == nil || !strings.Contains(err.Error(), "not a regular file") {
			t.Error(err)
		}
	case <-time.After(3 * time.Minute):
		t.Error("a pipe is waited for")
	}
}

// dump returns a directory as text.
func dump(t *testing.T, dir string) string {
	t.Helper()
	all, err := hostfs.Read(dir, true, 0)
	treetest.Must(t, err)
	return treetest.Dump(t, all)
}
