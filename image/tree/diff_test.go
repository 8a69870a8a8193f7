package tree_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"imgtool/image"
	"imgtool/image/tree"
	"imgtool/image/tree/treetest"
)

// words describes a diff, one line for each path.
func words(t testing.TB, a, b *tree.Tree) string {
	t.Helper()
	var all []string
	for c, err := range tree.Diff(t.Context(), a, b, nil) {
		treetest.Must(t, err)
		line := c.Path
		switch {
		case c.A == nil:
			line += " added"
		case c.B == nil:
			line += " removed"
		}
		for i, name := range []string{"type", "mode", "owner", "time", "target", "device", "xattrs", "data", "links"} {
			if c.What&(1<<i) != 0 {
				line += " " + name
			}
		}
		if c.What&tree.Data != 0 {
			line += fmt.Sprint(" at ", c.At)
		}
		if c.What&tree.Links != 0 {
			line += fmt.Sprintf(" %q %q", c.LinkA, c.LinkB)
		}
		all = append(all, line)
	}
	return strings.Join(all, "\n")
}

func TestDiffFindsEveryAspect(t *testing.T) {
	base := func() *tree.Tree {
		tr := tree.New(1)
		for path, n := range map[string]*tree.Inode{
			"a":     {Mode: tree.Regular | 0o644, Content: strings.NewReader("text")},
			"a-b":   {Mode: tree.Regular | 0o644, Content: strings.NewReader(strings.Repeat("x", 3<<20))},
			"d/e/f": {Mode: tree.Regular | 0o600},
			"d/l":   {Mode: tree.Symlink | 0o777, Target: "e"},
			"dev":   {Mode: tree.CharDev | 0o600, Major: 5, Minor: 1},
			"x":     {Mode: tree.Fifo | 0o600, Xattrs: []tree.Xattr{{Name: "user.a", Value: "1"}}},
		} {
			treetest.Must(t, tr.Put(path, n))
		}
		treetest.Must(t, tr.Put("d/same", tr.Lookup("a")))
		return tr
	}
	if got := words(t, base(), base()); got != "" {
		t.Error(got)
	}
	with := func(path string, change func(n *tree.Inode)) func(*tree.Tree) {
		return func(tr *tree.Tree) {
			n := *tr.Lookup(path)
			change(&n)
			treetest.Must(t, tr.Put(path, &n))
		}
	}
	for want, change := range map[string]func(*tree.Tree){
		" mode":                     with("", func(n *tree.Inode) { n.Mode = tree.Dir | 0o700 }),
		"d/e owner":                 with("d/e", func(n *tree.Inode) { n.GID = 4 }),
		"d/e/f owner":               with("d/e/f", func(n *tree.Inode) { n.UID = 4 }),
		"d/e/f mode time":           with("d/e/f", func(n *tree.Inode) { n.Mode, n.ModTime = tree.Regular|0o4600, 9 }),
		"d/e/f data at 0":           with("d/e/f", func(n *tree.Inode) { n.Content = strings.NewReader("1") }),
		"a-b data at 2500000":       with("a-b", func(n *tree.Inode) { n.Content = strings.NewReader(strings.Repeat("x", 2500000) + "y") }),
		"a-b data at 3145728":       with("a-b", func(n *tree.Inode) { n.Content = strings.NewReader(strings.Repeat("x", 3<<20+1)) }),
		"a-b data at 1":             with("a-b", func(n *tree.Inode) { n.Content = strings.NewReader("x") }),
		"d/l target":                with("d/l", func(n *tree.Inode) { n.Target = "f" }),
		"dev device":                with("dev", func(n *tree.Inode) { n.Minor = 2 }),
		"dev type":                  with("dev", func(n *tree.Inode) { n.Mode = tree.BlockDev | 0o600 }),
		"x xattrs":                  with("x", func(n *tree.Inode) { n.Xattrs = nil }),
		`d/same links "a" "d/same"`: with("d/same", func(n *tree.Inode) {}),
		"a data at 0\nd/same data links at 0 \"a\" \"d/same\"": func(tr *tree.Tree) {
			for _, p := range []string{"a", "d/same"} {
				treetest.Must(t, tr.Put(p, &tree.Inode{Mode: tree.Regular | 0o644, Content: strings.NewReader("more")}))
			}
		},
		"d/e removed\nd/e/f removed": func(tr *tree.Tree) { tr.Remove("d/e") },
		"a! added\na!/x added\nz added": func(tr *tree.Tree) {
			treetest.Must(t, tr.Put("a!", dirNode()))
			treetest.Must(t, tr.Put("a!/x", dirNode()))
			treetest.Must(t, tr.Put("z", dirNode()))
		},
		"d type\nd/e removed\nd/e/f removed\nd/l removed\nd/same removed": func(tr *tree.Tree) { treetest.Must(t, tr.Put("d", &tree.Inode{Mode: tree.Fifo})) },
	} {
		b := base()
		change(b)
		if d := cmp.Diff(want, words(t, base(), b)); d != "" {
			t.Error(d)
		}
	}
	// A change of a file with several hard links is reported once.
	one, other := base(), base()
	n := *other.Lookup("a")
	n.Content = strings.NewReader("Text")
	treetest.Must(t, other.Put("a", &n))
	treetest.Must(t, other.Put("d/same", &n))
	if got := words(t, one, other); got != "a data at 0" {
		t.Error(got)
	}
}

