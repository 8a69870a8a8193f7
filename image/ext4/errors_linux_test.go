package ext4_test

import (
	"errors"
	"strings"
	"testing"

	"imgtool/image/ext4"
	"imgtool/image/tree"
)

func TestNewErrors(t *testing.T) {
	with := func(f func(o *ext4.Options)) ext4.Options {
		o := sized(64 * mib)
		f(&o)
		return o
	}
	one := func(path string, n tree.Inode) *tree.Tree {
		tr := tree.New(modTime)
		put(t, tr, path, n)
		return tr
	}
	xattr := func(x ...tree.Xattr) *tree.Tree {
		n := file("x")
		n.Xattrs = x
		return one("a/b", n)
	}
	many := tree.New(modTime)
	names(t, many, "%d", 40_000)
	for _, c := range []struct {
		tr   *tree.Tree
		opt  ext4.Options
		want string
	}{
		{nil, with(func(o *ext4.Options) { o.Size++ }), "67108865 bytes are not a multiple"},
		{nil, with(func(o *ext4.Options) { o.Size = 0 }), "the files need"},
		{nil, with(func(o *ext4.Options) { o.Size = -4096 }), "-4096 bytes are not a multiple"},
		{nil, with(func(o *ext4.Options) { o.Size = 16 * tib }), "are not a multiple of 4096 up to 17592186040320"},
		{nil, with(func(o *ext4.Options) { o.Size = 64 * kib }), "the files need 225280 bytes and a file system of 65536 bytes has 0"},
		{nil, with(func(o *ext4.Options) { o.Label = strings.Repeat("x", 17) }), "longer than 16"},
		{nil, with(func(o *ext4.Options) { o.JournalSize = 4 * kib }), "invalid journal size for a file system of 67108864 bytes: 4096 bytes"},
		{nil, with(func(o *ext4.Options) { o.JournalSize = 60 * mib }), "the files need"},
		{nil, with(func(o *ext4.Options) { o.Inodes = 40_000 }), "40000 inodes do not fit"},
		{nil, with(func(o *ext4.Options) { o.Reserved = 51 }), "51 percent"},
		{many, with(func(o *ext4.Options) { o.Inodes = 1000 }), "the tree has 40011 files and directories, but the file system has 1008 inodes"},
		{many, with(func(o *ext4.Options) {}), "at most 32768"},
		{one("a/big", tree.Inode{Mode: tree.Regular, Content: pattern(70 * mib)}), with(func(o *ext4.Options) {}), "and a file system of 67108864 bytes has"},
		{one("a/neg", tree.Inode{Mode: tree.Regular, Content: pattern(-1)}), with(func(o *ext4.Options) {}), "a/neg: invalid file size -1"},
		{one("a/link", tree.Inode{Mode: tree.Symlink}), with(func(o *ext4.Options) {}), "a/link: "},
		{one("a/link", tree.Inode{Mode: tree.Symlink, Target: strings.Repeat("x", 4096)}), with(func(o *ext4.Options) {}), "a/link: "},
		{one("a/what", tree.Inode{Mode: 0o777}), with(func(o *ext4.Options) {}), "a/what: unknown file type 0"},
		{one("a/dev", tree.Inode{Mode: tree.CharDev, Major: 4096}), with(func(o *ext4.Options) {}), "a/dev: device 4096:0"},
		{one("lost+found", file("")), with(func(o *ext4.Options) {}), "lost+found: "},
		{xattr(tree.Xattr{Name: "user.x", Value: strings.Repeat("x", 4041)}), with(func(o *ext4.Options) {}), "a/b: extended attribute user.x of 4041 bytes does not fit"},
		{xattr(tree.Xattr{Name: "user.x", Value: strings.Repeat("x", 3000)}, tree.Xattr{Name: "user.y", Value: strings.Repeat("x", 1100)}), with(func(o *ext4.Options) {}), "a/b: extended attribute user.y"},
		{xattr(tree.Xattr{Name: "other.x"}), with(func(o *ext4.Options) {}), `a/b: extended attribute "other.x"`},
		{xattr(tree.Xattr{Name: "system.posix_acl_access", Value: "xx"}), with(func(o *ext4.Options) {}), "not an access control list"},
	} {
		_, err := ext4.New(c.tr, c.opt)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q and not %q", err, c.want)
		}
	}
	var full *ext4.FullError
	_, err := ext4.New(one("big", tree.Inode{Mode: tree.Regular, Content: pattern(70 * mib)}), sized(64*mib))
	if !errors.As(err, &full) || full.Need < 70*mib || full.Need > 80*mib || full.Free > 64*mib || full.Free < 50*mib || full.Size != 64*mib {
		t.Errorf("%+v", full)
	}
}

func TestFullErrorIsAccurate(t *testing.T) {
	many := tree.New(modTime)
	names(t, many, "d/%d", 50_000)
	for name, tr := range map[string]*tree.Tree{"nothing": nil, "everything": everything(t), "names": many} {
		size := minSize(t, tr, options)
		path := write(t, build(t, tr, sized(size)))
		fsck(t, path)
		if name == "names" {
			continue // groups have so many inodes at most
		}
		if _, err := ext4.New(tr, sized(size-2*mib)); size > 3*mib && err == nil {
			t.Errorf("%s: %d bytes would have been enough, and not only %d", name, size-2*mib, size)
		}
	}
}
