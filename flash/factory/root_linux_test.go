package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"imgtool/image/edit/edittest"
	"imgtool/image/imagetest"
	"imgtool/image/tree"
)

// outsides are ways that a directory of a root can lead out of it: each makes link do so.
var outsides = map[string]func(link, outside string) error{
	"absolute": func(link, outside string) error { return os.Symlink(outside, link) },
	"relative": func(link, outside string) error {
		rel, err := filepath.Rel(filepath.Dir(link), outside)
		must(err)
		return os.Symlink(rel, link)
	},
	"by two links": func(link, outside string) error {
		must(os.Symlink(outside, link+".2"))
		return os.Symlink(filepath.Base(link)+".2", link)
	},
}

// leak is a root with a directory in it that leads to another one outside, which has all
// that could be read or changed there.
func leak(t *testing.T, how string) (r *rooted, outside string) {
	t.Helper()
	dir := t.TempDir()
	outside = filepath.Join(dir, "outside")
	root := filepath.Join(dir, "root")
	must(os.MkdirAll(filepath.Join(outside, "sub"), 0o755))
	must(os.Mkdir(root, 0o755))
	must(os.WriteFile(filepath.Join(outside, "file"), []byte("secret"), 0o640))
	must(os.WriteFile(filepath.Join(outside, "sub", "file"), []byte("secret"), 0o640))
	must(os.WriteFile(filepath.Join(root, "own"), []byte("own"), 0o640))
	must(outsides[how](filepath.Join(root, "dir"), outside))
	must(outsides[how](filepath.Join(root, "link"), filepath.Join(outside, "file")))
	r, err := openRooted(root)
	must(err)
	t.Cleanup(func() { r.Close() })
	return r, outside
}

func TestNothingOutsideOfARootIsTouched(t *testing.T) {
	imagetest.NeedRoot(t)
	reg := func(p string) change {
		return change{Path: p, Mode: tree.Regular | 0o600, UID: 5, GID: 5, Data: []byte("new"), Xattrs: map[string][]byte{"user.x": []byte("y")}}
	}
	for how := range outsides {
		for name, do := range map[string]func(r *rooted) error{
			"file":                   func(r *rooted) error { c := reg("dir/file"); return c.make(r) },
			"new file":               func(r *rooted) error { c := reg("dir/new"); return c.make(r) },
			"file further down":      func(r *rooted) error { c := reg("dir/sub/file"); return c.make(r) },
			"file in place of link":  func(r *rooted) error { c := reg("link"); return c.make(r) },
			"with a backup":          func(r *rooted) error { c := reg("own"); c.Backup = "dir/own.bck"; return c.make(r) },
			"with a backup above":    func(r *rooted) error { c := reg("own"); c.Backup = "../own.bck"; return c.make(r) },
			"directory":              func(r *rooted) error { c := change{Path: "dir/sub", Mode: tree.Dir | 0o700, UID: 5}; return c.make(r) },
			"new directory":          func(r *rooted) error { c := change{Path: "dir/new", Mode: tree.Dir | 0o700, UID: 5}; return c.make(r) },
			"directory for the link": func(r *rooted) error { c := change{Path: "dir", Mode: tree.Dir | 0o700, UID: 5}; return c.make(r) },
			"link": func(r *rooted) error {
				c := change{Path: "dir/l", Mode: tree.Symlink | 0o777, Target: "x"}
				return c.make(r)
			},
			"second name":          func(r *rooted) error { c := change{Path: "n", Link: "dir/file"}; return c.make(r) },
			"second name outside":  func(r *rooted) error { c := change{Path: "dir/n", Link: "own"}; return c.make(r) },
			"removal":              func(r *rooted) error { c := change{Path: "dir/file", Remove: true}; return c.make(r) },
			"removal of a tree":    func(r *rooted) error { c := change{Path: "dir/sub", Remove: true}; return c.make(r) },
			"removal of the link":  func(r *rooted) error { c := change{Path: "dir", Remove: true}; return c.make(r) },
			"above":                func(r *rooted) error { c := reg("../outside/file"); return c.make(r) },
			"state file":           func(r *rooted) error { return r.replaceFile("/dir/file", []byte("new"), 0o644) },
			"state file as a link": func(r *rooted) error { return r.replaceFile("/link", []byte("new"), 0o644) },
			"removed state file":   func(r *rooted) error { return r.remove("/dir/file") },
			"removed linked file":  func(r *rooted) error { return r.remove("/link") },
		} {
			r, outside := leak(t, how)
			before := edittest.Dump(dirTree(t, outside))
			err := do(r)
			if d := cmp.Diff(before, edittest.Dump(dirTree(t, outside))); d != "" {
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
			if info, err := r.stat(p); err == nil {
				t.Errorf("%s: there is %s, %v", how, p, info.Mode())
			}
			if p != "/link" && r.has(p) {
				t.Errorf("%s: there is %s", how, p)
			}
		}
	}
}

// Links inside of a root are followed as chroot does, which is asked.
func TestLinksOfARootLeadWhereItsSystemTakesThem(t *testing.T) {
	imagetest.NeedRoot(t)
	chroot, busybox := imagetest.Need(t, "chroot"), imagetest.Need(t, "busybox")
	root := t.TempDir()
	must(os.MkdirAll(filepath.Join(root, "a/b"), 0o755))
	must(os.WriteFile(filepath.Join(root, "a/b/file"), []byte("text\n"), 0o644))
	imagetest.Run(t, "cp", busybox, filepath.Join(root, "busybox"))
	for link, target := range map[string]string{
		"abs": "/a/b", "abs-file": "/a/b/file", "a/up": "../a/b", "far": "../../../../a/b", "chain": "abs", "a/abs": "/abs",
		"loop": "loop", "gone": "/nothing", "a/b/root": "/", "dots": "a/up/../b/./file",
	} {
		must(os.Symlink(target, filepath.Join(root, link)))
	}
	must(unix.Mkfifo(filepath.Join(root, "pipe"), 0o600))
	r, err := openRooted(root)
	must(err)
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
	case <-time.After(5 * time.Second):
		t.Error("a pipe is waited for")
	}
}

// The program itself, with a root whose directories lead to those of another one.
func TestALiveUnitStaysInItsRoot(t *testing.T) {
	b, root, conf := newLive(t)
	other := filepath.Join(b.dir, "other")
	plantLive(t, other)
	before := words(dirTree(t, other))
	for _, dir := range []string{"etc", "etc/waggle", "etc/ssh", "var/lib", "boot"} {
		for how := range outsides {
			os.RemoveAll(root)
			plantLive(t, root)
			must(os.RemoveAll(filepath.Join(root, dir)))
			must(outsides[how](filepath.Join(root, dir), filepath.Join(other, dir)))
			b.blank()
			status, out := b.live(root, conf)
			if d := cmp.Diff(before, words(dirTree(t, other))); d != "" {
				t.Fatalf("%s %s: exit status %d: %s\n%s", dir, how, status, out, d)
			}
			if status == 0 && strings.HasPrefix(dir, "etc") {
				t.Errorf("%s %s: it is provisioned without its own files", dir, how)
			}
		}
	}
}