func dirNode() *tree.Inode { return &tree.Inode{Mode: tree.Dir | 0o755, ModTime: 1} }

func TestDiffNamesUnreadableFile(t *testing.T) {
	bad := errors.New("bad sector")
	good := tree.New(0)
	treetest.Must(t, good.Put("d/f", &tree.Inode{Mode: tree.Regular, Content: strings.NewReader("xxxx")}))
	broken := tree.New(0)
	treetest.Must(t, broken.Put("d/f", &tree.Inode{Mode: tree.Regular, Content: brokenFile{4, bad}}))
	for _, inB := range []bool{false, true} {
		a, b := broken, good
		if inB {
			a, b = good, broken
		}
		var read *tree.ReadError
		for _, err := range tree.Diff(t.Context(), a, b, nil) {
			if !errors.As(err, &read) || read.InB != inB || read.Path != "d/f" || !errors.Is(err, bad) {
				t.Error(err)
			}
		}
		if read == nil {
			t.Error("no error")
		}
	}
}

type brokenFile struct {
	size int64
	err  error
}

func (b brokenFile) Size() int64                           { return b.size }
func (b brokenFile) ReadAt(p []byte, _ int64) (int, error) { return 0, b.err }

// unread is a hole that must not be read.
type unread struct{ image.Content }

func (u unread) Hole(off int64) int64 { return u.Size() - off }
func (u unread) ReadAt(p []byte, off int64) (int, error) {
	panic("a hole was read")
}

func TestDiffDoesNotReadHoles(t *testing.T) {
	sparse := func() *tree.Tree {
		tr := tree.New(0)
		treetest.Must(t, tr.Put("f", &tree.Inode{Mode: tree.Regular, Content: unread{image.Zeros(100 << 30)}}))
		return tr
	}
	if got := words(t, sparse(), sparse()); got != "" {
		t.Error(got)
	}
	treetest.Digest(t, sparse())
	// The digest does not depend on whether holes are reported.
	filled := tree.New(0)
	content := append(bytes.Repeat([]byte{1}, 1<<20), make([]byte, 3<<20+5)...)
	treetest.Must(t, filled.Put("f", &tree.Inode{Mode: tree.Regular, Content: bytes.NewReader(content)}))
	m, err := image.New(int64(len(content)), image.Extent{Content: bytes.NewReader(content[:1<<20])})
	treetest.Must(t, err)
	known := tree.New(0)
	treetest.Must(t, known.Put("f", &tree.Inode{Mode: tree.Regular, Content: knowing{m}}))
	if a, b := treetest.Digest(t, filled), treetest.Digest(t, known); a != b {
		t.Errorf("%s with holes, %s with zeros", b, a)
	}
	other := bytes.Clone(content)
	other[2<<20] = 1
	changed := tree.New(0)
	treetest.Must(t, changed.Put("f", &tree.Inode{Mode: tree.Regular, Content: bytes.NewReader(other)}))
	if treetest.Digest(t, changed) == treetest.Digest(t, known) {
		t.Error("a changed byte in a hole does not change the digest")
	}
}

// knowing is an image that reports its holes.
type knowing struct{ *image.Image }

func (k knowing) Hole(off int64) int64 {
	for s := range k.Spans() {
		if off < s.End() {
			return max(0, s.Off-off)
		}
	}
	return k.Size() - off
}
