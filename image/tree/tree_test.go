package tree_test

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"imgtool/image/tree"
	"imgtool/image/tree/treetest"
)

const modTime = 1700000000

func TestOpenFollowsLinksInsideTheTree(t *testing.T) {
	tr := tree.New(modTime)
	file := &tree.Inode{Mode: tree.Regular | 0o644, Content: strings.NewReader("kernel")}
	link := func(target string) *tree.Inode { return &tree.Inode{Mode: tree.Symlink | 0o777, Target: target} }
	for path, n := range map[string]*tree.Inode{
		"usr/lib/kernel": file,
		"lib":            link("usr/lib"),
		"boot/vmlinuz":   link("/lib/kernel"),
		"boot/up":        link("../../../lib/./kernel"),
		"boot/slash":     link("../lib/"),
		"boot/gone":      link("../lib/modules/6.1"),
		"loop":           link("loop"),
	} {
		treetest.Must(t, tr.Put(path, n))
	}
	for _, path := range []string{"usr/lib/kernel", "/usr/lib/kernel", "lib/kernel", "boot/vmlinuz", "boot/up", "boot/slash/kernel", "boot/../lib/kernel"} {
		if n, err := tr.Open(path); err != nil || n != file {
			t.Errorf("%s: %v, %v", path, n, err)
		}
	}
	if n, err := tr.Open("/"); err != nil || n != tr.Lookup("") {
		t.Errorf("/: %v, %v", n, err)
	}
	for path, want := range map[string]string{
		"nope":          "nope: file does not exist",
		"usr/bin/nope":  "usr/bin/nope: usr/bin: file does not exist",
		"boot/gone":     "boot/gone: usr/lib/modules: file does not exist",
		"loop":          "loop: more than 40 symbolic links on the way",
		"lib/kernel/up": "lib/kernel/up: its parent usr/lib/kernel is not a directory",
	} {
		_, err := tr.Open(path)
		if err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", path, err, want)
		}
		if strings.Contains(want, "exist") != errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v is or is not fs.ErrNotExist", path, err)
		}
	}
}

func TestResolve(t *testing.T) {
	tr := tree.New(modTime)
	treetest.Must(t, tr.Put("usr/lib/kernel", &tree.Inode{Mode: tree.Regular | 0o644}))
	treetest.Must(t, tr.Put("lib", &tree.Inode{Mode: tree.Symlink | 0o777, Target: "usr/lib"}))
	treetest.Must(t, tr.Put("vmlinuz", &tree.Inode{Mode: tree.Symlink | 0o777, Target: "/lib/kernel"}))
	for _, c := range []struct {
		path string
		last bool
		want string
	}{
		{"/vmlinuz", true, "usr/lib/kernel"},
		{"/vmlinuz", false, "vmlinuz"},
		{"/lib/new/file", true, "usr/lib/new/file"},
		{"/", true, ""},
	} {
		if got, err := tr.Resolve(c.path, c.last); err != nil || got != c.want {
			t.Errorf("%s: %q, %v", c.path, got, err)
		}
	}
	if _, err := tr.Resolve("/vmlinuz/up", true); err == nil {
		t.Error("a path below a file is resolved")
	}
}

func TestWithout(t *testing.T) {
	tr := tree.New(modTime)
	f := &tree.Inode{Mode: tree.Regular | 0o644}
	for _, p := range []string{"a/b/c", "a/b-d", "e"} {
		treetest.Must(t, tr.Put(p, f))
	}
	before := treetest.Digest(t, tr)
	if got := treetest.Digest(t, tr.Without(nil)); got != before {
		t.Error("a full copy has another digest")
	}
	less := tr.Without(func(p string) bool { return p == "a/b" || p == "" })
	want := "/ 40755 0:0 @1700000000\na 40755 0:0 @1700000000\na/b-d 100644 0:0 @0 \"\"\ne = a/b-d\n"
	if d := cmp.Diff(want, treetest.Dump(t, less)); d != "" {
		t.Error(d)
	}
	less.Remove("a")
	if treetest.Digest(t, tr) != before {
		t.Error("the first tree was changed")
	}
}

func TestPutMakesParentsAndReplaces(t *testing.T) {
	tr := tree.New(modTime)
	file := &tree.Inode{Mode: tree.Regular | 0o600, ModTime: 5}
	treetest.Must(t, tr.Put("", &tree.Inode{Mode: tree.Dir | 0o700, ModTime: 1}))
	treetest.Must(t, tr.Put("a/b/c", file))
	treetest.Must(t, tr.Put("a/bc", file))
	treetest.Must(t, tr.Put("a", &tree.Inode{Mode: tree.Dir | 0o711, ModTime: 2}))
	want := "/ 40700 0:0 @1\na 40711 0:0 @2\na/b 40755 0:0 @1700000000\na/b/c 100600 0:0 @5 \"\"\na/bc = a/b/c\n"
	if d := cmp.Diff(want, treetest.Dump(t, tr)); d != "" {
		t.Error(d)
	}
	treetest.Must(t, tr.Put("a/b", file))
	if tr.Lookup("a/b/c") != nil || tr.Lookup("a/bc") == nil {
		t.Error("a directory that became a file:", treetest.Dump(t, tr))
	}
	for _, path := range []string{"a/b/c", "/x", "x/", "x//y", "./x", "x/..", "x\x00", strings.Repeat("n", 256), strings.Repeat("n/", 2048) + "n"} {
		if err := tr.Put(path, file); err == nil {
			t.Errorf("%.20q was put", path)
		}
	}
	tr.Remove("a")
	if tr.Len() != 1 {
		t.Error("left:", treetest.Dump(t, tr))
	}
}

