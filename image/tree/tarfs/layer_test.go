package tarfs_test

import (
	"archive/tar"
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"imgtool/image/tree"
	"imgtool/image/tree/tarfs"
	"imgtool/image/tree/treetest"
)

// paths describes a tree in one line, without the metadata of directories.
func paths(t testing.TB, tr *tree.Tree) string {
	var all []string
	for line := range strings.Lines(treetest.Dump(t, tr)) {
		f := strings.SplitN(strings.TrimSpace(line), " ", 5)
		if f[0] == "/" {
			continue
		}
		switch {
		case f[1] == "=":
			all = append(all, f[0]+"="+f[2])
		case strings.HasPrefix(f[1], "4"):
			all = append(all, f[0]+"/")
		case len(f) > 4:
			all = append(all, f[0]+strings.ReplaceAll(strings.ReplaceAll(f[4], " ", ""), `"`, ":"))
		default:
			all = append(all, f[0])
		}
	}
	return strings.Join(all, " ")
}

func TestWhiteouts(t *testing.T) {
	type layers [][]tar.Header
	base := []tar.Header{dir("d"), file("d/a", "1"), file("d/b", "1"), dir("d/e"), file("d/e/f", "1"), file("da", "1")}
	for _, c := range []struct {
		name   string
		layers layers
		want   string
	}{
		{"a whiteout", layers{base, {file("d/.wh.a", "")}}, "d/ d/b:1: d/e/ d/e/f:1: da:1:"},
		{"a whiteout of a directory", layers{base, {file(".wh.d", "")}}, "da:1:"},
		{"a whiteout of nothing", layers{base, {file("x/.wh.a", ""), file("d/a/.wh.x", ""), file(".wh.nope", ""), file(".wh.", "")}}, "d/ d/a:1: d/b:1: d/e/ d/e/f:1: da:1:"},
		{"a whiteout, then the file", layers{base, {file("d/.wh.a", ""), file("d/a", "2")}}, "d/ d/a:2: d/b:1: d/e/ d/e/f:1: da:1:"},
		{"the file, then its whiteout", layers{base, {file("d/a", "2"), file("d/.wh.a", "")}}, "d/ d/a:2: d/b:1: d/e/ d/e/f:1: da:1:"},
		{"a directory removed and made again", layers{base, {dir("d"), file("d/x", "2"), file(".wh.d", "")}}, "d/ d/x:2: da:1:"},
		{"a whiteout two layers up", layers{base, {file("d/a", "2")}, {file("d/.wh.a", "")}, {file("d/c", "4")}}, "d/ d/b:1: d/c:4: d/e/ d/e/f:1: da:1:"},
		{"opaque first", layers{base, {dir("d"), file("d/.wh..wh..opq", ""), file("d/x", "2")}}, "d/ d/x:2: da:1:"},
		{"opaque last", layers{base, {dir("d"), file("d/x", "2"), file("d/e/y", "2"), file("d/.wh..wh..opq", "")}}, "d/ d/e/ d/e/y:2: d/x:2: da:1:"},
		{"opaque below", layers{base, {file("d/e/.wh..wh..opq", "")}}, "d/ d/a:1: d/b:1: d/e/ da:1:"},
		{"an opaque root", layers{base, {file(".wh..wh..opq", ""), file("x", "2")}}, "x:2:"},
		{"what old Docker kept", layers{base, {file(".wh..wh.aufs", ""), dir(".wh..wh.plnk"), file("d/.wh..wh.orph", "")}}, "d/ d/a:1: d/b:1: d/e/ d/e/f:1: da:1:"},
		{"a directory becomes a file", layers{base, {file("d", "2")}}, "d:2: da:1:"},
		{"a file becomes a directory", layers{base, {dir("d/a"), file("d/a/x", "2")}}, "d/ d/a/ d/a/x:2: d/b:1: d/e/ d/e/f:1: da:1:"},
		{"a directory again keeps what it has", layers{base, {dir("d")}}, "d/ d/a:1: d/b:1: d/e/ d/e/f:1: da:1:"},
		{"a link to a directory becomes a directory", layers{{dir("d"), file("d/a", "1"), symlink("l", "d")}, {dir("l"), file("l/b", "2")}}, "d/ d/a:1: l/ l/b:2:"},
		{"a merged usr", layers{{symlink("bin", "usr/bin"), file("usr/bin/a", "1"), file("usr/bin/b", "1")}, {file("bin/c", "2"), file("bin/.wh.a", "")}},
			"bin->usr/bin usr/ usr/bin/ usr/bin/b:1: usr/bin/c:2:"},
		{"opaque behind a link", layers{{symlink("bin", "usr/bin"), file("usr/bin/a", "1")}, {file("bin/.wh..wh..opq", ""), file("bin/c", "2")}},
			"bin->usr/bin usr/ usr/bin/ usr/bin/c:2:"},
		{"a whiteout of a link", layers{{symlink("bin", "usr/bin"), file("usr/bin/a", "1")}, {file(".wh.bin", ""), file("bin/c", "2")}},
			"bin/ bin/c:2: usr/ usr/bin/ usr/bin/a:1:"},

		// Cases in which Extract of go-containerregistry is wrong.
		{"C1: a link to a file replaced above keeps the old one", layers{{file("a", "1"), hardlink("b", "a")}, {file("a", "2")}}, "a:2: b:1:"},
		{"C2: a link to a file taken away above", layers{{file("a", "1"), hardlink("b", "a"), hardlink("c", "a")}, {file(".wh.a", "")}}, "b:1: c=b"},
		{"C3: a directory that is a link below", layers{{symlink("bin", "usr/bin"), dir("usr"), dir("usr/bin")}, {file("bin/x", "2")}}, "bin->usr/bin usr/ usr/bin/ usr/bin/x:2:"},

		{"a link to a file of a lower layer", layers{{file("a", "1")}, {hardlink("b", "a")}}, "a:1: b=a"},
		{"a link before its target is replaced in the same layer", layers{{file("a", "1")}, {hardlink("b", "a"), file("a", "2")}}, "a:2: b:1:"},
		{"a link after its target is replaced in the same layer", layers{{file("a", "1")}, {file("a", "2"), hardlink("b", "a")}}, "a:2: b=a"},
		{"a link to what the same layer takes away", layers{{file("d/a", "1")}, {file("d/.wh.a", ""), hardlink("b", "d/a")}}, "b:1: d/"},
		{"a link to what the same layer takes away later", layers{{file("d/a", "1")}, {hardlink("b", "d/a"), file(".wh.d", "")}}, "b:1:"},
	} {
		tr := tree.New(modTime)
		for _, l := range c.layers {
			data := treetest.Tar(t, l...)
			treetest.Must(t, tarfs.ApplyLayer(tr, bytes.NewReader(data), int64(len(data))))
		}
		if d := cmp.Diff(c.want, paths(t, tr)); d != "" {
			t.Errorf("%s: %s", c.name, d)
		}
	}
}

func TestLayerMetadata(t *testing.T) {
	tr := tree.New(modTime)
	lower := treetest.Tar(t, dir("./"), dir("d"), file("d/a", ""))
	d := dir("d")
	d.Mode, d.Uid = 0o2700, 7
	upper := treetest.Tar(t, dir("/"), d, file("e/b", ""))
	treetest.Must(t, tarfs.ApplyLayer(tr, bytes.NewReader(lower), int64(len(lower))))
	treetest.Must(t, tarfs.ApplyLayer(tr, bytes.NewReader(upper), int64(len(upper))))
	want := "/ 40755 0:0 @1\nd 42700 7:0 @1\nd/a 100644 0:0 @1 \"\"\ne 40755 0:0 @1700000000\ne/b 100644 0:0 @1 \"\"\n"
	if d := cmp.Diff(want, treetest.Dump(t, tr)); d != "" {
		t.Error(d)
	}
	bad := treetest.Tar(t, hardlink("x", "d/nope"))
	if err := tarfs.ApplyLayer(tr, bytes.NewReader(bad), int64(len(bad))); err == nil || err.Error() != "x: hard link to d/nope, which does not exist" {
		t.Error(err)
	}
	bad = treetest.Tar(t, file("d/a/x", ""))
	if err := tarfs.ApplyLayer(tr, bytes.NewReader(bad), int64(len(bad))); err == nil || err.Error() != "d/a/x: its parent d/a is not a directory" {
		t.Error(err)
	}
}