func TestDigestCoversEverything(t *testing.T) {
	base := func() *tree.Tree {
		tr := tree.New(modTime)
		f := &tree.Inode{Mode: tree.Regular | 0o644, ModTime: 1, Content: strings.NewReader("data")}
		treetest.Must(t, tr.Put("d/a", f))
		treetest.Must(t, tr.Put("d/b", f))
		treetest.Must(t, tr.Put("l", &tree.Inode{Mode: tree.Symlink | 0o777, Target: "d"}))
		treetest.Must(t, tr.Put("n", &tree.Inode{Mode: tree.CharDev | 0o600, Major: 1, Minor: 3}))
		return tr
	}
	file := func() *tree.Inode {
		return &tree.Inode{Mode: tree.Regular | 0o644, ModTime: 1, Content: strings.NewReader("data")}
	}
	seen := map[string]string{}
	for name, edit := range map[string]func(*tree.Tree){
		"nothing": func(*tree.Tree) {},
		"data": func(tr *tree.Tree) {
			n := *tr.Lookup("d/a")
			n.Content = strings.NewReader("date")
			tr.Put("d/a", &n)
			tr.Put("d/b", &n)
		},
		"length": func(tr *tree.Tree) {
			n := *tr.Lookup("d/a")
			n.Content = strings.NewReader("dat")
			tr.Put("d/a", &n)
			tr.Put("d/b", &n)
		},
		"mode":        func(tr *tree.Tree) { n := *tr.Lookup("d/a"); n.Mode |= 0o4000; tr.Put("d/a", &n); tr.Put("d/b", &n) },
		"uid":         func(tr *tree.Tree) { n := *tr.Lookup("d"); n.UID = 1; tr.Put("d", &n) },
		"gid":         func(tr *tree.Tree) { n := *tr.Lookup("d"); n.GID = 1; tr.Put("d", &n) },
		"time":        func(tr *tree.Tree) { n := *tr.Lookup("d"); n.ModTime++; tr.Put("d", &n) },
		"target":      func(tr *tree.Tree) { n := *tr.Lookup("l"); n.Target = "e"; tr.Put("l", &n) },
		"minor":       func(tr *tree.Tree) { n := *tr.Lookup("n"); n.Minor++; tr.Put("n", &n) },
		"xattr":       func(tr *tree.Tree) { n := *tr.Lookup("d"); n.Xattrs = []tree.Xattr{{"user.a", "b"}}; tr.Put("d", &n) },
		"xattr name":  func(tr *tree.Tree) { n := *tr.Lookup("d"); n.Xattrs = []tree.Xattr{{"user.ab", ""}}; tr.Put("d", &n) },
		"links apart": func(tr *tree.Tree) { tr.Put("d/b", file()) },
		"a path more": func(tr *tree.Tree) { tr.Put("d/c", file()) },
		"a path less": func(tr *tree.Tree) { tr.Remove("d/b") },
	} {
		tr := base()
		edit(tr)
		sum := treetest.Digest(t, tr)
		if other, ok := seen[sum]; ok {
			t.Errorf("%s and %s have one digest", name, other)
		}
		seen[sum] = name
	}
	if seen[treetest.Digest(t, base())] != "nothing" {
		t.Error("the digest of the same tree differs")
	}
}

func TestWithoutXattrs(t *testing.T) {
	tr := tree.New(1)
	shared := &tree.Inode{Mode: tree.Regular | 0o644, Xattrs: []tree.Xattr{{Name: tree.ACL, Value: "x"}, {Name: "user.a", Value: "y"}}}
	for _, p := range []string{"a", "b"} {
		if err := tr.Put(p, shared); err != nil {
			t.Fatal(err)
		}
	}
	left, n, first := tr.WithoutXattrs(func(name string) bool { return name == tree.ACL })
	if n != 2 || first != "a" {
		t.Errorf("%d, %q", n, first)
	}
	if a, b := left.Lookup("a"), left.Lookup("b"); a != b || len(a.Xattrs) != 1 || a.Xattrs[0].Name != "user.a" {
		t.Errorf("%+v, %+v", a, b)
	}
	if len(shared.Xattrs) != 2 || tr.Lookup("a") != shared {
		t.Error("the tree was changed")
	}
}
